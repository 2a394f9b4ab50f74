"""Bilinear reading of maps at scattered points, as `point_sample` of Mask2Former does it.

Source: PointRend (Kirillov et al., CVPR 2020), section 3; the release calls mmcv's `point_sample`,
which is `grid_sample(bilinear, zeros, align_corners=False)`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from massformer_jax.ops.precision import widened


def sample_points(
    maps: Shaped[Array, "*b h w c"],
    points: Float[Array, "*b p 2"],
    read: Callable[[Array], Array] | None = None,
) -> Float[Array, "*b p d"]:
    """Returns the values of `maps` at `points`: bilinear, half-pixel centres, zero outside the map.

    Args:
        maps: floating, or of any dtype if `read` is given.
        points: (x, y) in [0, 1), as fractions of the width and of the height. The four pixels
            around a point within half a pixel of the border lie partly outside; those count as
            zero.
        read: turns stored values [*b p c] into the floating values [*b p d] that are interpolated,
            so that a map may be kept in a compact form (labels, bytes), which is never unpacked
            completely.

    Returns:
        Values in the `widened` dtype of the maps, or of the points if `read` is given.
    """
    height, width, channels = maps.shape[-3:]
    flat = maps.reshape(*maps.shape[:-3], height * width, channels)
    dtype = widened(maps.dtype if read is None else points.dtype)
    # One corner at a time: all four at once would hold four times the result, and gathering them
    # together was up to ten times slower on CPU.
    total = None
    for row, row_weight in _taps(points[..., 1].astype(dtype), height):
        for column, column_weight in _taps(points[..., 0].astype(dtype), width):
            values = jnp.take_along_axis(
                flat,
                (row * width + column)[..., None],
                axis=-2,
                mode="promise_in_bounds",
                wrap_negative_indices=False,
            )
            values = (values if read is None else read(values)).astype(dtype)
            term = values * (row_weight * column_weight)[..., None]
            total = term if total is None else total + term
    return total


def _taps(coordinate: Array, size: int) -> list[tuple[Array, Array]]:
    """Returns the two pixels around a coordinate in [0, 1), as (index, weight).

    The weight of a pixel outside of the map is 0.
    """
    position = coordinate * size - 0.5
    low = jnp.floor(position)
    share = position - low
    taps = []
    for index, weight in ((low, 1 - share), (low + 1, share)):
        index = index.astype(jnp.int32)
        inside = (index >= 0) & (index < size)
        taps.append((jnp.clip(index, 0, size - 1), jnp.where(inside, weight, 0)))
    return taps
