"""Modulated deformable convolution (DCNv2) that projects before it samples.

Every framework gathers k² shifted copies of the *input* (im2col) and multiplies once. Bilinear
sampling is linear in the channels, so the weights of a tap can go first:

    out = Σ_taps m_t · sample(x · W_t, p + t + Δ_t)

The multiplications are the same, but nothing of size k² x input ever exists, and where the layer
narrows (D → D/4 in RFB) a quarter of the bytes is gathered. The taps run in a scan.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def deform_conv(
    x: Float[Array, "b h w c"],
    offsets: Float[Array, "b r w offsets"],
    modulation: Float[Array, "b r w taps"],
    kernel: Float[Array, "k k c o"],
    *,
    first_row: int | Int[Array, ""] = 0,
) -> Float[Array, "b r w o"]:
    """Stride 1, dilation 1, padding k // 2, no bias, one deformable group.

    Computes the `r` rows of the output that start at `first_row`: all of them when `r` is `h`, and
    in strips what the whole would give. Rows before the first and after the last row of the map
    are computed as if the map went on, in zeros.

    Args:
        x: the input.
        offsets: in pixels, interleaved (dy, dx) per tap, taps in row-major order. Samples beyond
            the border fade to zero within one pixel, as if the map were surrounded by zeros.
        modulation: the factor of each tap.
        kernel: the weights.
        first_row: the row of the map, also traced, that the first row of the output lies at.

    Source: Zhu et al., "Deformable ConvNets v2"; mmcv's `ModulatedDeformConv2d`.
    """
    b, r, w, _ = offsets.shape
    k = kernel.shape[0]
    taps = k * k
    # Planes [taps, b, h, w]: a last axis of 2 or k² would waste most of an accelerator's lanes.
    planes = jnp.moveaxis(offsets, -1, 0)
    dy, dx = planes[0::2], planes[1::2]
    factor = jnp.moveaxis(modulation, -1, 0)
    tap_y, tap_x = jnp.divmod(jnp.arange(taps), k)

    # The backward pass projects again instead of keeping k² projected maps.
    @jax.checkpoint
    def tap(x, kernel, dy, dx, factor, tap_y, tap_x):
        rows = first_row + jnp.arange(r)[:, None] + (tap_y - k // 2)
        columns = jnp.arange(w)[None, :] + (tap_x - k // 2)
        projected = jnp.einsum("bhwc,co->bhwo", x, kernel)
        sample = jax.vmap(_sample, in_axes=(0, 0, 0, 0))
        # Integer part first: in float32, position + offset is then rounded once.
        y = rows.astype(dy.dtype)[None] + dy
        x_ = columns.astype(dx.dtype)[None] + dx
        return sample(projected, y, x_, factor)

    def step(total, tap_inputs):
        return total + tap(x, *tap_inputs), None

    kernels = kernel.reshape(taps, *kernel.shape[2:])
    total = jnp.zeros((b, r, w, kernel.shape[-1]), jnp.result_type(x, kernel))
    total, _ = jax.lax.scan(step, total, (kernels, dy, dx, factor, tap_y, tap_x))
    return total


def _sample(
    values: Float[Array, "h w o"],
    y: Float[Array, "r w"],
    x: Float[Array, "r w"],
    factor: Float[Array, "r w"],
) -> Float[Array, "r w o"]:
    """`factor` times the bilinear samples of `values` at (y, x), zeros outside."""
    h, w, o = values.shape
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = y - top, x - left
    # Clipped before the cast: a float far outside the range of int32 has no defined integer.
    top = jnp.clip(top, -2, h).astype(jnp.int32)
    left = jnp.clip(left, -2, w).astype(jnp.int32)
    flat = values.reshape(h * w, o)

    def corner(row, column, weight):
        inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        index = jnp.clip(row, 0, h - 1) * w + jnp.clip(column, 0, w - 1)
        weight = jnp.where(inside, weight * factor, 0).astype(values.dtype)
        return flat.at[index].get(mode="promise_in_bounds") * weight[..., None]

    return (
        corner(top, left, (1 - down) * (1 - right))
        + corner(top, left + 1, (1 - down) * right)
        + corner(top + 1, left, down * (1 - right))
        + corner(top + 1, left + 1, down * right)
    )
