"""Counts of right and wrong pixels: exact integers, made on the device. Ratios: `scores`.

Masks are counted as bit planes: a byte holds one bit of eight rows, so the pixels that are in
several masks at once are bitwise ands and set bits.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt8

from massformer_jax.data.classes import IGNORE
from massformer_jax.ops.boundaries import boundary, class_bits, contours, spread

# Share of the image's diagonal that a boundary is wide (Boundary IoU, arXiv 2103.16562, has 0.02;
# the matting-level benchmark asks for 0.001: 5 pixels of a 4096x3072 photograph).
BOUNDARY_RATIO = 0.001
# How far a contour may be off, see `tolerance_pixels`.
TOLERANCES = (0.0075, 0.001)

_TILE = 1120  # pixels a side at most, unless the margins are wider
_ROWS_A_BYTE = 8
_BYTES_AT_ONCE = 4  # whose set bits are summed up in a byte
_ROWS = _ROWS_A_BYTE * _BYTES_AT_ONCE


class Counts(NamedTuple):
    """Pixels, by class; int32 of one image on the device, int64 [n ...] of n images in a pool.

    `confusion` holds pixels by truth (first axis) and prediction; like the contours, it leaves out
    what is labelled 255. The boundaries are `boundary_radius` wide and do not leave it out. A
    contour pixel of the prediction is matched if the truth has one of the same class within the
    tolerance t, and the other way round.
    """

    confusion: Int[Array | np.ndarray, "*b k k"]
    boundary_intersect: Int[Array | np.ndarray, "*b k"]
    boundary_union: Int[Array | np.ndarray, "*b k"]
    contour_pred: Int[Array | np.ndarray, "*b k"]
    contour_label: Int[Array | np.ndarray, "*b k"]
    matched_pred: Int[Array | np.ndarray, "*b t k"]
    matched_label: Int[Array | np.ndarray, "*b t k"]

    @property
    def intersect(self) -> Int[Array | np.ndarray, "*b k"]:
        """Pixels of each class that are predicted as such."""
        return self.confusion.diagonal(axis1=-2, axis2=-1)

    @property
    def pred(self) -> Int[Array | np.ndarray, "*b k"]:
        """Predicted pixels of each class."""
        return self.confusion.sum(-2)

    @property
    def label(self) -> Int[Array | np.ndarray, "*b k"]:
        """True pixels of each class."""
        return self.confusion.sum(-1)

    @property
    def union(self) -> Int[Array | np.ndarray, "*b k"]:
        """Pixels that are of a class or predicted as such."""
        return self.pred + self.label - self.intersect


def boundary_radius(height: int, width: int, ratio: float = BOUNDARY_RATIO) -> int:
    """Width in pixels of the boundary of an image's masks: a share of the diagonal, at least 1."""
    return max(1, round(ratio * math.sqrt(height**2 + width**2)))


def tolerance_pixels(height: int, width: int, tolerance: float) -> float:
    """The tolerance, which is a share of the image's diagonal if it is below 1, in pixels."""
    return tolerance if tolerance >= 1 else tolerance * math.sqrt(height**2 + width**2)


@functools.partial(jax.jit, static_argnames=("num_classes", "boundary_ratio", "tolerances"))
def image_counts(
    prediction: UInt8[Array, "h w"],
    label: UInt8[Array, "h w"],
    *,
    num_classes: int = 7,
    boundary_ratio: float = BOUNDARY_RATIO,
    tolerances: tuple[float, ...] = TOLERANCES,
) -> Counts:
    """Counts of one image; vmap it over a batch of equal sizes.

    Args:
      prediction: class of every pixel, 0..num_classes-1.
      label: the truth, 0..num_classes-1 or 255 (belongs to no class).
      num_classes: number of classes k.
      boundary_ratio: width of the boundaries as a share of the diagonal: 0.001 as in the released
        evaluator, 0.02 as in the paper of Boundary IoU.
      tolerances: of the contours, at most six, each a share of the diagonal (below 1) or pixels.
        Most of the time is spent on the widest; without any, no contour is matched.

    Returns:
      int32 counts, for images below 2^31 pixels.
    """
    size = label.shape
    radius = boundary_radius(*size, boundary_ratio)
    distances = [tolerance_pixels(*size, tolerance) for tolerance in tolerances]
    # In tiles, one after the other, with as much of their neighbours as decides about them. At
    # once, 12 megapixels take 250 MB, and getting those from the system half of the time; what a
    # tile takes stays below the 32 MB from which on the C library gives memory back each time.
    margin = max(radius, math.floor(max(distances, default=0)) + 1)
    cores, sides = zip(*(_tiling(length, margin) for length in size), strict=True)
    short = [(0, max(0, side - length)) for side, length in zip(sides, size, strict=True)]
    maps = [jnp.pad(x, short, constant_values=IGNORE) for x in (prediction, label)]

    def count(first):
        starts, inside = [], []
        for i, core, side, length in zip(first, cores, sides, size, strict=True):
            start = jnp.clip(i - margin, 0, max(length - side, 0))
            places = start + jnp.arange(side)
            starts.append(start)
            inside.append((places >= i) & (places < jnp.minimum(i + core, length)))
        seen = (lax.dynamic_slice(x, starts, sides) for x in maps)
        return _tile_counts(
            *seen, inside[0][:, None] & inside[1][None], num_classes, radius, distances
        )

    firsts = (np.arange(0, length, core) for length, core in zip(size, cores, strict=True))
    y, x = (jnp.asarray(grid.ravel(), jnp.int32) for grid in np.meshgrid(*firsts, indexing="ij"))
    return Counts(*(field.sum(0) for field in lax.map(count, (y, x))))


def _tiling(length: int, margin: int) -> tuple[int, int]:
    """Pixels of a side that a tile answers for, and that it looks at: those and both margins."""
    count = -(-length // max(_TILE - 2 * margin, 2 * margin))
    core = -(-length // count)
    return core, -(-(core + 2 * margin) // _ROWS) * _ROWS


def _tile_counts(
    prediction: UInt8[Array, "h w"],
    label: UInt8[Array, "h w"],
    counted: Bool[Array, "h w"],
    num_classes: int,
    radius: int,
    distances: list[float],
) -> Counts:
    """Counts of the pixels that are `counted`."""

    def outline(labels, others):
        seen = jnp.where(others == IGNORE, jnp.uint8(IGNORE), labels)
        bits = class_bits(jnp.where(contours(seen), seen, jnp.uint8(IGNORE)), num_classes)
        return bits, boundary(labels, radius)

    def flag(mine, other):
        """A byte: a bit for the boundary, one for the contour, one for each tolerance."""
        bits, edge = mine
        # Byte of classes by byte of classes: a pixel is in one class, so in one of them.
        pairs = list(zip(bits, other[0], strict=True))
        near = (
            functools.reduce(jnp.bitwise_or, (x & spread(y, distance) for x, y in pairs)) != 0
            for distance in distances
        )
        masks = (edge, jnp.any(bits != 0, 0), *near)
        return functools.reduce(
            jnp.bitwise_or, (mask.astype(jnp.uint8) << i for i, mask in enumerate(masks))
        )

    def planes(mine, other):
        labels, flags = mine
        # Release: 255 is not dropped from the boundaries: a prediction's boundary counts against
        # the union where there is no truth (metrics_test.py::test_counts_equal_the_release).
        common_edge = (flags & other[1] & 1 != 0) & (labels == other[0])
        masks = (common_edge, *((flags >> i) & 1 != 0 for i in range(2 + len(distances))))
        of_class = [_plane((labels == k) & counted) for k in range(num_classes)]
        return jnp.stack(of_class), [_plane(mask) for mask in masks]

    pred_flags, label_flags = _each(flag, *_each(outline, prediction, label))
    (predicted, pred_masks), (labelled, label_masks) = _each(
        planes, (prediction, pred_flags), (label, label_flags)
    )
    of_pred = _ones(predicted, [*pred_masks, *labelled])
    of_label = _ones(labelled, label_masks[1:])
    t = 3 + len(distances)
    return Counts(
        confusion=of_pred[t:],
        boundary_intersect=of_pred[0],
        boundary_union=of_pred[1] + of_label[0] - of_pred[0],
        contour_pred=of_pred[2],
        contour_label=of_label[1],
        matched_pred=of_pred[3:t],
        matched_label=of_label[2:],
    )


def _each(step, one, two):
    """(step(one, two), step(two, one)), stored.

    XLA on CPU fuses what it can: it would compute the results again for each pixel of each of their
    users, and could not vectorise that. It cannot fuse across a loop, in which the two take turns.
    """

    def turn(_, carry):
        (mine, other), (_, done) = carry
        return (other, mine), (done, step(mine, other))

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step, one, two))
    return lax.fori_loop(0, 2, turn, ((one, two), (nothing, nothing)))[1]


def _plane(mask: Bool[Array, "h w"]) -> UInt8[Array, "i w"]:
    """Eight rows a byte."""
    rows = mask.astype(jnp.uint8).reshape(-1, _ROWS_A_BYTE, mask.shape[1])
    return functools.reduce(jnp.bitwise_or, (rows[:, i] << i for i in range(_ROWS_A_BYTE)))


def _ones(planes: UInt8[Array, "k i w"], masks: list[UInt8[Array, "i w"]]) -> Int[Array, "m k"]:
    """Bits set both in a plane and in a mask, int32."""
    k, _, width = planes.shape

    def count(mask):
        bits = lax.population_count(planes & mask[None]).reshape(k, -1, _BYTES_AT_ONCE, width)
        return bits.sum(2, dtype=jnp.uint8).sum((1, 2), dtype=jnp.int32)

    return lax.map(count, jnp.stack(masks))


def zero_counts(num_classes: int = 7, num_tolerances: int = len(TOLERANCES)) -> Counts:
    """The pool before the first image: no images, int64 on the host."""
    k, t = num_classes, num_tolerances
    shapes = Counts((k, k), (k,), (k,), (k,), (k,), (t, k), (t, k))
    return Counts(*(np.zeros((0, *shape), np.int64) for shape in shapes))


def add_counts(pool: Counts, counts: Counts) -> Counts:
    """The pool (int64 [n ...], host) with one image more, or with those of a batch [b ...].

    Waits for the device: call it for the image before, while the next one is computed.
    """
    return Counts(
        *(
            np.concatenate([images, np.asarray(field, np.int64).reshape(-1, *images.shape[1:])])
            for images, field in zip(pool, counts, strict=True)
        )
    )
