"""Tests of what the compiled deformable convolution holds in memory, and how often it gathers."""

import re

import jax
import jax.numpy as jnp
import pytest

from massformer_jax.ops.deform_conv import deform_conv


def _gradients(*inputs):
    """Returns the gradients of the four inputs, for the gradient of the output that comes last."""
    return jax.vjp(deform_conv, *inputs[:-1])[1](inputs[-1])


@pytest.mark.parametrize("k, features", [(3, (64, 64)), (7, (64, 16))])
def test_no_direction_keeps_a_copy_of_the_input_for_each_tap(k, features):
    """Temporaries stay within a few maps for every k; im2col would keep k² copies of the input."""
    c, o = features
    shapes = [(128, 128, c), (2 * k * k, 128, 128), (k * k, 128, 128)]
    maps = [jax.ShapeDtypeStruct((1, *shape), jnp.float32) for shape in shapes]
    kernel = jax.ShapeDtypeStruct((k, k, c, o), jnp.float32)
    gradient = jax.ShapeDtypeStruct((1, 128, 128, o), jnp.float32)
    input_map, planes = 128 * 128 * c * 4, 128 * 128 * 3 * k * k * 4

    def temporaries(function, *arguments):
        compiled = jax.jit(function).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(deform_conv, *maps, kernel) < 2 * input_map + 2 * planes

    assert temporaries(_gradients, *maps, kernel, gradient) < 4 * input_map + 3 * planes


@pytest.mark.parametrize("dtype, gathers", [("bfloat16", 1), ("float32", 2)])
def test_tpus_gather_once_or_twice_for_each_sample(dtype, gathers):
    """The rule of the platform is asked, not the packed form: the program is one for TPUs."""
    x, kernel = (jax.ShapeDtypeStruct(s, dtype) for s in ((1, 16, 16, 8), (3, 3, 8, 4)))
    planes = [jax.ShapeDtypeStruct((1, n, 16, 16), jnp.float32) for n in (18, 9)]

    gradient = jax.ShapeDtypeStruct((1, 16, 16, 4), dtype)

    def count(function, platform, operation):
        inputs = (x, *planes, kernel) if function is deform_conv else (x, *planes, kernel, gradient)
        traced = jax.jit(function).trace(*inputs)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return len(re.findall(rf'"stablehlo.{operation}"\(', text))

    assert count(deform_conv, "tpu", "gather") == gathers
    assert count(deform_conv, "cpu", "gather") == 4
    assert count(_gradients, "tpu", "scatter") == 1
    assert count(_gradients, "cpu", "scatter") == 4
