"""Segmentation of photographs of any size, from Python and from the shell."""

import functools
import pathlib

import cv2
import jax
import numpy as np
import pytest
from flax import nnx

from massformer_jax import predict
from massformer_jax.classes import CLASSES
from massformer_jax.data.images import decode_mask
from massformer_jax.errors import InputError
from massformer_jax.inference import protocol
from massformer_jax.inference.protocol import network_size
from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.models.build import model_graph
from massformer_jax.models.massformer import normalize
from massformer_jax.models.weights import Weights, load_weights
from massformer_jax.training.checkpoint import Checkpoints
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import init_state
from tests.helpers import release, tiny_config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Random weights, saved as the best of a run."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config.get_config()
    architecture = config.architecture.to_dict()
    optimizer = recipe_optimizer(**config.optimizer, total_steps=1)
    init = functools.partial(init_state, architecture=architecture, optimizer=optimizer)
    state = jax.jit(init)(jax.random.key(0, impl="unsafe_rbg"))
    with Checkpoints(folder, architecture, every=1) as checkpoints:
        checkpoints.save_best(state, 0.5)
    return folder


@pytest.fixture(scope="module")
def segmenter(workdir):
    return Segmenter.load(workdir)


def photograph(height, width, seed=0):
    """Smooth colours with noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (5, 5, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("size", [(256, 256), (300, 500), (1, 1), (257, 40)])
def test_any_size(segmenter, size):
    image = photograph(*size)
    labels, scores = segmenter.predict(image), segmenter.scores(image)
    assert labels.shape == size and labels.dtype == np.uint8
    assert scores.shape == (*size, 7) and scores.dtype == np.float32
    assert scores.min() >= 0
    np.testing.assert_array_equal(labels, scores.argmax(-1))
    assert segmenter.classes == CLASSES


def test_padding_is_not_in_the_answer(segmenter, workdir):
    """Padded by hand with the last row and column, and cropped, the answer is the same."""
    image = photograph(200, 250)
    padded = np.pad(image, ((0, 56), (0, 6), (0, 0)), mode="edge")
    np.testing.assert_allclose(
        segmenter.scores(image), segmenter.scores(padded)[:200, :250], rtol=0, atol=1e-6
    )


def test_equals_the_network_where_nothing_is_padded(workdir, segmenter):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    weights = load_weights(workdir, device)
    graph = model_graph(weights.architecture, training=False)
    image = photograph(256, 512)

    @jax.jit
    def scores(params, batch_stats, images):
        model = nnx.merge(graph, params, batch_stats, copy=True)
        return release.class_scores(model(normalize(images)))[0]

    expected = scores(weights.params, weights.batch_stats, image[None])
    np.testing.assert_allclose(segmenter.scores(image), expected, rtol=0, atol=1e-6)


def test_released_weights_give_the_released_label_map():
    """The whole way from bytes to labels, also at the size of the release's resized scores."""
    _, params, stats = release.released_weights("r18_lite", 3, training=False)
    weights = Weights(0, release.model_kwargs("r18_lite"), CLASSES, params, stats)
    folder = release.PARITY / "infer_lite_256x512"
    image = release.read_rgb(folder / "image.png")
    labels = Segmenter(weights).predict(image)
    assert (labels == release.read_labels(folder / "prediction.png")).mean() >= 0.9999


@pytest.mark.parametrize(
    ("resolution", "size", "expected"),
    [
        ("native", (1080, 1620), (1080, 1620)),
        ("release", (1080, 1620), (2731, 4096)),
        ("release", (6000, 8000), (3072, 4096)),
        ("512x768", (1024, 1024), (512, 512)),
        ("512x768", (100, 300), (256, 768)),
    ],
)
def test_network_size(resolution, size, expected):
    assert network_size(*size, resolution) == expected


def test_resolution_changes_the_network_s_view_not_the_answer_s_size(workdir):
    image = photograph(300, 500)
    small = Segmenter.load(workdir, resolution="256x256")
    assert small.predict(image).shape == (300, 500)
    with pytest.raises(InputError, match=r"'4k'.*native"):
        Segmenter.load(workdir, resolution="4k")


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)],
)
def test_wrong_arrays(segmenter, image):
    with pytest.raises(InputError, match="uint8"):
        segmenter.predict(image)


def test_command(workdir, tmp_path, capsys, segmenter):
    """A folder and a file; masks of the original size in the palette; overlays."""
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.jpg"), photograph(290, 500))
    cv2.imwrite(str(folder / "b.JPG"), photograph(300, 490))
    (folder / "notes.txt").write_text("no photograph")
    cv2.imwrite(str(tmp_path / "c.png"), photograph(256, 256))
    output = tmp_path / "masks" / "new"
    status = predict.main(
        [
            *("--checkpoint", str(workdir), "--output", str(output), "--overlay"),
            *(str(folder), str(tmp_path / "c.png")),
        ]
    )
    assert status == 0
    names = {p.name for p in output.iterdir()}
    assert names == {f"{s}{end}" for s in "abc" for end in (".png", "_overlay.jpg")}
    mask = decode_mask(output / "c.png")
    np.testing.assert_array_equal(mask, segmenter.predict(photograph(256, 256)))
    assert decode_mask(output / "b.png").shape == (300, 490)
    assert cv2.imread(str(output / "b_overlay.jpg")).shape == (300, 490, 3)
    printed = capsys.readouterr()
    assert printed.out.count("->") == 3
    # Two photographs of one padded size are waited for once.
    first, _, second, _ = printed.err.splitlines()
    assert first == "preparing the network for up to 512x512 pixels…"
    assert second == "preparing the network for up to 256x256 pixels…"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", {}),
        ("--resolution release", {"resolution": "release"}),
        ("--window 512x768 --stride 256", {"window": "512x768", "stride": "256"}),
        ("--window 512 --blend smooth", {"window": "512", "blend": "smooth"}),
        ("--tta", {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "flip": True}),
        ("--tta --scales 1,1.5", {"scales": (1.0, 1.5), "flip": True}),
        ("--scales 0.5", {"scales": (0.5,)}),
        ("--flip", {"flip": True}),
    ],
)
def test_flags_of_the_protocol(monkeypatch, tmp_path, flags, expected):
    """They reach the segmenter, as the settings of the Python interface."""
    photo = tmp_path / "a.jpg"
    cv2.imwrite(str(photo), photograph(20, 20))
    seen = []

    def load(directory, *, dtype, devices, **settings):
        seen.append(protocol.Protocol(**settings))
        raise InputError("enough")

    monkeypatch.setattr(Segmenter, "load", load)
    command = ["--checkpoint", "x", "--output", str(tmp_path / "out"), *flags.split(), str(photo)]
    assert predict.main(command) == 2
    assert seen == [protocol.Protocol(**expected)]


def test_a_bad_photograph_does_not_stop_the_others(workdir, tmp_path, capsys):
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    cv2.imwrite(str(good), photograph(256, 256))
    bad.write_bytes(good.read_bytes()[:-400])
    arguments = ["--checkpoint", str(workdir), "--output", str(tmp_path / "out")]
    assert predict.main([*arguments, str(bad), str(good)]) == 1
    error, *waits = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and "bad.jpg" in error
    assert [line[0] for line in waits] == ["p", "…"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.png"]
    assert predict.main([*arguments, str(bad)]) == 2


def test_command_errors(workdir, tmp_path, capsys):
    photo = tmp_path / "a.jpg"
    cv2.imwrite(str(photo), photograph(256, 256))
    (tmp_path / "other").mkdir()
    cv2.imwrite(str(tmp_path / "other" / "a.png"), photograph(256, 256))
    (tmp_path / "empty").mkdir()
    output = tmp_path / "out"
    for arguments, named in (
        ([str(workdir), str(tmp_path / "nowhere.jpg")], "nowhere.jpg"),
        ([str(workdir), str(tmp_path / "empty")], "empty"),
        ([str(workdir), str(photo), str(tmp_path / "other" / "a.png")], "a.png"),
        ([str(tmp_path / "empty"), str(photo)], "no checkpoint"),
        ([str(workdir), str(photo), "--window", "64x"], "window is '64x'"),
        ([str(workdir), str(photo), "--scales", "1;2"], "--scales is '1;2'"),
    ):
        command = ["--checkpoint", arguments[0], "--output", str(output), *arguments[1:]]
        assert predict.main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and named in error
    assert not pathlib.Path(output).exists()
