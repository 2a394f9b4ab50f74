"""The max pooling of ResNets: windows of 3x3, a stride of 2, a padding of 1.

Its gradient goes to the first largest position of each window, row by row, as in PyTorch. Compilers
for CPUs and GPUs walk through all windows for that, and add to a map of zeros. Here every position
looks at the at most four windows that it lies in: on one CPU core, pooling [2, 256, 256, 64] and
its gradient take 57 ms instead of 254 (AMD EPYC, jax 0.10.2, 2026-11-28).
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from massformer_jax.ops.resize import moved

TAPS = tuple(itertools.product(range(3), repeat=2))


@jax.custom_vjp
def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Returns the maxima of windows of 3x3 around every other position; sides are even.

    A window that holds NaN gives NaN, and no gradient.
    """
    return _pooled(x)


def _pooled(x):
    return nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def _forward(x):
    pooled = _pooled(x)
    return pooled, (x, pooled)


def _backward(saved, gradient):
    def by_windows(x, pooled, gradient):
        return jax.vjp(_pooled, x)[1](gradient)[0]

    # A TPU has an instruction for it, and pays for every other column.
    return (jax.lax.platform_dependent(*saved, gradient, tpu=by_windows, default=_by_positions),)


max_pool.defvjp(_forward, _backward)


def _by_positions(
    x: Float[Array, "b h w c"], pooled: Float[Array, "b h2 w2 c"], gradient: Array
) -> Float[Array, "b h w c"]:
    """Returns the gradient of the input."""
    largest = _largest(x, pooled)

    def to_tap(row, column):
        return jnp.where(largest == 3 * row + column, gradient, 0)

    def from_rows(row, column):
        """Even rows lie in the middle of one window, odd ones below one and above the next."""
        if row == 0:
            return to_tap(1, column)
        return to_tap(2, column) + moved(to_tap(0, column), 1, -1)

    def from_columns(row, column):
        if column == 0:
            return from_rows(row, 1)
        return from_rows(row, 2) + moved(from_rows(row, 0), 2, -1)

    phases = [jnp.stack([from_columns(row, column) for column in (0, 1)], 3) for row in (0, 1)]
    return jnp.stack(phases, 2).reshape(x.shape)


def _largest(
    x: Float[Array, "b h w c"], pooled: Float[Array, "b h2 w2 c"]
) -> UInt8[Array, "b h2 w2 c"]:
    """Returns which position of each window is the first that holds its maximum, 0 to 8."""
    _, h, w, _ = pooled.shape
    padded = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=-jnp.inf)
    first = jnp.full(pooled.shape, len(TAPS), jnp.uint8)
    for number, (row, column) in reversed(list(enumerate(TAPS))):
        tap = padded[:, row : row + 2 * h : 2, column : column + 2 * w : 2]
        first = jnp.where(tap == pooled, jnp.uint8(number), first)
    return first
