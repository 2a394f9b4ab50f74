"""Segmentation of photographs of any size, from Python and from the shell."""

import io
import pathlib
import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

from massformer_jax import predict
from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.data.images import decode_mask, encode_mask
from massformer_jax.data.photographs import READ
from massformer_jax.errors import InputError
from massformer_jax.inference import protocol
from massformer_jax.inference.image_pixels import pixels_of
from massformer_jax.inference.protocol import Protocol, network_size
from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.inference.stream import TooLargeError
from massformer_jax.models.build import model_graph
from massformer_jax.models.massformer import normalize
from massformer_jax.models.weights import Weights, load_weights
from massformer_jax.output import outputs
from massformer_jax.training.checkpoint import Checkpoints
from tests.helpers import release
from tests.helpers.tiny_weights import TINY, tiny_train_state

DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Random weights, saved as the best of a run."""
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder, TINY, every=1) as checkpoints:
        checkpoints.save_best(tiny_train_state(optax.identity()), 0.5)
    return folder


@pytest.fixture(scope="module")
def segmenter(workdir):
    return Segmenter.load(workdir)


def photograph(height, width, seed=0):
    """Smooth colours with noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (5, 5, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


SLOW = pytest.mark.slow  # compiles for some twenty seconds


@pytest.mark.parametrize(
    "size",
    [(256, 256), pytest.param((300, 500), marks=SLOW), (1, 1), pytest.param((257, 40), marks=SLOW)],
)
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


@SLOW
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
        ("release", (1, 9000), (1, 4096)),
        ("release", (9000, 1), (4096, 1)),
    ],
)
def test_network_size(resolution, size, expected):
    assert network_size(*size, resolution) == expected


@SLOW
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
    cv2.imwrite(str(tmp_path / "c.png"), photograph(256, 256)[..., ::-1])  # from RGB
    output = tmp_path / "masks" / "new"
    status = predict.main(
        [
            *("--checkpoint", str(workdir), "--output", str(output), "--write=labels,overlay"),
            *(str(folder), str(tmp_path / "c.png")),
        ]
    )
    assert status == 0
    names = {p.name for p in output.iterdir()}
    assert names == {f"{s}{end}" for s in "abc" for end in (".png", "_overlay.jpg")}
    mask = decode_mask(output / "c.png")
    expected = segmenter.predict(photograph(256, 256))
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(mask, expected)
    assert decode_mask(output / "b.png").shape == (300, 490)
    assert cv2.imread(str(output / "b_overlay.jpg")).shape == (300, 490, 3)
    printed = capsys.readouterr()
    assert printed.out.count("->") == 3
    # Two photographs of one padded size are waited for once.
    left_out, first, _, second, _, summary = printed.err.splitlines()
    assert summary.startswith("3 photographs done in ")
    assert left_out.startswith(f"{folder}: left out notes.txt; photographs are JPEG, ")
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

    def load(directory, *, step, dtype, devices, **settings):
        seen.append((step, protocol.Protocol(**settings)))
        raise InputError("enough")

    monkeypatch.setattr(Segmenter, "load", load)
    command = ["--checkpoint", "x", "--step", "5", "--output", str(tmp_path / "out")]
    assert predict.main([*command, *flags.split(), str(photo)]) == 2
    assert seen == [(5, protocol.Protocol(**expected))]


def test_a_bad_photograph_does_not_stop_the_others(workdir, tmp_path, capsys):
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    cv2.imwrite(str(good), photograph(256, 256))
    bad.write_bytes(good.read_bytes()[:-400])
    arguments = ["--checkpoint", str(workdir), "--output", str(tmp_path / "out")]
    assert predict.main([*arguments, str(bad), str(good)]) == 1
    *waits, error, summary, failed = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and "bad.jpg" in error
    assert [line[0] for line in waits] == ["p", "…"]
    assert summary.startswith("1 photograph done, 1 failed in ") and failed == f"failed: {bad}"
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
        ([str(workdir), str(photo), "--step", "1"], "no checkpoint of step 1"),
        ([str(workdir), str(photo), "--scales", "1;2"], "--scales is '1;2'"),
    ):
        command = ["--checkpoint", arguments[0], "--output", str(output), *arguments[1:]]
        assert predict.main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and named in error
    assert not pathlib.Path(output).exists()


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A folder with PNG and JPEG photographs; nothing may be computed of them."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("a.png", "b.jpg", "b_overlay.jpg"):
        cv2.imwrite(str(folder / name), photograph(40, 50))
    (tmp_path / "linked").symlink_to(folder)
    monkeypatch.setattr(Segmenter, "load", lambda *_, **__: pytest.fail("too late"))
    return folder


@pytest.mark.parametrize(
    "inputs, output, options, named",
    [
        (["photographs"], "photographs", [], "a.png"),
        (["photographs/a.png"], "photographs", [], "a.png"),
        (["photographs/a.png"], "photographs/../linked", [], "a.png"),
        (["linked"], "photographs", [], "a.png"),
        (
            ["photographs/b.jpg", "photographs/b_overlay.jpg"],
            "linked",
            ["--write=labels,overlay"],
            "b_overlay",
        ),
        # It is not read here, but it is no mask either.
        (["photographs/b.jpg", "other/a.jpg"], "photographs", [], "a.png is there"),
    ],
)
def test_a_photograph_is_never_written_over(photographs, capsys, inputs, output, options, named):
    root = photographs.parent
    (root / "other").mkdir()
    cv2.imwrite(str(root / "other" / "a.jpg"), photograph(40, 50))
    before = {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
    command = ["--checkpoint", "x", "--output", str(root / output), *options]
    assert predict.main([*command, *(str(root / path) for path in inputs)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and named in error
    assert {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()} == before


@pytest.fixture
def quick(monkeypatch):
    """A segmenter that sees class 3 everywhere, in the place of that which a command loads."""
    segmenter = Segmenter.__new__(Segmenter)
    segmenter.classes, segmenter.palette = CLASSES, np.array(PALETTE)
    segmenter._protocol, segmenter._weights, segmenter._accelerated = Protocol(), ((), ()), False
    segmenter._labels = lambda p, s, shown, size: np.full((len(shown), *size), 3, np.uint8)
    monkeypatch.setattr(Segmenter, "load", lambda *_, **__: segmenter)
    return segmenter


def test_older_masks_are_written_over(tmp_path, quick):
    cv2.imwrite(str(tmp_path / "a.jpg"), photograph(40, 50))
    command = ["--checkpoint", "x", "--output", str(tmp_path), str(tmp_path / "a.jpg")]
    assert predict.main(command) == predict.main(command) == 0
    assert (decode_mask(tmp_path / "a.png") == 3).all()


def test_photoshop_files_that_people_may_have_edited_stay(tmp_path, quick, capsys):
    photo, edited = tmp_path / "a.jpg", tmp_path / "out" / "a.psd"
    cv2.imwrite(str(photo), photograph(40, 50))
    edited.parent.mkdir()
    edited.write_bytes(b"edited")
    quick._scores = None  # nothing is computed
    command = ["--checkpoint", "x", "--write", "psd", "--output", str(edited.parent), str(photo)]
    assert predict.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {edited} is there and may have been edited")
    assert error.count("\n") == 1
    assert predict.main(["--skip-existing", *command]) == 0
    assert edited.read_bytes() == b"edited"


def test_photographs_of_other_sizes_than_the_weights_are_meant_for_are_counted(
    tmp_path, quick, capsys
):
    """One line for all of them, at the end; none if the network sees them at another size."""
    for name, size in {"a": (40, 50), "b": (80, 100), "c": (60, 120)}.items():
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), photograph(*size))
    command = ["--checkpoint", "x", "--output", str(tmp_path / "out"), str(tmp_path)]
    assert predict.main(command) == 0
    assert "meant for" not in capsys.readouterr().err
    quick.pictures = (80, 100)
    assert predict.main(command) == 0
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("of 3 photographs the network sees 1 far smaller than the pictures")
    quick._protocol = Protocol(resolution="80x100")
    assert quick.size_remark([(40, 50), (80, 100)]) == ""


def test_what_is_left_out_of_a_folder_is_named(tmp_path, quick, capsys):
    """Hidden files are passed over; a folder with the name of a photograph is a folder."""
    folder = tmp_path / "photographs"
    (folder / "x.jpg").mkdir(parents=True)
    cv2.imwrite(str(folder / "a.jpg"), photograph(40, 50))
    for name in ("b.pdf", "c.JP2", "._a.jpg", ".hidden.png", "d.gif", "a.DNG", "deep/a.nef"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    cv2.imwrite(str(folder / "deep" / "a.png"), photograph(40, 50))
    command = ["--checkpoint", "x", "--output", str(tmp_path / "out")]
    assert predict.main([*command, str(folder)]) == 0
    first, second, summary = capsys.readouterr().err.splitlines()
    assert first == f"{folder}: left out b.pdf, c.JP2, d.gif; photographs are {READ}"
    assert second == f"{folder}: left out a.DNG, deep/a.nef, which are there developed, too"
    assert summary.startswith("2 photographs done in")
    for path in folder.rglob("a.*"):
        path.unlink()
    assert predict.main([*command, str(folder)]) == 2
    assert ") and no video, but b.pdf, c.JP2, d.gif\n" in capsys.readouterr().err


def test_a_link_to_nothing_fails_by_its_name(tmp_path, quick, capsys):
    folder = tmp_path / "photographs"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.jpg"), photograph(40, 50))
    (folder / "b.jpg").symlink_to("nowhere")
    command = ["--checkpoint", "x", "--output", str(tmp_path / "out"), str(folder)]
    assert predict.main(command) == 1
    error, _, failed = capsys.readouterr().err.splitlines()
    assert error == f"error: {folder / 'b.jpg'}: No such file or directory"
    assert failed == f"failed: {folder / 'b.jpg'}"


def nested(folder, sizes):
    """Photographs in nested folders, one folder deeper each."""
    for i, size in enumerate(sizes):
        path = folder.joinpath(*"xyz"[:i]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), photograph(*size))
    return folder


def test_folders_are_mirrored_and_the_output_is_not_read(tmp_path, quick, capsys):
    """Also where the output lies inside, and by a second run."""
    folder = nested(tmp_path / "photographs", [(40, 50), (20, 30)])
    cv2.imwrite(str(folder / "x" / "0.png"), photograph(10, 12))  # an equal name
    command = ["--checkpoint", "x", "--output", str(folder / "masks"), str(folder)]
    for _ in range(2):
        assert predict.main(command) == 0
        sizes = {
            str(path.relative_to(folder / "masks")): decode_mask(path).shape
            for path in (folder / "masks").rglob("*.png")
        }
        assert sizes == {"0.png": (40, 50), "x/0.png": (10, 12), "x/1.png": (20, 30)}
        printed = capsys.readouterr()
        lines = sorted(printed.out.splitlines())  # as they are done, in two threads
        assert re.fullmatch(rf"{folder}/x/1.png -> \S+/x/1.png  \(.+ per minute.*\)", lines[-1])
        assert re.search(r"\(3 of 3, \S+ per minute\)\n$", printed.out)
        assert re.search(r"1 of 3, \S+ per minute, \d+ s left", printed.out)
        waited = "waited \\d+ % for network, \\d+ % for reading, \\d+ % for writing"
        assert re.search(waited, printed.err)


def test_what_exists_is_skipped(tmp_path, quick, capsys):
    """A photograph is skipped if all of its files are there."""
    folder, output = (
        nested(tmp_path / "photographs", [(40, 50), (20, 30), (10, 10)]),
        tmp_path / "o",
    )
    command = ["--checkpoint", "x", "--output", str(output), "--write=labels,overlay"]
    assert predict.main([*command, str(folder)]) == 0
    before = {path: path.read_bytes() for path in output.rglob("*.*")}
    (output / "0.png").unlink()
    (output / "x" / "1_overlay.jpg").unlink()
    (output / "x" / "y" / "2.png").write_bytes(before[output / "x" / "1.png"])
    capsys.readouterr()
    assert predict.main([*command, "--skip-existing", str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("->") == 2 and "2 photographs done, 1 skipped in" in printed.err
    assert (output / "0.png").read_bytes() == before[output / "0.png"]
    # It was there, so it was not looked at.
    assert (output / "x" / "y" / "2.png").read_bytes() == before[output / "x" / "1.png"]
    assert predict.main([*command, "--skip-existing", str(folder)]) == 0
    assert "0 photographs done, 3 skipped in" in capsys.readouterr().err


def test_a_full_disk_ends_the_run(tmp_path, quick, capsys, monkeypatch):
    """What was written stays; the others are not begun."""
    folder = nested(tmp_path / "photographs", [(40, 50), (20, 30)])

    def full(path, data, write=outputs.write_atomically):
        if path.name == "1.png":
            raise OSError(28, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(outputs, "write_atomically", full)
    assert predict.main(["--checkpoint", "x", "--output", str(tmp_path / "o"), str(folder)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/o/x/1.png: No space left on device\n"
    assert [path.name for path in (tmp_path / "o").rglob("*.*")] == ["0.png"]


def test_many_photographs_from_python(quick):
    """Labels come in order, and may be written to; an error comes in its place."""
    images = [photograph(h, 40) for h in (10, 300, 20)]
    for labels, image in zip(quick.predict_many(iter(images)), images, strict=True):
        assert labels.shape == image.shape[:2]
        labels[0, 0] = 1
    found = quick.predict_many([images[0], "nowhere.jpg", images[1]])
    assert next(found).shape == (10, 40)
    with pytest.raises(FileNotFoundError):
        next(found)


@SLOW
def test_together_photographs_have_the_answers_that_they_have_alone(workdir):
    """As on accelerators; two differ in size and not in padded size, and one is a copy."""
    segmenter = Segmenter.load(workdir)
    images = [photograph(200, 250, 1), photograph(256, 130, 2), photograph(90, 256, 3)]
    alone = [segmenter.scores(image) for image in images]
    segmenter._accelerated = True
    for _ in range(2):
        together = [answer.answer for answer in segmenter.answers(images, scores=True)]
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        images, alone = images[:2], alone[:2]  # which then go with a copy


def test_a_segmenter_tells_what_it_is(segmenter):
    assert re.fullmatch(
        r"<Segmenter: MaSSFormer, \d+\.\d M parameters, 7 classes \(background, person, "
        r"building, tree, ground, sky, water\), float32, photographs as they are>",
        repr(segmenter),
    )


def test_photographs_that_differ_in_composition_alone_get_no_common_mask(tmp_path, quick, capsys):
    for i, name in enumerate(("caf\u00e9.jpg", "cafe\u0301.jpg")):
        (tmp_path / str(i)).mkdir()
        cv2.imwrite(str(tmp_path / str(i) / name), photograph(40, 50))
    command = ["--checkpoint", "x", "--output", str(tmp_path / "out")]
    assert predict.main([*command, str(tmp_path / "0"), str(tmp_path / "1")]) == 2
    assert "would both become" in capsys.readouterr().err


def on_accelerators(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.")


def on_cpus(*_):
    raise jax.errors.JaxRuntimeError(
        "INTERNAL: Error dispatching computation: Out of memory allocating 2142616264 bytes."
    )


def no_memory(*_):
    raise MemoryError


def bug(*_):
    raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def pretend(segmenter, small):
    """Makes a segmenter compute class 1, and call `small` of photographs above 256 rows."""

    def labels(params, batch_stats, shown, size):
        return small() if size[0] > 256 else np.ones((len(shown), *size), np.uint8)

    segmenter._labels = segmenter._scores = labels
    return segmenter


@pytest.mark.parametrize("failure", [on_accelerators, on_cpus, no_memory])
def test_a_photograph_that_is_too_large_does_not_stop_the_others(
    workdir, tmp_path, capsys, monkeypatch, failure
):
    segmenter = pretend(Segmenter.load(workdir), failure)
    monkeypatch.setattr(Segmenter, "load", lambda *_, **__: segmenter)
    for name, height in (("a", 260), ("b", 40)):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), photograph(height, 70))
    command = ["--checkpoint", "x", "--output", str(tmp_path / "out"), str(tmp_path)]
    assert predict.main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'a.jpg'}: 260 rows of 70 pixels in one piece need")
    assert "--window" in error.splitlines()[0]
    assert error.splitlines()[-1] == f"failed: {tmp_path / 'a.jpg'}"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.png"]
    with pytest.raises(TooLargeError, match="260 rows of 70"):
        segmenter.scores(photograph(260, 70))


def test_another_failure_of_the_devices_is_a_bug(workdir):
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        pretend(Segmenter.load(workdir), bug).predict(photograph(260, 70))


def test_paths_and_pil_images_are_photographs(workdir, tmp_path):
    """All give the same labels, which may be written to."""
    segmenter, pixels = Segmenter.load(workdir), photograph(200, 250)
    segmenter._labels = lambda params, stats, shown, size: jnp.asarray(shown[..., 0])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        path = tmp_path / "a.png"
        for image in (pixels, str(path), path, opened, jnp.asarray(pixels)):
            labels = segmenter.predict(image)
            np.testing.assert_array_equal(labels, pixels[..., 0])
            labels[0, 0] = 6


def turned(pixels):
    """A photograph that its EXIF tag turns by a quarter."""
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = 6
    return image


@pytest.mark.parametrize(
    "pil, array",
    [
        (lambda x: Image.fromarray(x[..., 0]), lambda x: x[..., :1].repeat(3, 2)),
        (lambda x: Image.fromarray(x).convert("RGBA"), lambda x: x),
        (
            lambda x: Image.fromarray(x[..., 0].astype(np.uint16) * 257),
            lambda x: x[..., :1].repeat(3, 2),
        ),
        (turned, lambda x: np.rot90(x, -1)),
    ],
)
def test_pil_images_are_seen_as_their_files(pil, array, tmp_path):
    image, expected = pil(photograph(30, 40)), array(photograph(30, 40))
    np.testing.assert_array_equal(pixels_of(image), expected)
    image.save(tmp_path / "a.png", exif=image.getexif())
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png"), expected)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(pixels_of(image), expected)


@pytest.mark.parametrize(
    "image, words",
    [
        ([[1, 2], [3, 4]], "a list is no photograph; pass a path"),
        (None, "a NoneType is no photograph"),
        (np.zeros((0, 5, 3), np.uint8), "an image of shape (0, 5, 3)"),
        (Image.fromarray(np.zeros((4, 5), np.float32)), "a PIL image of mode F"),
        (Image.open(io.BytesIO(encode_mask(np.eye(99, dtype=np.uint8))[:-40])), "cannot be read"),
    ],
)
def test_what_is_no_photograph_is_one_clear_error(segmenter, image, words):
    for ask in (segmenter.predict, segmenter.scores):
        with pytest.raises(InputError, match=re.escape(words)):
            ask(image)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"windows": "512"}, "there is no argument 'windows'; use step, dtype, devices, resolu"),
        ({"window": 512}, "window is 512; pass text"),
        ({"scales": 1.5}, "scales is 1.5; pass several numbers"),
        ({"scales": "12"}, "scales is '12'; pass several numbers"),
        ({"flip": "no"}, "flip is 'no'; pass True or False"),
        ({"devices": 0}, "devices is 0, and there are 8"),
    ],
)
def test_wrong_settings_are_one_clear_error(workdir, settings, words):
    with pytest.raises(InputError, match=re.escape(words)):
        Segmenter.load(workdir, **settings)


def test_scales_may_be_a_list(workdir):
    assert Segmenter.load(workdir, scales=[1, 0.5])._protocol.scales == (1.0, 0.5)
    with pytest.raises(InputError, match="no argument 'tta'"):
        Segmenter(load_weights(workdir, DEVICE), tta=True)
