"""Pictures show what a label map holds, and refuse values that no label map can hold."""

import numpy as np
import pytest

from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.data.images import decode_image
from massformer_jax.report.overlay import (
    IGNORE_COLOUR,
    colour,
    comparison,
    overlay,
    overlay_jpeg,
)


@pytest.fixture
def scene():
    """A grey photograph whose left third is sky (5), then unlabelled, then water (6)."""
    image = np.full((40, 60, 3), 100, np.uint8)
    labels = np.full((40, 60), 255, np.uint8)
    labels[:, :20] = 5
    labels[:, 40:] = 6
    return image, labels


def test_colours_are_the_palette():
    picture = colour(np.array([[*range(len(CLASSES)), 255]], np.uint8))
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[0, :-1], PALETTE)
    assert tuple(picture[0, -1]) == IGNORE_COLOUR
    assert len(np.unique(picture[0], axis=0)) == len(CLASSES) + 1


@pytest.mark.parametrize("value", [7, 254])
def test_a_value_that_is_no_label_is_named(value):
    labels = np.zeros((3, 4), np.uint8)
    labels[1, 2] = value
    with pytest.raises(ValueError, match=f"value {value}: labels are 0..6 or 255"):
        colour(labels)


def test_overlay_mixes_colour_and_photograph(scene):
    image, labels = scene
    picture = overlay(image, labels, alpha=0.25)
    assert picture.dtype == np.uint8 and picture.shape == image.shape
    assert tuple(picture[10, 10]) == (75, 75, 139)  # 0.75 * 100 + 0.25 * (0, 0, 255), rounded
    assert tuple(picture[10, 50]) == (75, 139, 139)
    assert tuple(picture[10, 30]) == (100, 100, 100)  # unlabelled: the photograph
    assert (image == 100).all()  # its argument is left alone


def test_overlay_draws_one_white_line_where_labels_meet(scene):
    image, labels = scene
    labels[20:, :20] = 6
    white = (overlay(image, labels) == 255).all(axis=2)
    expected = np.zeros_like(white)
    expected[:, 19] = expected[:, 39] = True  # the last column before the change
    expected[19, :20] = True
    np.testing.assert_array_equal(white, expected)


@pytest.mark.parametrize("alpha, shown", [(0.0, (100, 100, 100)), (1.0, (0, 0, 255))])
def test_overlay_ends_of_alpha(scene, alpha, shown):
    image, labels = scene
    assert tuple(overlay(image, labels, alpha)[10, 10]) == shown


def test_overlay_refuses_a_weight_beyond_one(scene):
    image, labels = scene
    with pytest.raises(ValueError, match=r"alpha is 1.5"):
        overlay(image, labels, 1.5)


@pytest.mark.parametrize("width, rows", [(60, 5), (640, 1)])
def test_comparison_shows_the_three_side_by_side(width, rows):
    """This holds also where the picture is narrower than its legend, which then has more rows."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (30, width, 3), dtype=np.uint8)
    truth = np.repeat(random.integers(0, 7, (30, 1), dtype=np.uint8), width, axis=1)
    prediction = truth[::-1].copy()
    picture = comparison(image, truth, prediction)
    assert picture.shape == (30 + 28 * rows, 3 * width + 8, 3)
    np.testing.assert_array_equal(picture[:30, :width], image)
    np.testing.assert_array_equal(picture[:30, width + 4 : 2 * width + 4], overlay(image, truth))
    np.testing.assert_array_equal(picture[:30, 2 * width + 8 :], overlay(image, prediction))
    assert (picture[:30, width : width + 4] == 255).all()
    assert (picture[:30, 2 * width + 4 : 2 * width + 8] == 255).all()


def colours_of(picture):
    return {tuple(int(v) for v in pixel) for pixel in picture.reshape(-1, 3)}


@pytest.mark.parametrize("width", [10, 400])
def test_legend_holds_every_colour(width):
    image = np.zeros((10, width, 3), np.uint8)
    labels = np.zeros((10, width), np.uint8)
    shown = colours_of(comparison(image, labels, labels)[10:])
    for rgb in (*PALETTE.tolist(), IGNORE_COLOUR):
        assert tuple(rgb) in shown


def test_comparison_of_other_classes():
    palette = np.array([[10, 20, 30], [200, 100, 0]], np.uint8)
    image, labels = np.zeros((10, 300, 3), np.uint8), np.ones((10, 300), np.uint8)
    picture = comparison(image, labels, labels, class_names=("no", "road"), palette=palette)
    assert {(10, 20, 30), (200, 100, 0), IGNORE_COLOUR} <= colours_of(picture[10:])
    np.testing.assert_array_equal(picture[5, 310], [100, 50, 0])


def test_the_file_of_an_overlay_names_the_colours_that_occur(scene):
    image, labels = scene
    image, labels = (np.repeat(np.repeat(x, 10, axis=0), 10, axis=1) for x in scene)
    plain = decode_image(overlay_jpeg(image, labels, 0.25))
    np.testing.assert_allclose(plain[100, 100], [75, 75, 139], atol=2)
    assert plain.shape == image.shape
    named = decode_image(overlay_jpeg(image, labels, 0.25, legend=CLASSES))
    assert named.shape == (400 + 28, 600, 3)
    np.testing.assert_allclose(named[:396], plain[:396], atol=12)
    strip = named[400:].astype(int)
    occurring = [bool((np.abs(strip - rgb).sum(-1) < 40).sum() > 50) for rgb in PALETTE]
    assert [name for name, shown in zip(CLASSES, occurring, strict=True) if shown] == [
        "sky",
        "water",
    ]
