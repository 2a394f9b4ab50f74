"""Bilinear reading of maps at scattered points, as `point_sample` of Mask2Former does it.

Source: PointRend (Kirillov et al., CVPR 2020), section 3; the release calls mmcv's `point_sample`,
which is `grid_sample(bilinear, zeros, align_corners=False)`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped


def widened(dtype: DTypeLike) -> jnp.dtype:
    """The dtype that losses are computed in: float32, or what is given if that is wider."""
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits > 32 else jnp.dtype(jnp.float32)


def sample_points(
    maps: Shaped[Array, "*b h w c"],
    points: Float[Array, "*b p 2"],
    read: Callable[[Array], Array] | None = None,
) -> Float[Array, "*b p d"]:
    """Values of `maps` at `points`: bilinear, half-pixel centres, zero outside the map.

    Args:
      maps: floating, or of any dtype if `read` is given.
      points: (x, y) in [0, 1), as fractions of the width and of the height. The four pixels around
        a point within half a pixel of the border lie partly outside; those count as zero.
      read: turns stored values [*b p c] into the floating values [*b p d] that are interpolated, so
        that a map may be kept in a compact form (labels, bytes) and never be unpacked as a whole.

    Returns:
      In the `widened` dtype of the maps; of the points if `read` is given.
    """
    height, width, channels = maps.shape[-3:]
    flat = maps.reshape(*maps.shape[:-3], height * width, channels)
    dtype = widened(maps.dtype if read is None else points.dtype)
    x = points[..., 0].astype(dtype) * width - 0.5
    y = points[..., 1].astype(dtype) * height - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    right_share, bottom_share = x - left, y - top

    # One corner at a time: all four at once would hold four times the result.
    total = None
    for dy in (0, 1):
        for dx in (0, 1):
            column, row = left.astype(jnp.int32) + dx, top.astype(jnp.int32) + dy
            weight = (right_share if dx else 1 - right_share) * (
                bottom_share if dy else 1 - bottom_share
            )
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
            values = jnp.take_along_axis(flat, index[..., None], axis=-2, mode="clip")
            values = (values if read is None else read(values)).astype(dtype)
            term = values * jnp.where(inside, weight, 0)[..., None]
            total = term if total is None else total + term
    return total
