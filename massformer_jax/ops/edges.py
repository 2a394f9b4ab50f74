"""Edges of label maps, and the compact target maps that the point losses read."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8

from massformer_jax.classes import IGNORE

WINDOW = 5  # side of the averaging window of the boundary weight
_MASK_BIT = 5  # a window holds at most 25 pixels, which leaves bits 5 and up free
_COUNT_BITS = (1 << _MASK_BIT) - 1


def edge_map(labels: UInt8[Array, "b h w"]) -> Bool[Array, "b h w"]:
    """Returns the pixels on the edge between two classes, two pixels wide.

    A pixel is marked if its label differs from the one above it, to its right, at its lower right
    or at its lower left; a pair with an ignored pixel (255) does not count. The marks are then
    dilated by 2x2: a pixel is an edge if it, the one above, the one to its left or the one at its
    upper left is marked. Source: `GenerateEdge(edge_width=2)` of the released pipeline.
    """
    _, height, width = labels.shape

    # A frame of ignored pixels: a neighbour outside the image never counts.
    framed = jnp.pad(labels, ((0, 0), (1, 1), (1, 1)), constant_values=IGNORE)
    marked = jnp.zeros(labels.shape, bool)
    for dy, dx in ((-1, 0), (0, 1), (1, 1), (1, -1)):
        other = framed[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        marked |= (labels != other) & (labels != IGNORE) & (other != IGNORE)

    rows = marked | jnp.pad(marked, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return rows | jnp.pad(rows, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]


def pack_masks(masks: Bool[Array, "*b h w"]) -> UInt8[Array, "*b h w"]:
    """Returns one byte per pixel that holds a mask and its boundary weight: see `unpack_masks`.

    The weight is a multiple of 1/25, so the byte is exact. Mask and weight of the four pixels
    around a point fit into one word, which one gather reads (`points.corners`); as floats they
    would take eight. The words take 470 MB for 16 images of 1024x1024 and seven classes.

    A byte holds the number of mask pixels in the 5x5 window, 0 beyond the image's border,
    plus 32 where the pixel itself is in the mask.
    """
    counts = masks.astype(jnp.uint8)
    for axis in (-2, -1):
        margin = [(0, 0)] * masks.ndim
        margin[axis] = (WINDOW // 2, WINDOW // 2)
        padded = jnp.pad(counts, margin)
        size = masks.shape[axis]
        rows = (slice(i, i + size) for i in range(WINDOW))
        parts = [padded[..., r, :] if axis == -2 else padded[..., r] for r in rows]
        counts = sum(parts[1:], start=parts[0])
    return counts + (masks.astype(jnp.uint8) << _MASK_BIT)


def unpack_masks(
    packed: UInt8[Array, "*s"], dtype: DTypeLike
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Returns the mask (0 or 1) and its boundary weight |mean of the 5x5 window - mask|, 0..0.96.

    The window's mean counts pixels outside the image as zeros. Source: `avg_pool2d(5, 1, 2)` in
    the released `_loss_by_feat_single`.
    """
    mask = (packed >> _MASK_BIT).astype(dtype)
    counts = (packed & _COUNT_BITS).astype(dtype)
    return mask, jnp.abs(counts / WINDOW**2 - mask)
