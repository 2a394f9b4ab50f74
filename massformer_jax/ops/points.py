"""Bilinear reading of maps at scattered points, as `point_sample` of Mask2Former does it.

Source: PointRend (Kirillov et al., CVPR 2020), section 3; the release calls mmcv's `point_sample`,
which is `grid_sample(bilinear, zeros, align_corners=False)`.
"""

import functools
import itertools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from massformer_jax.ops.precision import widened


def sample_points(
    maps: Float[Array, "*b h w c"], points: Float[Array, "*b p 2"]
) -> Float[Array, "*b p c"]:
    """Returns the values of `maps` at `points`: bilinear, half-pixel centres, zero outside the map.

    For maps of many channels. Those of one are read in a quarter of the time with `corners`.

    Args:
        maps: of any floating dtype.
        points: (x, y) in [0, 1), as fractions of the width and of the height. The four pixels
            around a point within half a pixel of the border lie partly outside; those count as
            zero.

    Returns:
        Values in the `widened` dtype of the maps.
    """
    height, width, channels = maps.shape[-3:]
    flat = maps.reshape(*maps.shape[:-3], height * width, channels)
    dtype = widened(maps.dtype)
    # One corner at a time: all four at once would hold four times the result, and gathering them
    # together was up to ten times slower on CPU.
    total = None
    for row, row_weight in _taps(points[..., 1].astype(dtype), height):
        for column, column_weight in _taps(points[..., 0].astype(dtype), width):
            index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
            values = jnp.take_along_axis(
                flat,
                index[..., None],
                axis=-2,
                mode="promise_in_bounds",
                wrap_negative_indices=False,
            )
            term = values.astype(dtype) * (row_weight * column_weight)[..., None]
            total = term if total is None else total + term
    return total


def corners(maps: Shaped[Array, "*b h w"]) -> Shaped[Array, "..."]:
    """Lays the four pixels around every point side by side, so that one gather reads them all.

    A TPU pays for the number of rows that it gathers, not for their length: reading the corners one
    by one took four times as long (docs/pods.md).

    Returns:
        [*b h+1 w+1 4] of the maps' dtype: at (i, j) pixels (i - 1, j - 1), (i - 1, j), (i, j - 1)
        and (i, j), with zeros for those outside. Of uint8 maps the four are the bytes of one word,
        the first the lowest: uint32 [*b h+1 w+1].
    """
    padded = jnp.pad(maps, [(0, 0)] * (maps.ndim - 2) + [(1, 1), (1, 1)])
    four = [padded[..., i : i - 1 or None, :] for i in (0, 1)]
    four = [rows[..., j : j - 1 or None] for rows in four for j in (0, 1)]
    if maps.dtype != jnp.uint8:
        return jnp.stack(four, -1)
    words = [corner.astype(jnp.uint32) << 8 * i for i, corner in enumerate(four)]
    return functools.reduce(jnp.bitwise_or, words)


def sample_corners(
    corners: Shaped[Array, "..."],
    points: Float[Array, "*b p 2"],
    read: Callable[[Array], Array] | None = None,
) -> Float[Array, "..."]:
    """Returns the values at `points` of the maps whose `corners` these are, as `sample_points`.

    Args:
        corners: see there.
        points: see `sample_points`.
        read: turns bytes [*b p] into the floating values [*b p *d] that are interpolated, so that
            maps may be kept as bytes, which are never unpacked completely.

    Returns:
        [*b p] in the `widened` dtype of the corners, or [*b p *d] in that of the points if the
        corners are words of bytes.
    """
    packed = corners.dtype == jnp.uint32
    dtype = widened(points.dtype if packed else corners.dtype)
    columns = corners.shape[points.ndim - 1]
    rows = corners.shape[points.ndim - 2]
    batch = points.shape[:-2]
    ys = _taps(points[..., 1].astype(dtype), rows - 1)
    xs = _taps(points[..., 0].astype(dtype), columns - 1)
    index = (ys[0][0] + 1) * columns + xs[0][0] + 1
    # All maps are one table: an index of the map inside of a gather would be unpacked for each row.
    maps = math.prod(batch)
    first = rows * columns * jnp.arange(maps, dtype=jnp.int32).reshape(*batch, 1)
    table = corners.reshape(maps * rows * columns, *([] if packed else [4]))
    found = table.at[(index + first).reshape(-1)].get(mode="promise_in_bounds")
    total = None
    for corner, (y, x) in enumerate(itertools.product(ys, xs)):
        if packed:
            values = (found >> 8 * corner).astype(jnp.uint8).reshape(index.shape)
            values = read(values).astype(dtype)
        else:
            values = found[..., corner].reshape(index.shape).astype(dtype)
        weight = y[1] * x[1]
        term = values * weight.reshape(weight.shape + (1,) * (values.ndim - weight.ndim))
        total = term if total is None else total + term
    return total


def _taps(coordinate: Array, size: int) -> list[tuple[Array, Array]]:
    """Returns the two pixels around a coordinate in [0, 1), as (index, weight).

    A pixel outside of the map has the weight 0, and an index of -1 or `size`.
    """
    position = coordinate * size - 0.5
    low = jnp.floor(position)
    share = position - low
    taps = []
    for index, weight in ((low, 1 - share), (low + 1, share)):
        index = index.astype(jnp.int32)
        inside = (index >= 0) & (index < size)
        taps.append((index, jnp.where(inside, weight, 0)))
    return taps
