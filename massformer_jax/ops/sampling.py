"""What both forms of the deformable convolution compute of one tap: places, weights, gradients."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from massformer_jax.ops.precision import widened


def taps(kernel: Float[Array | np.ndarray, "k k c o"]) -> tuple:
    """Returns kernels [k² c o] and where each tap lies: rows and columns [k²]."""
    k = kernel.shape[0]
    tap_y, tap_x = jnp.divmod(jnp.arange(k * k, dtype=jnp.int32), k)
    kernels = jnp.reshape(kernel, (k * k, *kernel.shape[2:]))
    return kernels, tap_y - k // 2, tap_x - k // 2


def starts(n: int, size: int) -> Int[Array, " chunks"]:
    """Returns the first of `n` positions of each chunk of `size`."""
    return size * jnp.arange(-(-n // size), dtype=jnp.int32)


def whole_and_rest(
    place: Int[Array, "*#s"], offset: Float[Array, "*s"]
) -> tuple[Int[Array, "*s"], Float[Array, "*s"]]:
    """Returns the last whole pixel at or before place + offset, and how far behind it that lies.

    Whole pixels are integers: the sum of place and offset would lose bits of a small offset, and
    strips would differ from the whole. They are clipped before the cast, since a float outside the
    range of int32 has no defined integer.
    """
    far = 2.0**30
    whole = jnp.floor(offset)
    return place + jnp.clip(whole, -far, far).astype(jnp.int32), offset - whole


def bilinear(down: Float[Array, "*s"], right: Float[Array, "*s"]) -> tuple[Array, ...]:
    """Returns the weights of the four corners, row by row."""
    up, left = 1 - down, 1 - right
    return up * left, up * right, down * left, down * right


def to_planes(to_factors, down, right, factor) -> tuple[Array, Array, Array]:
    """Returns the gradients of dy, dx and the modulation, from those of the corners' factors."""
    a, b, c, d = to_factors
    to_dy = factor * ((1 - right) * (c - a) + right * (d - b))
    to_dx = factor * ((1 - down) * (b - a) + down * (d - c))
    weights = bilinear(down, right)
    return to_dy, to_dx, sum(w * g for w, g in zip(weights, to_factors, strict=True))


def product(subscripts: str, a: Shaped[Array, "*s"], b: Shaped[Array, "*t"]) -> Array:
    """Multiplies, and accumulates in float32 or wider, whatever the inputs' dtype."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=widened(a.dtype))
