"""Bilinear resizing with half-pixel centres and no antialiasing, also when it shrinks.

This is `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`, the only resizing
inside the network. `jax.image.resize` computes the same as dense [in, out] matrix products, which
at 12 megapixels is a quarter of the network's work for one map; here every output reads its two
neighbours.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_bilinear(x: Float[Array, "*b h w c"], size: tuple[int, int]) -> Float[Array, "*b i j c"]:
    """Resizes the two axes before the last to `size` = (height, width)."""
    height, width = size
    return _resize_axis(_resize_axis(x, -3, height), -2, width)


def _resize_axis(x: Array, axis: int, size: int) -> Array:
    n = x.shape[axis]
    if size == n:
        return x
    if size == 2 * n:
        return _double(x, axis)
    if n % size == 0 and (n // size) % 2 == 0:
        return _shrink(x, axis, n // size)
    low, high, weight = bilinear_taps(n, size)
    shape = [1] * x.ndim
    shape[axis] = size
    weight = jnp.asarray(weight, x.dtype).reshape(shape)
    return jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight


def bilinear_taps(n: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source positions of each of `size` outputs, and the weight of the second."""
    centre = np.maximum((np.arange(size) + 0.5) * (n / size) - 0.5, 0.0)
    low = np.minimum(centre.astype(np.int32), n - 1)
    return low, np.minimum(low + 1, n - 1), centre - low


def _double(x: Array, axis: int) -> Array:
    """Factor 2 up: outputs 2i and 2i + 1 are 3/4 x[i] and 1/4 of the neighbour on their side."""
    axis %= x.ndim
    first = jnp.take(x, np.array([0]), axis)
    last = jnp.take(x, np.array([-1]), axis)
    n = x.shape[axis]
    before = jnp.concatenate([first, _slice(x, axis, 0, n - 1)], axis)
    after = jnp.concatenate([_slice(x, axis, 1, n), last], axis)
    pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
    return pair.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])


def _shrink(x: Array, axis: int, factor: int) -> Array:
    """Even factors down: the mean of the two samples in the middle of each block."""
    n, middle = x.shape[axis], factor // 2
    return 0.5 * (_slice(x, axis, middle - 1, n, factor) + _slice(x, axis, middle, n, factor))


def _slice(x: Array, axis: int, start: int, stop: int, step: int = 1) -> Array:
    index = [slice(None)] * x.ndim
    index[axis] = slice(start, stop, step)
    return x[tuple(index)]
