"""Tests of the max pooling and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from massformer_jax.ops.max_pool import max_pool


def definition(x):
    return nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (1, 2, 2, 1), (1, 6, 2, 5)])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["any", "rectified", "equal", "negative"])
def test_pooling_and_its_gradient_equal_those_of_xla(shape, dtype, kind):
    """Whole numbers, which are often equal and add up exactly in any order."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, shape)
    x = {"any": x, "rectified": np.maximum(x, 0), "equal": 0 * x, "negative": x - 9}[kind]
    x = jnp.asarray(x, dtype)
    gradient = jnp.asarray(rng.integers(-9, 10, (shape[0], shape[1] // 2, shape[2] // 2, shape[3])))
    expected, expected_pullback = jax.vjp(definition, x)
    found, pullback = jax.vjp(max_pool, x)
    np.testing.assert_array_equal(found, expected)
    gradient = gradient.astype(dtype)
    np.testing.assert_array_equal(pullback(gradient)[0], expected_pullback(gradient)[0])


def test_nan_is_not_lost():
    x = jnp.ones((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    found, pullback = jax.vjp(max_pool, x)
    np.testing.assert_array_equal(np.isnan(found[0, ..., 0]), np.ones((2, 2), bool))
    assert not pullback(jnp.ones_like(found))[0].any()
