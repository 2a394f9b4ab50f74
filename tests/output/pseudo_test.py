"""Pseudo labels of a model and of masks, alone and painted over exact labels."""

import cv2
import numpy as np
import pytest

from massformer_jax.data.images import decode_mask
from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.output import pseudo
from massformer_jax.output.pseudo_labels import encode_grey, pseudo_labels
from tests.helpers.fake_segmenter import FakeSegmenter

# The stand-in's scores are 2 and six times 0.002: it is sure by 0.994.
RED, BLUE = 1, 5


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Two photographs, left red and right blue, and exact labels of 3 everywhere."""
    monkeypatch.setattr(Segmenter, "load", lambda *args, **kwargs: FakeSegmenter())
    folder = tmp_path / "photographs"
    for name in ("a", "trip/b"):
        image = np.zeros((32, 48, 3), np.uint8)
        image[:, :24, 2], image[:, 24:, 0] = 200, 200  # OpenCV has blue first
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        exact = tmp_path / "exact" / f"{name}.png"
        exact.parent.mkdir(parents=True, exist_ok=True)
        exact.write_bytes(encode_grey(np.full((32, 48), 3, np.uint8)))
    return folder


def run(*arguments):
    return pseudo.main([str(x) for x in arguments])


def test_by_definition():
    probabilities = np.array([[[0.95, 0.0], [0.6, 0.1], [0.05, 0.03], [0.0, 0.9]]])
    assert pseudo_labels(probabilities, (7, 8), 0.9).tolist() == [[7, 255, 255, 8]]
    exact = np.array([[0, 1, 2, 255]], np.uint8)
    assert pseudo_labels(probabilities, (7, 8), 0.9, exact).tolist() == [[7, 255, 2, 8]]
    # Split from class 0: other exact labels stay, and what was unknown may become known.
    assert pseudo_labels(probabilities, (7, 8), 0.9, exact, 0).tolist() == [[7, 1, 2, 8]]
    assert pseudo_labels(probabilities, (7, 8), 0.9, exact, 1).tolist() == [[0, 255, 2, 8]]


def test_of_a_model(photographs, tmp_path):
    output = tmp_path / "out"
    assert run("--checkpoint", "x", "--output", output, photographs) == 0
    for name in ("a", "trip/b"):
        labels = decode_mask(output / f"{name}.png")
        assert (labels[:, :24] == RED).all() and (labels[:, 24:] == BLUE).all()
    arguments = ["--checkpoint", "x", "--confidence", 0.999, "--output", output, photographs]
    assert run("--overwrite", *arguments) == 0
    assert (decode_mask(output / "a.png") == 255).all()


def test_of_some_classes_onto_exact_labels(photographs, tmp_path):
    output, exact = tmp_path / "out", tmp_path / "exact"
    arguments = ["--checkpoint", "x", "--classes", "person=7", "--output", output]
    assert run(*arguments, "--onto", exact, photographs) == 0
    labels = decode_mask(output / "trip" / "b.png")
    assert (labels[:, :24] == 7).all() and (labels[:, 24:] == 3).all()
    assert run("--overwrite", *arguments, photographs) == 0
    labels = decode_mask(output / "a.png")
    assert (labels[:, :24] == 7).all() and (labels[:, 24:] == 255).all()


def test_one_damaged_label_map_does_not_stop_the_others(photographs, tmp_path, capsys):
    output, exact = tmp_path / "out", tmp_path / "exact"
    (exact / "a.png").write_bytes((exact / "a.png").read_bytes()[:40])
    arguments = ["--checkpoint", "x", "--classes", "person=7", "--output", output]
    assert run(*arguments, "--onto", exact, photographs) == 1
    assert f"error: {exact / 'a.png'}" in capsys.readouterr().err
    assert [path.name for path in output.rglob("*.png")] == ["b.png"]


@pytest.mark.parametrize("of", ["model", "masks"])
def test_label_maps_that_are_there_stay(photographs, tmp_path, capsys, of):
    exact, masks, there = tmp_path / "exact", tmp_path / "masks", tmp_path / "out" / "a.png"
    there.parent.mkdir()
    there.write_bytes(b"corrected")
    masks.mkdir()
    arguments = {
        "model": ["--checkpoint", "x", photographs],
        "masks": ["--masks", f"7={masks}", "--onto", exact],
    }
    assert run(*arguments[of], "--output", there.parent) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {there} is there already") and error.count("\n") == 1
    assert there.read_bytes() == b"corrected"
    assert run(*arguments[of], "--output", there.parent, "--overwrite") == 0
    assert there.read_bytes() != b"corrected"


def test_of_masks(photographs, tmp_path, capsys):
    """Soft ones, for one of the two photographs; the other keeps its exact labels."""
    output, exact, masks = tmp_path / "out", tmp_path / "exact", tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros((32, 48), np.uint8)
    mask[:, :10], mask[:, 10:20] = 255, 128
    (masks / "a.png").write_bytes(encode_grey(mask))
    assert run("--masks", f"7={masks}", "--onto", exact, "--output", output) == 0
    labels = decode_mask(output / "a.png")
    assert [np.unique(labels[:, x]).tolist() for x in (0, 10, 20)] == [[7], [255], [3]]
    assert (decode_mask(output / "trip" / "b.png") == 3).all()
    assert "1 without a mask of 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "{0}/out"], "name a --checkpoint and photographs"),
        (["--masks", "7={0}/exact", "--output", "{0}/out"], "--masks needs --onto"),
        (["--masks", "{0}/exact", "--onto", "{0}/exact", "--output", "{0}/out"], "LABEL=FOLDER"),
        (["--masks", "7={0}/exact", "--onto", "{0}/no", "--output", "{0}/out"], "is no folder"),
        (
            ["--masks", "7={0}/exact", "--onto", "{0}/exact", "--output", "{0}/exact"],
            "written over",
        ),
        (["--checkpoint", "x", "--confidence", "2", "--output", "{0}/out", "{0}"], "--confidence"),
        (
            ["--checkpoint", "x", "--classes", "cat=7", "--output", "{0}/out", "{0}/photographs"],
            "there is no class 'cat'",
        ),
        (
            [
                "--checkpoint",
                "x",
                "--classes",
                "sky=7,sky=8",
                "--output",
                "{0}/o",
                "{0}/photographs",
            ],
            "sky is named twice",
        ),
        (
            [
                "--masks",
                "7={0}",
                "--masks",
                "7={0}/exact",
                "--onto",
                "{0}/exact",
                "--output",
                "{0}/o",
            ],
            "--masks names 7 twice",
        ),
        (
            ["--checkpoint", "x", "--onto", "{0}/masks", "--output", "{0}/o", "{0}/photographs"],
            "there is no label map",
        ),
    ],
)
def test_what_is_wrong_is_one_line(photographs, tmp_path, capsys, arguments, words):
    (tmp_path / "masks").mkdir()
    assert run(*(x.format(tmp_path) for x in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error


def test_masks_of_ones_are_refused(photographs, tmp_path, capsys):
    """Grey values are probabilities: 1 of 255 would be hardly one."""
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a.png").write_bytes(encode_grey(np.eye(32, 48, dtype=np.uint8)))
    arguments = ["--onto", tmp_path / "exact", "--output", tmp_path / "out"]
    assert run("--masks", f"7={masks}", *arguments) == 2
    assert "save 0 and 255" in capsys.readouterr().err
