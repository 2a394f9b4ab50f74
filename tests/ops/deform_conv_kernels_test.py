"""Tests of the GPU kernels, interpreted, against the definition and the form without kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from massformer_jax.ops import deform_conv_kernels as kernels
from massformer_jax.ops import planes_conv
from massformer_jax.ops.by_image import by_image
from massformer_jax.ops.deform_conv import deform_conv
from massformer_jax.ops.deform_conv_kernels import Tile
from tests.helpers.deform_conv_inputs import by_definition, random_inputs

# So small that every map here takes several, some of them in part.
TILE = Tile(4, 4, 4)


# (Taps, features in, features out) of the layers of a width; LSE's with its zeros. Interpreted, a
# kernel takes ten seconds to compile: all widths are slow.
def layers(width):
    yield from ((k, width, width // 4) for k in (1, 3, 5, 7))
    yield from ((3, *features) for features in ((width, width), (width // 2 + 8, width // 2)))
    yield 3, width // 2, width // 2


LAYERS = [
    (3, 72, 64),
    (5, 32, 8),
    *(pytest.param(*x, marks=pytest.mark.slow) for n in (32, 64, 128) for x in layers(n)),
]


def forward(*inputs, first_row=0):
    return kernels.forward(*inputs, jnp.int32(first_row), tile=TILE, interpret=True)


def backward(*inputs, first_row=0):
    *inputs, gradient = inputs
    first_row = jnp.int32(first_row)
    found = kernels.backward(*inputs, first_row, gradient, tile=TILE, tiles=3, interpret=True)
    *gradients, to_kernel = found
    return *gradients, to_kernel.sum(0)


def reference(*inputs, first_row=0):
    """Returns the output and the gradients of the form without kernels."""
    *inputs, gradient = inputs
    out, vjp = jax.vjp(lambda *a: deform_conv(*a, first_row=first_row), *inputs)
    return out, *vjp(gradient)


def with_gradient(inputs):
    x, offsets, _, kernel = inputs
    rng = np.random.default_rng(1)
    shape = (x.shape[0], *offsets.shape[2:], kernel.shape[-1])
    return (*map(jnp.asarray, inputs), jnp.asarray(rng.standard_normal(shape), x.dtype))


@pytest.mark.parametrize("k, features, reach", [(1, (3, 5), 30), (3, (19, 5), 1.7), (5, (8, 3), 9)])
def test_forward_equals_the_definition(k, features, reach):
    inputs = random_inputs(k, reach=reach, features=features, dtype=np.float32)
    got = forward(*map(jnp.asarray, inputs))
    expected = by_definition(*(a.astype(np.float64) for a in inputs))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("k, c, o", LAYERS)
def test_every_layer_equals_the_form_that_runs_elsewhere(k, c, o):
    """The output and all four gradients are equal, with offsets beyond borders, on odd maps."""
    inputs = with_gradient(
        random_inputs(k, reach=4, features=(c, o), size=(5, 7), batch=2, dtype=np.float32)
    )
    got = forward(*inputs[:-1]), *backward(*inputs)
    for a, b in zip(got, reference(*inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("features", [(24, 16), pytest.param((32, 8), marks=pytest.mark.slow)])
def test_bfloat16_rounds_once(features):
    """Offsets and sums stay float32, so the error is that of the samples and of the result."""
    x, offsets, modulation, kernel, gradient = with_gradient(
        random_inputs(3, reach=20, features=features, size=(12, 10), batch=1, dtype=np.float32)
    )
    narrow = (x.astype(jnp.bfloat16), offsets, modulation, kernel.astype(jnp.bfloat16))
    narrow = (*narrow, gradient.astype(jnp.bfloat16))
    got = forward(*narrow[:-1]), *backward(*narrow)
    expected = reference(*(a.astype(jnp.float32) for a in narrow))
    assert [a.dtype for a in got[:2]] == [jnp.bfloat16, jnp.bfloat16]
    assert {a.dtype for a in got[2:]} == {jnp.dtype(jnp.float32)}
    for a, b in zip(got, expected, strict=True):
        error = jnp.linalg.norm((a.astype(jnp.float32) - b).ravel())
        assert error < 2**-8 * jnp.linalg.norm(b.ravel())


@pytest.mark.parametrize("first_row", [-2, 3])
def test_a_strip_is_rows_of_the_whole(first_row):
    x, *_, kernel = random_inputs(3, reach=0, dtype=np.float32)
    _, offsets, modulation, _ = random_inputs(3, reach=9, size=(4, 7), dtype=np.float32)
    inputs = with_gradient((x, offsets, modulation, kernel))
    got = forward(*inputs[:-1], first_row=first_row), *backward(*inputs, first_row=first_row)
    for a, b in zip(got, reference(*inputs, first_row=first_row), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_many_samples_of_one_pixel_all_count():
    """No addition to the same place may be lost."""
    x = jnp.zeros((1, 20, 25, 1))
    rows, columns = np.mgrid[:20, :25]
    offsets = jnp.asarray(np.stack([-rows, -columns])[None], jnp.float32)
    inputs = x, offsets, jnp.ones((1, 1, 20, 25)), jnp.ones((1, 1, 1, 1)), jnp.ones_like(x)
    to_x, *_ = backward(*inputs)
    assert to_x[0, 0, 0, 0] == 500
    assert to_x.sum() == 500


@pytest.mark.parametrize("k, c, p", [(1, 32, 3), (3, 40, 27), (5, 16, 75), (7, 8, 147)])
def test_planes_equal_a_convolution(k, c, p):
    rng = np.random.default_rng(k)
    x = jnp.asarray(rng.standard_normal((2, 6, 9, c)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((k, k, c, p)), jnp.bfloat16).astype(jnp.float32)
    bias = jnp.asarray(rng.standard_normal(p), jnp.float32)
    got = planes_conv.on_gpu(3, x, kernel, bias, jnp.int32(2), tile=TILE, interpret=True)
    whole = jax.lax.conv_general_dilated(
        x.astype(jnp.float32), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NCHW")
    )
    expected = (whole + bias.reshape(1, -1, 1, 1))[:, :, 2:5]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))


def test_a_sharded_batch_stays_where_it_is():
    """Each of eight devices runs the kernels on its own images, and nothing is moved."""
    inputs = with_gradient(
        random_inputs(3, reach=9, features=(8, 16), size=(6, 8), batch=8, dtype=np.float32)
    )
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    images = NamedSharding(mesh, PartitionSpec("devices"))
    whole = NamedSharding(mesh, PartitionSpec())

    def both(*inputs):
        def run(*inputs):
            *inputs, gradient = inputs
            return (
                kernels.forward(*inputs, jnp.int32(0), tile=TILE, interpret=True),
                *kernels.backward(*inputs, jnp.int32(0), gradient, tile=TILE, interpret=True),
            )

        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return by_image(run, (True, True, True, False, True))(*inputs)

    places = (images, images, images, whole, images)
    shared = jax.jit(both, in_shardings=places).lower(*inputs).compile()
    assert not any(name in shared.as_text() for name in ("all-", "collective", "reduce-scatter"))
    *got, to_kernel = shared(*(jax.device_put(a, p) for a, p in zip(inputs, places, strict=True)))
    assert all(a.sharding.spec[0] == "devices" for a in got)
    for a, b in zip((*got, to_kernel.sum(0)), reference(*inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_channels_are_parted_into_powers_of_two():
    assert kernels.pieces(72) == [(0, 64), (64, 8)]
    assert kernels.pieces(67) == [(0, 64), (64, 2), (66, 1)]
    assert kernels.pieces(128) == [(0, 128)]
