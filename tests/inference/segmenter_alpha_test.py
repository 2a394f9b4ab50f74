"""`Segmenter.alpha`: photographs and classes as callers name them."""

import cv2
import numpy as np
import pytest
from PIL import Image

from massformer_jax.classes import CLASSES
from massformer_jax.errors import InputError
from massformer_jax.inference.alpha import coverage
from tests.helpers.fake_segmenter import BLUE, GREEN, RED, FakeSegmenter

COLOURS = np.array([[200, 20, 20], [20, 200, 20], [20, 20, 200]], np.uint8)


@pytest.fixture(scope="module")
def image():
    """A photograph of a red, a green and a blue part, which meet in mixed pixels."""
    parts = COLOURS[np.repeat([0, 1, 2], 22)]
    return cv2.GaussianBlur(np.repeat(parts[None], 50, 0), (0, 0), 0.7)


def test_it_is_the_coverage_of_the_scores(image):
    segmenter = FakeSegmenter()
    found = segmenter.alpha(image, "sky")
    assert found.dtype == np.float32 and found.shape == image.shape[:2]
    np.testing.assert_array_equal(found, coverage(segmenter.scores(image), image, [BLUE]))
    # The columns where red meets green, 22 pixels away, look a little like blue.
    assert found[:, :19].max() == 0 and found[:, -10:].min() == 1
    assert ((found > 0) & (found < 1)).any()
    found += 1  # writable


def test_ways_to_name_a_union(image):
    segmenter = FakeSegmenter()
    expected = coverage(segmenter.scores(image), image, [RED, GREEN])
    unions = ("person+tree", "3 + person", ["person", "tree"], [1, "tree"], np.array([1, 3]))
    for union in (*unions, ("person", "tree+person")):
        np.testing.assert_array_equal(segmenter.alpha(image, union), expected, err_msg=str(union))
    np.testing.assert_array_equal(segmenter.alpha(image, BLUE), segmenter.alpha(image, "sky"))


def test_a_class_whose_name_holds_a_plus(image):
    segmenter = FakeSegmenter()
    segmenter.classes = (*CLASSES[:5], "sky+clouds", CLASSES[6])
    expected = coverage(segmenter.scores(image), image, [BLUE])
    np.testing.assert_array_equal(segmenter.alpha(image, "sky+clouds"), expected)


def test_paths_and_pil_images(image, tmp_path):
    Image.fromarray(image).save(tmp_path / "photograph.png")
    segmenter = FakeSegmenter()
    expected = segmenter.alpha(image, "sky")
    for photograph in (tmp_path / "photograph.png", Image.fromarray(image)):
        np.testing.assert_array_equal(segmenter.alpha(photograph, "sky"), expected)


@pytest.mark.parametrize(
    ("union", "message"),
    [
        ("skyy", r"there is no class 'skyy'; did you mean sky\?"),
        ("sky+", "there is no class ''"),
        (7, "there is no class 7; labels are 0 to 6"),
        (-1, "there is no class -1; labels are 0 to 6"),
        ([], "classes is empty"),
        (2.5, "classes is 2.5; pass names or labels"),
    ],
)
def test_what_is_no_class_is_refused(image, union, message):
    with pytest.raises(InputError, match=message):
        FakeSegmenter().alpha(image, union)
