"""Tests of the deformable convolution against its definition in NumPy, tap by tap."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from massformer_jax.ops import deform_conv as module
from massformer_jax.ops import deform_conv_packed
from massformer_jax.ops.deform_conv import deform_conv, deform_conv_rows, prepared
from tests.helpers.deform_conv_inputs import WIDENING, by_definition, random_inputs

# Inputs that widen are sampled in chunks and then projected; those that narrow the other way round.
NARROWING = 7, 3


@pytest.fixture(autouse=True, scope="module", params=["plain", "packed"])
def form(request):
    """Runs the form of CPUs, and then that of TPUs on the CPU.

    Chunks are so small that maps need several, and fill the last one in part; those of the packed
    form have at least 128 positions, so only larger maps need several.
    """

    def on_tpu(*inputs, tpu, **_):
        return jax.jit(tpu)(*inputs)

    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 16)
        patch.setattr(deform_conv_packed, "CHUNK", 128)
        patch.setattr(deform_conv_packed, "BACKWARD_CHUNK", 128)
        patch.setattr(deform_conv_packed, "_PACKED_ROWS", 3)
        patch.setattr(deform_conv_packed, "_GROUP", 2)
        patch.setattr(deform_conv_packed, "_LONG_GROUP", 4)
        # Of the maps of these tests some are small, and some are not.
        patch.setattr(deform_conv_packed, "_SMALL_MAP", 16 * 13 * 15)
        if request.param == "packed":
            patch.setattr(module, "platform_dependent", on_tpu)
        yield request.param
    jax.clear_caches()


def output_and_gradients(x, offsets, modulation, kernel, gradient, **options):
    """Returns the output, and the gradients of the four inputs for a gradient of the output."""
    out, backward = jax.vjp(
        lambda *inputs: deform_conv(*inputs, **options), x, offsets, modulation, kernel
    )
    return out, *backward(gradient)


@pytest.mark.parametrize(
    "k, features", [(1, WIDENING), (3, WIDENING), (3, NARROWING), (5, NARROWING)]
)
@pytest.mark.parametrize("reach", [0, 1.7, 30])
def test_equals_the_definition(k, reach, features, form):
    # The packed form takes 128 positions at least: three chunks of these, not all of them full.
    size = (13, 21) if form == "packed" and k == 3 else (6, 7)
    inputs = random_inputs(k, reach=reach, features=features, size=size)
    with jax.enable_x64(True):
        got = jax.jit(deform_conv)(*inputs)
    np.testing.assert_allclose(got, by_definition(*inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("first_row", [-20, -2, 0, 3, 5, 40])
def test_a_strip_is_rows_of_the_whole(first_row):
    """Rows outside the map are those of a map continued by zeros; the first row may be traced."""

    def of_prepared(x, *planes, first_row):
        return deform_conv_rows(prepared(x), *planes, first_row=first_row)

    x, _, _, kernel = random_inputs(3, reach=0)
    _, offsets, modulation, _ = random_inputs(3, reach=9, size=(4, 7))
    above, below = max(0, -first_row), max(0, first_row + 4 - 6)

    def all_rows(a):
        """Returns the strip in its place on the continued map."""
        start = first_row + above
        return np.pad(a, ((0, 0), (0, 0), (start, above + 6 + below - start - 4), (0, 0)))

    continued = np.pad(x, ((0, 0), (above, below), (0, 0), (0, 0)))
    whole = by_definition(continued, all_rows(offsets), all_rows(modulation), kernel)
    with jax.enable_x64(True):
        strip = x, offsets, modulation, kernel
        fixed = jax.jit(functools.partial(deform_conv, first_row=first_row))(*strip)
        traced = jax.jit(deform_conv)(*strip, first_row=first_row)
        again = jax.jit(of_prepared)(*strip, first_row=first_row)
    expected = whole[:, first_row + above :][:, :4]
    np.testing.assert_allclose(fixed, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(traced, expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(again, traced)


def test_gradients_of_strips_add_up_to_those_of_the_whole():
    x, offsets, modulation, kernel = random_inputs(3, reach=4)
    gradient = np.random.default_rng(1).standard_normal((*x.shape[:3], kernel.shape[-1]))
    with jax.enable_x64(True):
        _, *whole = jax.jit(output_and_gradients)(x, offsets, modulation, kernel, gradient)
        strips = [
            jax.jit(output_and_gradients)(
                x,
                offsets[:, :, rows],
                modulation[:, :, rows],
                kernel,
                gradient[:, rows],
                first_row=first,
            )
            for first, rows in ((0, slice(0, 2)), (2, slice(2, 6)))
        ]
    upper, lower = ([np.asarray(a) for a in strip[1:]] for strip in strips)
    joined = (
        upper[0] + lower[0],
        np.concatenate([upper[1], lower[1]], 2),
        np.concatenate([upper[2], lower[2]], 2),
        upper[3] + lower[3],
    )
    for a, b in zip(joined, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_positions_far_down_a_map_keep_every_bit_of_a_small_offset():
    """If row 50,000 and offset were added in float32, 8 bits would be left for the fraction."""
    inputs = random_inputs(3, reach=1e-3, size=(20, 3), batch=1, dtype=np.float32)
    x, offsets, modulation, kernel = inputs
    strip = offsets[:, :, :4], modulation[:, :, :4], kernel
    rows = jax.jit(deform_conv)
    near = rows(x, *strip, first_row=8)
    tall = np.pad(x, ((0, 0), (50_000, 0), (0, 0), (0, 0)))
    np.testing.assert_array_equal(rows(tall, *strip, first_row=50_008), near)
    assert jnp.abs(near).max() > 1


def test_zero_offsets_are_a_plain_convolution():
    x, offsets, modulation, kernel = random_inputs(3, reach=0, dtype=np.float32)
    got = jax.jit(deform_conv)(x, offsets, np.ones_like(modulation), kernel)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("offset", [-1e9, 1e30])
def test_offsets_beyond_any_integer_sample_zero_and_have_no_gradient(offset):
    x, offsets, modulation, kernel = random_inputs(3, reach=0, dtype=np.float32)
    gradient = np.ones((*x.shape[:3], kernel.shape[-1]), np.float32)
    results = jax.jit(output_and_gradients)(
        x, np.full_like(offsets, offset), modulation, kernel, gradient
    )
    for result in results:
        np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("features", [WIDENING, NARROWING])
@pytest.mark.parametrize("reach", [2.2, 12])
def test_gradients_equal_finite_differences(features, reach):
    """These are central differences in float64; offsets avoid the kinks at whole numbers."""
    inputs = list(random_inputs(3, reach=reach, features=features, size=(4, 5)))
    inputs[1] = np.floor(inputs[1]) + np.clip(inputs[1] - np.floor(inputs[1]), 0.1, 0.9)
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((2, 4, 5, features[1]))
    with jax.enable_x64(True):
        _, *gradients = jax.jit(output_and_gradients)(*inputs, weight)
        forward = jax.jit(deform_conv)
        for position, gradient in enumerate(gradients):
            step = 1e-6 * rng.standard_normal(gradient.shape)
            up, down = (
                forward(*(a + s * step if i == position else a for i, a in enumerate(inputs)))
                for s in (1, -1)
            )
            expected = ((up - down) * weight).sum() / 2
            np.testing.assert_allclose((gradient * step).sum(), expected, rtol=1e-6)


@pytest.mark.parametrize("features", [WIDENING, NARROWING])
def test_bfloat16_keeps_positions_in_float32(features):
    """The result is nearly that of float64 with the same inputs.

    The difference is one rounding of each sample or product and one of the result, each 2^-9 of
    values of about 3."""
    x, offsets, modulation, kernel = random_inputs(3, reach=20, features=features, size=(20, 21))
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in (x, kernel))
    planes = (jnp.asarray(a, jnp.float32) for a in (offsets, modulation))
    gradient = jnp.ones((*x.shape[:3], features[1]), jnp.bfloat16)
    inputs = (x, *planes, kernel)
    got = jax.jit(output_and_gradients)(*inputs, gradient)
    with jax.enable_x64(True):
        wide = (jnp.asarray(np.asarray(a, np.float64)) for a in (*inputs, gradient))
        expected = jax.jit(output_and_gradients)(*wide)
    assert [a.dtype for a in got] == [x.dtype, *(a.dtype for a in inputs)]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float64), b, rtol=2**-7, atol=2**-7 * np.abs(b).max() / 2
        )


def test_bfloat16_gradients_accumulate_in_float32():
    """All 1000 positions sample one pixel; a sum of ones in bfloat16 would stop at 256."""
    x = jnp.zeros((1, 40, 25, 1), jnp.bfloat16)
    rows, columns = np.mgrid[:40, :25]
    offsets = jnp.asarray(np.stack([-rows, -columns])[None], jnp.float32)
    kernel, gradient = jnp.ones((1, 1, 1, 1), jnp.bfloat16), jnp.ones_like(x)
    ones = jnp.ones((1, 1, 40, 25))
    _, to_x, *_ = jax.jit(output_and_gradients)(x, offsets, ones, kernel, gradient)
    assert to_x[0, 0, 0, 0] == 1000
    assert jnp.abs(to_x.astype(jnp.float32)).sum() == 1000


@pytest.mark.parametrize("features", [WIDENING, NARROWING])
@pytest.mark.parametrize("spec", [PartitionSpec("devices"), PartitionSpec(None, "devices")])
def test_eight_devices_share_the_batch_or_the_rows(spec, features):
    x, offsets, modulation, kernel = random_inputs(
        3, reach=9, features=features, size=(16, 12), batch=8, dtype=np.float32
    )
    gradient = np.random.default_rng(1).standard_normal((*x.shape[:3], features[1]), np.float32)
    inputs = (x, offsets, modulation, kernel, gradient)
    expected = jax.jit(output_and_gradients)(*inputs)

    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    maps, whole = NamedSharding(mesh, spec), NamedSharding(mesh, PartitionSpec())
    planes = NamedSharding(mesh, PartitionSpec(spec[0], None, *spec[1:]))

    def on_mesh(*inputs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return output_and_gradients(*inputs)

    shared = jax.jit(on_mesh, in_shardings=(maps, planes, planes, whole, maps))
    for a, b in zip(shared(*inputs), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
    if spec == PartitionSpec("devices"):
        text = shared.lower(*inputs).compile().as_text()
        talk = re.findall(r" (all-\w+|collective-permute|reduce-scatter)(?:-start)?\(", text)
        assert talk == ["all-reduce"]  # of the kernel's gradient, once


def test_parts_of_a_map_have_the_same_gradients():
    inputs = random_inputs(3, reach=1.7, features=(7, 3), dtype=np.float32)
    gradient = np.random.default_rng(3).standard_normal((2, 6, 7, 3), np.float32)
    expected = jax.jit(output_and_gradients)(*inputs, gradient)
    in_parts = functools.partial(output_and_gradients, parts=(1, 6))
    got = jax.jit(in_parts)(*inputs, gradient)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
