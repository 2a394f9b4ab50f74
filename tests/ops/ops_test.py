"""Tests of resizing, windows and positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.ops import resize
from massformer_jax.ops.positions import sine_positions
from massformer_jax.ops.resize import resize_bilinear
from massformer_jax.ops.rows import Rows, doubled_rows, take_rows_or_last
from massformer_jax.ops.windows import from_windows, to_windows


def take_form(monkeypatch, platform):
    """Makes resizing take the form of a platform."""

    def chosen(*x, default, **forms):
        return forms.get(platform, default)(*x)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)


@pytest.mark.parametrize(
    ("size", "to"),
    [
        ((8, 12), (16, 24)),  # doubled
        ((8, 12), (4, 6)),  # halved
        ((16, 32), (2, 4)),  # by 8
        ((12, 12), (4, 4)),  # by 3: an odd factor
        ((8, 12), (5, 31)),  # any
        ((1, 1), (2, 5)),
        ((7, 9), (7, 18)),  # one axis
        ((8, 8), (8, 8)),
    ],
)
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_resize_equals_the_dense_products(size, to, platform, monkeypatch):
    take_form(monkeypatch, platform)
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    expected = jax.image.resize(x, (2, *to, 3), "linear", antialias=False)
    np.testing.assert_allclose(resize_bilinear(jnp.asarray(x), to), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("width", "size"), [(7, 14), (8, 4)])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_columns_resized_as_a_product_are_as_otherwise(dtype, width, size, monkeypatch):
    """Products of bfloat16 are exact and rounded once; what CPUs do rounds three times."""
    x = jnp.asarray(np.random.default_rng(3).standard_normal((2, 3, width, 5)), dtype)
    expected = resize_bilinear(x.astype(np.float32), (3, size))
    take_form(monkeypatch, "tpu")
    found = resize_bilinear(x, (3, size))
    assert found.dtype == x.dtype
    close = {np.dtype(np.float32): 1e-6, np.dtype(jnp.bfloat16): 2.0**-8}[x.dtype]
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=close, atol=close / 10)


@pytest.mark.parametrize(("width", "size"), [(7, 14), (8, 4)])
def test_gradients_of_columns_as_a_product_are_not_rounded(width, size):
    """A product of bfloat16 would round them by 2^-9."""
    numbers = np.random.default_rng(6).standard_normal((2, 3, width, 5)).astype(np.float32)
    expected, pullback = jax.vjp(lambda x: resize_bilinear(x, (3, size)), jnp.asarray(numbers))
    found, other = jax.vjp(lambda x: resize._columns_by_product(x, size), jnp.asarray(numbers))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    gradient = jnp.asarray(np.random.default_rng(7).standard_normal(found.shape), np.float32)
    np.testing.assert_allclose(other(gradient)[0], pullback(gradient)[0], atol=1e-6)


def test_phases_put_together_are_the_doubled_map():
    x = jnp.asarray(np.random.default_rng(4).standard_normal((2, 3, 6, 5)), np.float32)
    rows = [resize.interleaved(*resize.doubled(part, 2)) for part in resize.doubled(x, 1)]
    found = jnp.stack(rows, 2).reshape(2, 6, 12, 5)
    np.testing.assert_array_equal(found, resize_bilinear(x, (6, 12)))


@pytest.mark.parametrize("rows", [Rows(0, 5), Rows(0, 2), Rows(1, 3), Rows(3, 2)])
def test_phases_of_some_rows_are_those_of_the_whole_map(rows):
    x = jnp.asarray(np.random.default_rng(8).standard_normal((2, 5, 4, 3)), np.float32)
    part = take_rows_or_last(x, Rows(rows.start - 1, rows.count + 2))
    found = jnp.stack(doubled_rows(part), 2).reshape(2, 2 * rows.count, 4, 3)
    expected = resize_bilinear(x, (10, 4))[:, 2 * rows.start :][:, : 2 * rows.count]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("w", [256, 6])
def test_columns_interleave_by_a_product_to_the_bit(w):
    numbers = np.random.default_rng(5).standard_normal((2, 2, 3, w, 7)).astype(np.float32)
    even, odd = jnp.asarray(numbers)
    found = resize._interleaved_by_product(even, odd)
    np.testing.assert_array_equal(found[..., 0::2, :], even)
    np.testing.assert_array_equal(found[..., 1::2, :], odd)


def test_resize_accepts_any_leading_axes():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 5, 3)).astype(np.float32))
    batched = resize_bilinear(x[None, None], (9, 4))
    np.testing.assert_array_equal(batched[0, 0], resize_bilinear(x, (9, 4)))


def test_windows_hold_neighbours_and_come_back():
    x = jnp.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    windows = to_windows(x, 4)
    assert windows.shape == (2, 6, 16, 3)
    np.testing.assert_array_equal(windows[1, 4], x[1, 4:8, 4:8].reshape(16, 3))
    np.testing.assert_array_equal(from_windows(windows, 8, 12, 4), x)


def test_windows_refuse_what_does_not_divide():
    with pytest.raises(ValueError, match="8x10"):
        to_windows(jnp.zeros((1, 8, 10, 1)), 4)


def test_positions_by_the_formula():
    got = sine_positions(3, 5, 8, jnp.float32)
    y, x, i = 2, 4, 1  # the second frequency: sine at 2, cosine at 3
    for offset, coordinate, n in ((0, y + 1, 3), (4, x + 1, 5)):
        angle = coordinate / (n + 1e-6) * 2 * np.pi / 10000 ** (2 * i / 4)
        expected = [np.sin(angle), np.cos(angle)]
        np.testing.assert_allclose(got[y, x, offset + 2 : offset + 4], expected, rtol=1e-6)
