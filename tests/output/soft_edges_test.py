"""The files of several formats of one photograph, from the scores of a network."""

import pathlib

import cv2
import numpy as np
from PIL import Image

from massformer_jax.classes import PALETTE
from massformer_jax.inference.stream import Answer
from massformer_jax.output.formats import Options, parse_groups
from massformer_jax.output.outputs import Outputs

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
