"""Tests of reading maps at points, against a loop over points by the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.ops.points import sample_points
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


def test_read_unpacks_while_sampling():
    g = np.random.default_rng(1)
    labels = jnp.asarray(g.integers(0, 3, (2, 6, 5, 1)), jnp.uint8)
    points = jnp.asarray(g.random((2, 30, 2)), jnp.float32)
    classes = jnp.arange(3, dtype=jnp.uint8).reshape(1, 1, 3)
    ours = sample_points(labels, points, read=lambda values: values == classes)
    masks = jax.nn.one_hot(labels[..., 0], 3)
    np.testing.assert_allclose(ours, sample_points(masks, points), rtol=1e-6)


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
