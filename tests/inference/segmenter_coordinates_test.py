"""A checkpoint of a CoordFormer, from Python and from the shell."""

import pathlib

import cv2
import numpy as np
import pytest

from massformer_jax import predict
from massformer_jax.convert import __main__ as convert
from massformer_jax.data.images import decode_mask
from massformer_jax.errors import InputError
from massformer_jax.inference import alpha, coordinate_network
from massformer_jax.inference import segmenter as segmenter_module
from massformer_jax.inference.parts import Rectangle
from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.inference.stream import TooLargeError
from massformer_jax.inference.ways_to_ask import every_pixel
from massformer_jax.models.build import model_graph
from massformer_jax.models.weights import Weights
from tests.helpers import fake_segmenter, stand_in, tiny_coordformer
from tests.inference.asking_test import scene

PHOTOGRAPH = scene(1)
HEIGHT, WIDTH = PHOTOGRAPH.shape[:2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_coordformer.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def segmenter(checkpoint):
    return Segmenter.load(checkpoint)


@pytest.fixture(scope="module")
def labels(segmenter):
    return segmenter.predict(PHOTOGRAPH)


def test_labels_equal_every_pixel(segmenter, labels):
    found = every_pixel(segmenter._asker.about(PHOTOGRAPH), PHOTOGRAPH)
    np.testing.assert_array_equal(labels, found.answers)
    assert np.bincount(labels.reshape(-1)).min() > 50


def test_many_photographs_of_all_sizes_have_two_programs(segmenter, labels):
    """Scores, labels and questions share them."""
    photographs = [PHOTOGRAPH, PHOTOGRAPH[:9, :20], PHOTOGRAPH[:, :16]]
    first, *others = segmenter.predict_many(photographs)
    np.testing.assert_array_equal(first, labels)
    assert [x.shape for x in others] == [(9, 20), (37, 16)]
    np.testing.assert_array_equal(segmenter.scores(PHOTOGRAPH).argmax(-1), labels)
    programs = segmenter._asker._memory, segmenter._asker._logits
    graph = model_graph(tiny_coordformer.TINY, training=False)
    (used,) = {
        coordinate_network._programs(graph, "float32", mesh)
        for mesh in [segmenter._weights[0]["decoder"]["bn"]["scale"].sharding.mesh]
    }
    assert used == programs
    assert [program._cache_size() for program in programs] == [1, 1]
    # One more for questions of few coordinates, and one for those between pixels.
    segmenter.ask(PHOTOGRAPH, [(1, 2), (3, 4)])
    segmenter.grown(PHOTOGRAPH[:30, :50], (3, 4))
    segmenter.ask(PHOTOGRAPH[:31], [(1.5, 2.0)])
    segmenter.region(PHOTOGRAPH, (1, 2, 3, 4), step=0.5)
    assert [program._cache_size() for program in programs] == [1, 3]


def test_ask(segmenter, labels):
    places = np.array([[0, 0], [52, 36], [20, 7], [3, 30]])
    found = segmenter.ask(PHOTOGRAPH, places)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, labels[places[:, 1], places[:, 0]])
    scores = segmenter.ask(PHOTOGRAPH, places.tolist(), scores=True)
    assert scores.dtype == np.float32 and scores.shape == (4, 3)
    expected = segmenter.scores(PHOTOGRAPH)[places[:, 1], places[:, 0]]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    # The same places as floats, and two between pixels.
    as_floats = segmenter.ask(PHOTOGRAPH, places.astype(np.float32), scores=True)
    np.testing.assert_allclose(as_floats, expected, atol=1e-5)
    between = segmenter.ask(PHOTOGRAPH, [(20.5, 7.0), (20.999, 7.0)], scores=True)
    beside = segmenter.ask(PHOTOGRAPH, [(20, 7), (21, 7)], scores=True)
    assert np.abs(between[0] - beside).max(-1).min() > 1e-4
    np.testing.assert_allclose(between[1], beside[1], atol=0.02)
    assert segmenter.ask(PHOTOGRAPH, []).shape == (0,)
    assert segmenter.ask(PHOTOGRAPH, np.zeros((0, 2)), scores=True).shape == (0, 3)


def test_the_encoder_sees_a_photograph_once(segmenter, monkeypatch):
    seen = []
    memory = segmenter._asker._memory
    monkeypatch.setattr(segmenter._asker, "_last", None)
    monkeypatch.setattr(
        segmenter._asker, "_memory", lambda *x: seen.append(x[-1].shape) or memory(*x)
    )
    other = np.ascontiguousarray(PHOTOGRAPH[::-1])
    found = [segmenter.ask(image, [(2, 5)]) for image in (PHOTOGRAPH, PHOTOGRAPH, other)]
    assert seen == [(1, 64, 64, 3)] * 2
    np.testing.assert_array_equal(found[2], segmenter.predict(other)[5, 2:3])


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([(53, 0)], r"^\(53, 0\) is not in the photograph, which has 53x37 pixels$"),
        ([(0, 0), (1.5, -0.6)], r"^\(1.5, -0.6\) is not in"),
        ([(np.nan, 0.0)], r"^\(nan, 0\) is not in"),
        ([1, 2], r"shape \(2,\) and dtype int64; pass numbers \[n, 2\]"),
        ([(1, 2), (3,)], r"shape \(\)"),
        ([("a", "b")], r"dtype <U1"),
    ],
)
def test_wrong_coordinates_are_refused(segmenter, places, said):
    with pytest.raises(InputError, match=said):
        segmenter.ask(PHOTOGRAPH, places)


def test_region(segmenter, labels):
    found = segmenter.region(PHOTOGRAPH, (20, 5, 53, 16))
    np.testing.assert_array_equal(found, labels[5:16, 20:53])
    found = segmenter.region(PHOTOGRAPH, (0, 0, WIDTH, HEIGHT), step=8)
    np.testing.assert_array_equal(found, labels[::8, ::8])
    fine = segmenter.region(PHOTOGRAPH, (1, 2, 4, 4), step=0.5, scores=True)
    assert fine.shape == (4, 6, 3)
    np.testing.assert_array_equal(fine[::2, ::2].argmax(-1), labels[2:4, 1:4])
    for wrong in ((5, 5, 5, 9), (0, 0, np.nan, 3), (1, 2, 3), [(1, 2), (3,)], "abcd"):
        with pytest.raises(InputError, match=r"^the box is .*; pass \(left, top, right, bottom\)"):
            segmenter.region(PHOTOGRAPH, wrong)
    for wrong in ((-1, 0, 3, 3), (0, 0, WIDTH + 1, 3)):
        with pytest.raises(InputError, match="is not in the photograph"):
            segmenter.region(PHOTOGRAPH, wrong)
    with pytest.raises(InputError, match="step is 0; it must be at least 1/64"):
        segmenter.region(PHOTOGRAPH, (0, 0, 3, 3), step=0)


def test_grown(segmenter, labels):
    found = segmenter.grown(PHOTOGRAPH, (20, 7))
    _, parts = cv2.connectedComponents((labels == labels[7, 20]).astype(np.uint8), connectivity=4)
    np.testing.assert_array_equal(found, parts == parts[7, 20])
    for wrong in ((99, 7), (2.5, 7), 5, []):
        with pytest.raises(InputError, match=r"not in the photograph|is no pixel|pass numbers"):
            segmenter.grown(PHOTOGRAPH, wrong)


def test_alpha_is_that_of_its_probabilities(segmenter, monkeypatch):
    """With a stand-in for the coverage, which takes long to compile."""
    monkeypatch.setattr(segmenter_module, "coverage", fake_segmenter.coverage)
    found = segmenter.alpha(PHOTOGRAPH, "tree+rock")
    np.testing.assert_allclose(found, segmenter.scores(PHOTOGRAPH)[..., 1:].sum(-1), atol=1e-6)
    assert found.min() < 0.2 and found.max() > 0.8


def test_a_segmenter_tells_its_family(segmenter, checkpoint):
    assert repr(segmenter).startswith("<Segmenter: CoordFormer, 0.0 M parameters, 3 classes (sky,")
    asking = Segmenter.load(checkpoint, ask="sefi,stride=4")
    assert repr(asking).endswith("float32, ask='sefi,stride=4'>")
    assert asking.size_remark([(9000, 9000)]) == ""


def test_a_lack_of_memory_names_what_helps(segmenter, monkeypatch):
    def lacking(*_):
        raise MemoryError

    monkeypatch.setattr(segmenter, "_labels", lacking)
    with pytest.raises(TooLargeError, match="compute in bfloat16") as caught:
        segmenter.predict(PHOTOGRAPH)
    assert predict._advised(pathlib.Path("a.jpg"), caught.value).endswith("bfloat16, with --dtype")


def test_files_of_two_sizes(checkpoint, segmenter, tmp_path, capsys, monkeypatch):
    for name in ("coverage", "foreground"):
        monkeypatch.setattr(alpha, name, getattr(fake_segmenter, name))
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    images = {"a": PHOTOGRAPH, "b": np.ascontiguousarray(PHOTOGRAPH[:20, :31])}
    for name, image in images.items():
        cv2.imwrite(str(photos / f"{name}.png"), image[..., ::-1])
    command = ["--checkpoint", checkpoint, "--output", str(out), str(photos)]
    assert predict.main(command) == 0, capsys.readouterr().err
    for name, image in images.items():
        np.testing.assert_array_equal(decode_mask(out / f"{name}.png"), segmenter.predict(image))
    formats = "labels,overlay,cutout,probabilities"
    assert predict.main([*command, "--ask", "sefi,stride=4", "--write", formats]) == 0
    assert len(list(out.iterdir())) > 6
    asked = Segmenter.load(checkpoint, ask="sefi,stride=4").predict(PHOTOGRAPH)
    np.testing.assert_array_equal(decode_mask(out / "a.png"), asked)


def test_a_part_of_each_photograph(checkpoint, segmenter, labels, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), PHOTOGRAPH[..., ::-1])
    cv2.imwrite(str(photos / "small.png"), PHOTOGRAPH[:9, :9])
    command = ["--checkpoint", checkpoint, "--output", str(out), str(photos)]
    region = ["--region", "20,10,44,30", "--write", "labels,overlay,probabilities"]
    assert predict.main([*command, *region]) == 1
    error = capsys.readouterr().err
    assert f"{photos / 'small.png'}: (20, 10) is not in the photograph" in error
    np.testing.assert_array_equal(decode_mask(out / "a.png"), labels[10:30, 20:44])
    assert not (out / "small.png").exists()

    assert predict.main([*command, "--region", "20,10,26,15,0.5"]) == 1
    finer = segmenter.region(PHOTOGRAPH, (20, 10, 26, 15), step=0.5)
    np.testing.assert_array_equal(decode_mask(out / "a.png"), finer)

    assert predict.main([*command, "--click", "20,30", "--write", "labels,overlay"]) == 1
    selected = segmenter.grown(PHOTOGRAPH, (20, 30))
    assert 50 < selected.sum() < (labels == labels[30, 20]).sum()
    expected = np.where(selected, labels[30, 20], 255)
    np.testing.assert_array_equal(decode_mask(out / "a.png"), expected)


def test_a_rectangle_shows_what_lies_there():
    np.testing.assert_array_equal(Rectangle((3, 4, 9, 8)).of(PHOTOGRAPH), PHOTOGRAPH[4:8, 3:9])
    twice = Rectangle((3, 4, 9, 8), 0.5).of(PHOTOGRAPH).astype(float)
    assert twice.shape == (8, 12, 3)
    between = PHOTOGRAPH[4:8, 3:9].astype(float) / 2 + PHOTOGRAPH[4:8, 4:10] / 2
    np.testing.assert_allclose(twice[::2, 1::2], between, atol=0.5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--region", "1,2,3"], "--region is '1,2,3'; use LEFT,TOP,RIGHT,BOTTOM"),
        (["--click", "1.5,2"], "--click is '1.5,2'; use column and row: 812,1033"),
        (["--click", "here"], "--click is 'here'; use column and row: 812,1033"),
        (["--click", "1,2", "--ask", "sefi"], "--ask is of whole photographs; --region and"),
        (["--region", "1,2,3,4", "--ask", "stride=8"], "--ask is of whole photographs; --region"),
        (["--click", "1,2", "--smooth"], "--region and --click are of photographs alone; leave"),
        (["--click", "1,2", "--write", "probabilities"], "a click has labels, and no scores"),
        (["--ask", "edges"], "ask is 'edges'; use every, sefi, entropy, or stride=8"),
        (["--ask", "sefi", "--window", "512"], "window is '512', and the network is a CoordFormer"),
        (["--flip"], "flip is True, and the network is a CoordFormer"),
    ],
)
def test_wrong_flags_are_one_line(checkpoint, tmp_path, capsys, flags, said):
    photo, out = tmp_path / "a.png", tmp_path / "out"
    cv2.imwrite(str(photo), PHOTOGRAPH)
    command = ["--checkpoint", checkpoint, "--output", str(out), *flags, str(photo)]
    assert predict.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and error.count("\n") == 1
    assert not out.exists()


def test_other_networks_are_not_asked(monkeypatch):
    monkeypatch.setattr(segmenter_module, "model_graph", lambda *_, **__: stand_in.GRAPH)
    weights = Weights(0, {"classes": 3}, ("a", "b", "c"), {}, {})
    with pytest.raises(InputError, match=r"^ask is 'sefi', and the network is a MaSSFormer"):
        Segmenter(weights, ask="sefi")
    other = Segmenter(weights)
    asked = (
        lambda: other.ask(PHOTOGRAPH, []),
        lambda: other.region(PHOTOGRAPH, (0, 0, 2, 2)),
        lambda: other.grown(PHOTOGRAPH, (1, 1)),
    )
    for ask in asked:
        with pytest.raises(InputError, match="need the weights of a CoordFormer"):
            ask()


def test_what_does_not_work_is_one_line(checkpoint, tmp_path, capsys):
    to_torch = ["--to-torch", "--input", checkpoint, "--output", str(tmp_path / "a.safetensors")]
    assert convert.main(to_torch) == 2
    error = capsys.readouterr().err
    assert "CoordFormer" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
