"""The convolution that predicts offsets, as programs for CPUs have it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.ops.planes_conv import planes_conv
from massformer_jax.ops.rows import Rows

SIZE, COUNT = 3, 16


def strips(x, kernel, bias):
    """Returns the planes of a map, strip by strip in a loop."""
    starts = jnp.arange(0, x.shape[1], COUNT)
    found = jax.lax.map(lambda start: planes_conv(x, kernel, bias, Rows(start, COUNT)), starts)
    return jnp.moveaxis(found, 0, 2).reshape(*found.shape[1:3], -1, x.shape[2])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_in_loops_it_stays_what_the_library_of_a_cpu_computes(dtype):
    """Of channels as planes XLA makes loops of its own there, which took most of the time."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((1, 4 * COUNT, 64, 8)), dtype)
    kernel = jnp.asarray(rng.standard_normal((SIZE, SIZE, 8, 27)), jnp.float32)
    bias = jnp.asarray(rng.standard_normal(27), jnp.float32)
    compiled = jax.jit(strips).lower(x, kernel, bias).compile()
    layouts = re.findall(r" convolution\(.*dim_labels=(\w+)->(\w+)", compiled.as_text())
    assert layouts and all(layout == ("b01f_01io", "b01f") for layout in layouts)
    # What the strips have in common with the whole map: all but their outermost rows.
    whole = planes_conv(x, kernel, bias, Rows(0, x.shape[1]))
    inside = np.arange(x.shape[1]) % COUNT % (COUNT - 1) != 0
    found = compiled(x, kernel, bias)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[:, :, inside], whole[:, :, inside], rtol=0, atol=2e-5)


def test_gradients_take_one_convolution_each():
    """They are those of a convolution, and its result, which they do not read, is not traced again.

    A compiler leaves such a convolution out, but FLOPs are counted before it does."""
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.standard_normal((2, 8, 6, 4)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((SIZE, SIZE, 4, 5)), jnp.float32)
    bias = jnp.asarray(rng.standard_normal(5), jnp.float32)
    rows = Rows(2, 4)
    weights = jnp.asarray(rng.standard_normal((2, 5, rows.count, 6)), jnp.float32)

    def by_planes(x, kernel, bias):
        return (weights * planes_conv(x, kernel, bias, rows)).sum()

    def by_definition(x, kernel, bias):
        near = x[:, rows.start : rows.start + rows.count]
        maps = jax.lax.conv_general_dilated(
            near, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (weights * jnp.moveaxis(maps + bias.reshape(1, 1, 1, -1), -1, 1)).sum()

    found = jax.grad(by_planes, argnums=(0, 1, 2))
    traced = str(jax.make_jaxpr(found)(x, kernel, bias))
    assert traced.count("conv_general_dilated[") == 3  # with the forward pass
    expected = jax.grad(by_definition, argnums=(0, 1, 2))(x, kernel, bias)
    for mine, theirs in zip(found(x, kernel, bias), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-5)
