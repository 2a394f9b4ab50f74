"""Tests of reading maps at points, against a loop over points by the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.ops.points import corners, sample_corners, sample_points
from tests.helpers.points_by_definition import by_definition


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 4, 1), (3, 1, 2)])
def test_equals_definition(shape):
    g = np.random.default_rng(0)
    maps = g.normal(size=(2, *shape)).astype(np.float32)
    points = g.random((2, 40, 2)).astype(np.float32)
    # Also the very corners, where up to three of the four pixels lie outside.
    points[:, :4] = [[0, 0], [0, 0.999999], [0.999999, 0], [0.999999, 0.999999]]
    ours = sample_points(jnp.asarray(maps), jnp.asarray(points))
    expected = [by_definition(*pair) for pair in zip(maps, points, strict=True)]
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_pixel_centres_and_corner():
    image = jnp.arange(12.0).reshape(3, 4, 1) + 1
    rows, columns = np.mgrid[:3, :4]
    centres = np.stack([(columns + 0.5) / 4, (rows + 0.5) / 3], -1).reshape(12, 2)
    ours = sample_points(image, jnp.asarray(centres, jnp.float32))
    np.testing.assert_allclose(ours, image.reshape(12, 1), rtol=1e-6)
    # A quarter of the corner pixel: the other three are outside and count as zero.
    np.testing.assert_allclose(sample_points(image, jnp.zeros((1, 2))), [[0.25]])


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (3, 1)])
def test_corners_give_the_same(size):
    g = np.random.default_rng(2)
    maps = g.normal(size=(2, 3, *size)).astype(np.float32)
    points = g.random((2, 3, 40, 2)).astype(np.float32)
    points[..., :4, :] = [[0, 0], [0, 0.999999], [0.999999, 0], [0.999999, 0.999999]]
    maps, points = jnp.asarray(maps), jnp.asarray(points)
    ours, to_maps = jax.value_and_grad(lambda x: (sample_corners(corners(x), points) ** 2).sum())(
        maps
    )
    expected, to_expected = jax.value_and_grad(
        lambda x: (sample_points(x[..., None], points) ** 2).sum()
    )(maps)
    np.testing.assert_array_equal(
        sample_corners(corners(maps), points), sample_points(maps[..., None], points)[..., 0]
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    np.testing.assert_allclose(to_maps, to_expected, rtol=1e-5, atol=1e-6)


def test_bytes_are_unpacked_while_sampling():
    g = np.random.default_rng(1)
    labels = jnp.asarray(g.integers(0, 3, (2, 6, 5)), jnp.uint8)
    points = jnp.asarray(g.random((2, 30, 2)), jnp.float32)
    words = corners(labels)
    assert words.dtype == jnp.uint32 and words.shape == (2, 7, 6)
    ours = sample_corners(words, points, read=lambda values: jax.nn.one_hot(values, 3))
    masks = jax.nn.one_hot(labels, 3)
    np.testing.assert_array_equal(ours, sample_points(masks, points))
    # What is outside of the map counts as zero, whatever `read` makes of it.
    one = sample_corners(words, jnp.zeros((2, 1, 2)), read=lambda x: jnp.ones(x.shape))
    np.testing.assert_array_equal(one, [[0.25]] * 2)
    # All bits of a byte arrive.
    full = corners(jnp.full((1, 2, 2), 255, jnp.uint8))
    centre = jnp.full((1, 1, 2), 0.5)
    np.testing.assert_array_equal(
        sample_corners(full, centre, read=lambda x: x.astype(jnp.float32)), [[255.0]]
    )


def test_narrow_maps_are_read_in_float32():
    maps = jnp.asarray([[1.0, 1.0078125]], jnp.bfloat16)[..., None]
    value = sample_points(maps, jnp.asarray([[0.5, 0.5]]))
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, [[1.00390625]])  # bfloat16 has no such number


def test_gradient_goes_to_the_four_pixels():
    image = jnp.zeros((4, 4, 1))
    point = jnp.asarray([[(1 + 0.5 + 0.25) / 4, (2 + 0.5) / 4]])
    gradient = jax.grad(lambda image: sample_points(image, point).sum())(image)
    expected = np.zeros((4, 4, 1))
    expected[2, 1], expected[2, 2] = 0.75, 0.25
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
