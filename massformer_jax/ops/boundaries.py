"""Where label maps change: wide boundaries, contours, and what lies near a contour.

All of them are unions of shifted copies of a byte map, as few as there can be: a window of n pixels
costs log2(n) copies, and a byte carries eight classes. Outside of a map everything is `IGNORE`.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, UInt8

from massformer_jax.classes import IGNORE

CLASSES_PER_BYTE = 8


def boundary(labels: UInt8[Array, "h w"], radius: int) -> Bool[Array, "h w"]:
    """Returns the pixels that an erosion by a (2 radius + 1)² square takes from their label's mask.

    Outside the map counts as outside of every mask, so its frame is a boundary. A mask keeps a
    pixel exactly where the square around it holds one label only, that is, where none of the 2x2
    squares in it holds two: all masks are eroded at once.

    Args:
        labels: any values; what is returned where they are 255 means nothing.
        radius: in pixels, at least 1. 5 is the same as 5 erosions by a 3x3 square.
    """
    x = jnp.pad(labels, radius, constant_values=IGNORE)
    corner = x[:-1, :-1]
    change = (corner != x[1:, :-1]) | (corner != x[:-1, 1:]) | (corner != x[1:, 1:])
    for axis in (0, 1):
        change = _any_of(change, 2 * radius, axis)
    return change


def contours(labels: UInt8[Array, "h w"]) -> Bool[Array, "h w"]:
    """Returns the pixels with another class above, below, to the left or to the right.

    Each of two touching classes has a contour of its own, one pixel wide, on its side. Neither the
    map's frame nor the rim of an ignored region (255) is one: nobody knows what lies beyond.
    """
    x = jnp.pad(labels, 1, constant_values=IGNORE)
    others = (x[:-2, 1:-1], x[2:, 1:-1], x[1:-1, :-2], x[1:-1, 2:])
    differs = [(labels != other) & (other != IGNORE) for other in others]
    return (differs[0] | differs[1] | differs[2] | differs[3]) & (labels != IGNORE)


def class_bits(labels: UInt8[Array, "h w"], num_classes: int) -> UInt8[Array, "s h w"]:
    """Returns one bit per class, in s = ceil(k / 8) bytes per pixel.

    Class 0 is bit 0 of the first byte, class 8 is bit 0 of the second. Labels beyond the classes,
    such as 255, have no bit.
    """

    def byte(first):
        place = labels - jnp.uint8(first)
        known = (place < CLASSES_PER_BYTE) & (labels < num_classes)
        return jnp.where(known, jnp.uint8(1) << place, jnp.uint8(0))

    return jnp.stack([byte(first) for first in range(0, num_classes, CLASSES_PER_BYTE)])


def spread(bits: UInt8[Array, "h w"], distance: float) -> UInt8[Array, "h w"]:
    """Returns for each pixel the bits of all pixels at most `distance` away.

    The distance, at least 0, is Euclidean, in pixels, between pixel centres. The answer is exact.
    """
    height, width = bits.shape
    reach = half_widths(distance)
    r = reach[0]
    windows, n = {1: jnp.pad(bits, r)}, 1  # windows[n][:, i]: union of n columns from i on
    while 2 * n <= 2 * r + 1:
        windows[2 * n] = windows[n][:, :-n] | windows[n][:, n:]
        n *= 2
    rows = {}
    for half in set(reach):
        n = 1 << ((2 * half + 1).bit_length() - 1)
        left, right = r - half, r + half + 1 - n
        rows[half] = windows[n][:, left : left + width] | windows[n][:, right : right + width]
    out = rows[r][r : r + height]
    for dy, half in enumerate(reach[1:], 1):
        out |= rows[half][r - dy : r - dy + height] | rows[half][r + dy : r + dy + height]
    return out


def half_widths(distance: float) -> list[int]:
    """Returns how far each row of the disc of radius `distance` reaches, in pixels.

    Row dy from the centre reaches the largest dx with dx² + dy² ≤ distance², for dy = 0, 1, …,
    floor(distance).
    """
    square = math.floor(distance**2)
    return [math.isqrt(square - dy**2) for dy in range(math.isqrt(square) + 1)]


def _any_of(mask: Bool[Array, "h w"], n: int, axis: int) -> Bool[Array, "i j"]:
    """Returns mask[i] or … or mask[i + n - 1] along the axis, which becomes n - 1 shorter."""

    def union(x, step):
        size = x.shape[axis] - step
        first, second = (lax.slice_in_dim(x, i, i + size, axis=axis) for i in (0, step))
        return first | second

    covered = 1
    while 2 * covered <= n:
        mask = union(mask, covered)
        covered *= 2
    return union(mask, n - covered) if n > covered else mask
