"""Surroundings and places of coordinates, by their definition."""

import numpy as np

from massformer_jax.data.coordinates import draw_coordinates, grid_in, patches, places

PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


def test_patches_begin_at_the_coordinate_and_repeat_the_border():
    padded = np.pad(PHOTOGRAPH, ((0, 8), (0, 8), (0, 0)), mode="edge")
    coordinates = np.array([[0, 0], [3, 5], [16, 12], [9, 12]])
    found = patches(PHOTOGRAPH, coordinates)
    assert found.dtype == np.uint8
    for patch, (x, y) in zip(found, coordinates, strict=True):
        np.testing.assert_array_equal(patch, padded[y : y + 8, x : x + 8])


def test_patches_of_photographs_of_all_forms():
    """Smaller than the surroundings, cut out of a larger one, and turned."""
    small, part, turned = PHOTOGRAPH[:5, :4], PHOTOGRAPH[2:12, 3:], PHOTOGRAPH.transpose(1, 0, 2)
    for photograph in (small, part, turned):
        height, width, _ = photograph.shape
        padded = np.pad(photograph, ((0, 8), (0, 8), (0, 0)), mode="edge")
        y, x = np.divmod(np.arange(height * width, dtype=np.int32), width)
        found = patches(photograph, np.stack([x, y], -1))
        expected = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), (0, 1))
        expected = expected[:height, :width].transpose(0, 1, 3, 4, 2)
        np.testing.assert_array_equal(found, expected.reshape(found.shape))


def test_patches_between_pixels_are_bilinear():
    whole = patches(PHOTOGRAPH, np.array([[3, 5], [4, 5], [3, 6], [4, 6]])).astype(np.float32)
    expected = (
        whole[0] * 0.75 * 0.5 + whole[1] * 0.25 * 0.5 + (whole[2] * 0.75 + whole[3] * 0.25) / 2
    )
    (found,) = patches(PHOTOGRAPH, np.array([[3.25, 5.5]]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    corner = patches(PHOTOGRAPH, np.array([[16, 12]])).astype(np.float32)
    np.testing.assert_array_equal(patches(PHOTOGRAPH, np.array([[40.0, 30.0]])), corner)


def test_places_are_those_of_the_centres_of_pixels():
    found = places(np.array([[0, 0], [16, 12]]), (13, 17))
    np.testing.assert_allclose(
        found, [[0.5 / 17, 0.5 / 13], [1 - 0.5 / 17, 1 - 0.5 / 13]], rtol=1e-6
    )


def test_drawn_coordinates_are_uniform_and_inside():
    found = draw_coordinates(np.random.default_rng(0), (3, 5), 30_000)
    assert found.dtype == np.int32
    counts = np.bincount(found[:, 1] * 5 + found[:, 0], minlength=15)
    assert len(counts) == 15
    assert counts.min() > 1800 and counts.max() < 2200


def test_a_grid_reaches_the_border_and_not_further():
    rows, columns = grid_in((0, 0, 17, 13), 1, (13, 17))
    np.testing.assert_array_equal(rows, np.arange(13))
    np.testing.assert_array_equal(columns, np.arange(17))
    assert rows.dtype.kind == "i"
    rows, columns = grid_in((15, 12.5, 17, 13), 0.25, (13, 17))
    np.testing.assert_array_equal(rows, [12.5, 12.5])
    np.testing.assert_array_equal(columns, [15, 15.25, 15.5, 15.75, 16, 16.25, 16.5, 16.5])
