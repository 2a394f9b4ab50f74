"""The deformable convolution against its definition, tap by tap, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.ops.deform_conv import deform_conv


def by_definition(x, offsets, modulation, kernel):
    """Samples first and multiplies then, one output position at a time (float64)."""
    b, h, w, _ = x.shape
    k = kernel.shape[0]
    out = np.zeros((b, h, w, kernel.shape[-1]))

    def value(image, y, x_):
        inside = 0 <= y < h and 0 <= x_ < w
        return image[y, x_] if inside else np.zeros(image.shape[-1])

    for n, i, j, t in np.ndindex(b, h, w, k * k):
        dy, dx = offsets[n, i, j, 2 * t : 2 * t + 2]
        y = i + t // k - k // 2 + dy
        x_ = j + t % k - k // 2 + dx
        y0, x0 = int(np.floor(y)), int(np.floor(x_))
        sample = sum(
            (1 - abs(y - yy)) * (1 - abs(x_ - xx)) * value(x[n], yy, xx)
            for yy in (y0, y0 + 1)
            for xx in (x0, x0 + 1)
        )
        out[n, i, j] += modulation[n, i, j, t] * sample @ kernel[t // k, t % k]
    return out


def random_inputs(k, *, reach, features=(5, 3), size=(6, 7), dtype=np.float64):
    """Offsets up to `reach` pixels in every direction, also far past the border."""
    rng = np.random.default_rng(k)
    c, o = features
    x = rng.standard_normal((2, *size, c))
    offsets = rng.uniform(-reach, reach, (2, *size, 2 * k * k))
    modulation = rng.uniform(0, 1, (2, *size, k * k))
    kernel = rng.standard_normal((k, k, c, o))
    return tuple(a.astype(dtype) for a in (x, offsets, modulation, kernel))


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("reach", [0, 1.7, 30])
def test_equals_the_definition(k, reach):
    inputs = random_inputs(k, reach=reach)
    with jax.enable_x64(True):
        got = deform_conv(*map(jnp.asarray, inputs))
    np.testing.assert_allclose(got, by_definition(*inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("first_row", [-20, -2, 0, 3, 5, 40])
def test_a_strip_is_rows_of_the_whole(first_row):
    """Rows past the map are those of a map continued in zeros; the first row may be traced."""
    x, _, _, kernel = random_inputs(3, reach=0)
    _, offsets, modulation, _ = random_inputs(3, reach=9, size=(4, 7))
    above, below = max(0, -first_row), max(0, first_row + 4 - 6)

    def all_rows(a):
        """The strip in its place on the continued map."""
        start = first_row + above
        return np.pad(a, ((0, 0), (start, above + 6 + below - start - 4), (0, 0), (0, 0)))

    continued = np.pad(x, ((0, 0), (above, below), (0, 0), (0, 0)))
    whole = by_definition(continued, all_rows(offsets), all_rows(modulation), kernel)
    with jax.enable_x64(True):
        strip = tuple(map(jnp.asarray, (x, offsets, modulation, kernel)))
        fixed = deform_conv(*strip, first_row=first_row)
        traced = jax.jit(deform_conv)(*strip, first_row=first_row)
    expected = whole[:, first_row + above :][:, :4]
    np.testing.assert_allclose(fixed, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(traced, expected, rtol=0, atol=1e-12)


def test_zero_offsets_are_a_plain_convolution():
    x, offsets, modulation, kernel = random_inputs(3, reach=0, dtype=np.float32)
    got = deform_conv(*map(jnp.asarray, (x, offsets, np.ones_like(modulation), kernel)))
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("offset", [1e9, -1e9, 1e30, -1e30])
def test_offsets_beyond_any_integer_sample_zero(offset):
    x, offsets, modulation, kernel = random_inputs(3, reach=0, dtype=np.float32)
    got = deform_conv(*map(jnp.asarray, (x, np.full_like(offsets, offset), modulation, kernel)))
    np.testing.assert_array_equal(got, 0)


@pytest.mark.parametrize("argument", range(4))
def test_gradients_equal_finite_differences(argument):
    """Central differences in float64; offsets stay off the kinks at whole numbers."""
    inputs = list(random_inputs(3, reach=2.2, size=(4, 5)))
    inputs[1] = np.floor(inputs[1]) + np.clip(inputs[1] - np.floor(inputs[1]), 0.1, 0.9)
    weight = np.random.default_rng(1).standard_normal((2, 4, 5, 3))
    direction = np.random.default_rng(2).standard_normal(inputs[argument].shape)

    def loss(a):
        arguments = [jnp.asarray(a) if i == argument else x for i, x in enumerate(inputs)]
        return (deform_conv(*map(jnp.asarray, arguments)) * weight).sum()

    with jax.enable_x64(True):
        gradient = jax.grad(loss)(jnp.asarray(inputs[argument]))
        step = 1e-6
        up, down = (loss(inputs[argument] + s * step * direction) for s in (1, -1))
        expected = (up - down) / (2 * step)
        np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-7)


def test_backward_keeps_no_copy_of_the_input_for_each_tap():
    """Temporaries of the gradient stay far below im2col's k² copies of the input."""
    x = jax.ShapeDtypeStruct((1, 64, 64, 64), jnp.float32)
    k, o = 7, 16
    planes = [jax.ShapeDtypeStruct((1, 64, 64, n * k * k), jnp.float32) for n in (2, 1)]
    kernel = jax.ShapeDtypeStruct((k, k, 64, o), jnp.float32)

    def loss(*args):
        return jnp.square(deform_conv(*args)).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(x, *planes, kernel).compile()
    column_buffer = k * k * 64 * 64 * 64 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < column_buffer / 2
