"""The files of several formats of one photograph, from the scores of a network."""

import pathlib

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from massformer_jax import predict
from massformer_jax.classes import PALETTE
from massformer_jax.inference import alpha
from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.inference.stream import Answer, TooLargeError
from massformer_jax.output.formats import Options, parse_groups
from massformer_jax.output.outputs import Outputs
from tests.helpers.fake_segmenter import FakeSegmenter

NAME = pathlib.PurePath("trip/a.png")


def test_soft_edges_and_labels_of_scores(tmp_path):
    """Scores need not add up to 1; the labels are those of the highest."""
    h, w = 64, 80
    front = cv2.GaussianBlur(np.float32([[0] * 40 + [1] * 40] * h), (0, 0), 2)
    image = np.uint8(200 - 150 * front[..., None].repeat(3, 2))
    scores = 2 * np.stack([1 - front, 0.7 * front, 0.3 * front], -1)
    classes = ("sky", "tree", "person")
    groups = parse_groups("tree+person", classes)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    outputs = Outputs(tmp_path / "out", ("labels", "alpha", "cutout"), groups, Options())
    assert outputs.needs_scores
    outputs.write(NAME, Answer(path, image, scores), classes, np.array(PALETTE)[:3])
    labels, alpha, cutout = (np.array(Image.open(path)) for path in outputs.paths(NAME))
    assert [x.shape for x in (labels, alpha, cutout)] == [(h, w), (h, w), (h, w, 4)]
    np.testing.assert_array_equal(labels, scores.argmax(-1))
    assert (alpha[:, :20] == 0).all() and (alpha[:, -20:] == 255).all()
    assert ((alpha > 0) & (alpha < 255)).any()
    np.testing.assert_array_equal(cutout[..., 3], alpha)
    assert not Outputs(tmp_path, ("labels", "overlay"), groups, Options()).needs_scores


@pytest.mark.parametrize("name", ["coverage", "foreground"])
@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 GiB")]
)
def test_a_lack_of_memory_for_soft_edges_does_not_stop_the_others(
    tmp_path, monkeypatch, capsys, name, error
):
    """In the threads that write; windows would not help, and are not advised."""
    of_large, segmenter = getattr(alpha, f"_{name}"), FakeSegmenter()

    def lacking(*arguments):
        if arguments[0].shape[0] > 256:
            raise error
        return of_large(*arguments)

    monkeypatch.setattr(alpha, f"_{name}", lacking)
    monkeypatch.setattr(Segmenter, "load", lambda *_, **__: segmenter)
    for stem, h in (("large", 600), ("small", 32)):
        image = np.zeros((h, 48, 3), np.uint8)
        image[:, :24, 0] = 200
        Image.fromarray(image).save(tmp_path / f"{stem}.png")
    output = tmp_path / "out"
    flags = ["--checkpoint=x", "--write=cutout", "--classes=person", f"--output={output}"]
    assert predict.main([*flags, str(tmp_path)]) == 1
    told = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    words = "the soft edges of 600 rows of 48 pixels need more memory than there is; pass the"
    assert len(told) == 1 and told[0].startswith(f"error: {tmp_path / 'large.png'}: {words}")
    assert "--" not in told[0].partition("; ")[2]
    assert [x.name for x in output.iterdir()] == ["small_person_cutout.png"]
    if name == "coverage":
        with pytest.raises(TooLargeError, match="the soft edges of 600 rows"):
            segmenter.alpha(tmp_path / "large.png", "person")
