"""Bilinear resizing with half-pixel centres and no antialiasing, also when it shrinks.

This is `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`, the only resizing
inside the network. `jax.image.resize` computes the same as dense [in, out] matrix products, which
at 12 megapixels is a quarter of the network's work for one map; here every output reads its two
neighbours.
"""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from massformer_jax.ops.named_calls import named
from massformer_jax.ops.open_sizes import known


def resize_bilinear(x: Float[Array, "*b h w c"], size: tuple[int, int]) -> Float[Array, "*b i j c"]:
    """Resizes the two axes before the last to `size` = (height, width)."""
    return named("resize_bilinear", functools.partial(_resize, size=size))(x)


def _resize(x, size):
    return _resize_axis(_resize_axis(x, -3, size[0]), -2, size[1])


def _resize_axis(x: Array, axis: int, size: int) -> Array:
    n = x.shape[axis]
    if size == n:
        return x
    if size == 2 * n or n % (2 * size) == 0:
        form = functools.partial(_double if size > n else _shrink, axis=axis, size=size)
        return jax.lax.platform_dependent(x, **_forms(x, axis, size), default=form)
    low, high, weight = bilinear_taps(n, size)
    shape = [1] * x.ndim
    shape[axis] = size
    weight = jnp.asarray(weight, x.dtype).reshape(shape)
    return jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight


def _forms(x: Array, axis: int, size: int) -> dict[str, Callable[[Array], Array]]:
    """Returns how a platform doubles or halves an axis, for those that have a form of their own."""
    if not known(x.shape):
        return {}
    n = x.shape[axis]
    forms = {}
    if size == 2 * n:
        forms["cpu"] = functools.partial(_double_by_phases, axis=axis)
    if axis == -2 and size in (2 * n, n // 2):
        forms["tpu"] = functools.partial(_columns_by_product, size=size)
    return forms


def doubled(x: Array, axis: int) -> tuple[Array, Array]:
    """Returns the even and the odd positions of an axis resized to twice its size.

    Where what follows looks at each position alone, they can go through it one after the other and
    be joined at the end by `interleaved`, when they are small.
    """
    axis %= x.ndim
    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    before = jnp.where(index == 0, x, moved(x, axis, 1))
    after = jnp.where(index == x.shape[axis] - 1, x, moved(x, axis, -1))
    return 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after


def interleaved(even: Float[Array, "*b w c"], odd: Float[Array, "*b w c"]) -> Array:
    """Returns the columns [*b 2*w c] of which these are the even and the odd ones."""
    *b, w, c = even.shape

    def stacked(even, odd):
        return jnp.stack([even, odd], -2).reshape(*b, 2 * w, c)

    if not known(even.shape):
        return stacked(even, odd)
    return jax.lax.platform_dependent(even, odd, tpu=_interleaved_by_product, default=stacked)


def _interleaved_by_product(even: Array, odd: Array) -> Array:
    """Moves columns, of which a TPU holds 128 side by side, by products that change no number."""
    *b, w, c = even.shape
    size = math.gcd(w, 128)
    to_even = np.eye(size).repeat(2, 0)
    to_even[1::2] = 0
    even, odd = (x.reshape(*b, w // size, size, c) for x in (even, odd))
    columns = _columns_times(to_even, even) + _columns_times(np.roll(to_even, 1, 0), odd)
    return columns.reshape(*b, 2 * w, c)


def _columns_times(matrix: np.ndarray, x: Float[Array, "*b w c"]) -> Float[Array, "*b v c"]:
    """Multiplies columns by a matrix [v w] of numbers of bfloat16, exactly whatever the precision.

    A float32 number is multiplied as three of bfloat16 that add up to it. So is its gradient, which
    would be rounded on the way through the three otherwise.
    """

    def times(matrix, x):
        to = jnp.asarray(matrix, jnp.bfloat16)
        product = functools.partial(
            jnp.einsum, "vw,...wc->...vc", to, preferred_element_type=x.dtype
        )
        return product(x) if x.dtype == jnp.bfloat16 else sum(map(product, _bfloat16_pieces(x)))

    linear = jax.custom_vjp(functools.partial(times, matrix))
    linear.defvjp(lambda x: (times(matrix, x), None), lambda _, to_y: (times(matrix.T, to_y),))
    return linear(x)


def _bfloat16_pieces(x: Array) -> Iterator[Array]:
    """Yields three numbers of bfloat16 for each of float32, the largest first."""
    for _ in range(3):
        # A cast and back would be taken out by the compiler.
        piece = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        yield piece.astype(jnp.bfloat16)
        x = x - piece


def bilinear_taps(n: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two source positions of each of `size` outputs, and the weight of the second."""
    centre = np.maximum((np.arange(size) + 0.5) * (n / size) - 0.5, 0.0)
    low = np.minimum(centre.astype(np.int32), n - 1)
    return low, np.minimum(low + 1, n - 1), centre - low


def _columns_by_product(x: Float[Array, "*b w c"], size: int) -> Float[Array, "*b v c"]:
    """Doubles or halves the columns as a product with a band matrix, for TPUs.

    A TPU keeps two columns that came from one in a tile that
    they fill to a quarter, and has to take tiles apart for every other column: doubling as this
    product costs a third of that, zeros included (docs/pods.md).
    """
    n = x.shape[-2]
    low, high, weight = bilinear_taps(n, size)
    band = np.zeros((size, n))
    np.add.at(band, (np.arange(size), low), 1 - weight)
    np.add.at(band, (np.arange(size), high), weight)
    return _columns_times(band, x)


def _double(x: Array, axis: int, size: int) -> Array:
    """Doubles an axis: 2i and 2i + 1 become 3/4 x[i] and 1/4 of the neighbour on their side.

    Without a concatenation, so that compilers make one loop of both axes and of what reads the
    result: on an H100 the concatenations took three times as long as the bytes they move.
    """
    axis %= x.ndim
    twice = jnp.repeat(x, 2, axis)
    index = jax.lax.broadcasted_iota(jnp.int32, twice.shape, axis)
    neighbour = jnp.where(index % 2 == 0, moved(twice, axis, 1), moved(twice, axis, -1))
    neighbour = jnp.where((index == 0) | (index == size - 1), twice, neighbour)
    return 0.75 * twice + 0.25 * neighbour


def _double_by_phases(x: Array, axis: int) -> Array:
    """Doubles an axis, for CPUs: their loops have no choice to make for each number.

    A third less time and half the memory of `_double` for the two axes of [1, 133, 256, 128].
    """
    axis %= x.ndim
    shape = list(x.shape)
    shape[axis] *= 2
    return jnp.stack(doubled(x, axis), axis + 1).reshape(shape)


def moved(x: Array, axis: int, by: int) -> Array:
    """Moves everything along an axis, by one position for instance; what comes in is zero.

    As padding, of which compilers make no copy where others read it.
    """
    padding = [(by, -by, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)


def _shrink(x: Array, axis: int, size: int) -> Array:
    """Shrinks an axis by an even factor: means of the two samples in the middle of each block."""
    n = x.shape[axis]
    factor = n // size
    middle = factor // 2
    return 0.5 * (_slice(x, axis, middle - 1, n, factor) + _slice(x, axis, middle, n, factor))


def _slice(x: Array, axis: int, start: int, stop: int, step: int = 1) -> Array:
    return jax.lax.slice_in_dim(x, start, stop, step, axis)
