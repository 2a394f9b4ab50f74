"""Counts of right and wrong pixels: exact integers, made on the device.

`metrics.scores` makes ratios of them. Masks are counted as bit planes: a byte holds one bit of each
of eight rows. So the pixels that are in several masks at once are the set bits of a bitwise and.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt8

from massformer_jax.classes import IGNORE
from massformer_jax.ops.boundaries import boundary, class_bits, contours, spread

# Width of a boundary as a share of the image's diagonal. The paper of Boundary IoU (arXiv
# 2103.16562) has 0.02, the matting-level benchmark 0.001: 5 pixels of a 4096x3072 photograph.
BOUNDARY_RATIO = 0.001
# Distances by which a contour may be off, see `tolerance_pixels`.
TOLERANCES = (0.0075, 0.001, 1.0)
# So many are counted at once: of a pixel's byte, two bits are its boundary and its contour.
MOST_TOLERANCES = 6

_TILE = 1120  # pixels along each side at most, unless the margins are wider
_ROWS_PER_BYTE = 8
_MOST_PLANES = 32  # classes; of more, pixels are sorted into bins instead
_BYTES_AT_ONCE = 4  # the set bits of so many bytes are summed up in one byte
_ROWS = _ROWS_PER_BYTE * _BYTES_AT_ONCE


class Counts(NamedTuple):
    """Numbers of pixels for each class: int32 for one image on the device, int64 [n ...] in a pool.

    A pool holds the counts of n images, on the host. `confusion` holds pixels by truth (first axis)
    and prediction (second axis). Like the contours, it leaves out pixels that are labelled 255. The
    boundaries are `boundary_radius` wide and do not leave them out. A contour pixel of the
    prediction is matched if the truth has a contour pixel of the same class within the tolerance t.
    A contour pixel of the truth is matched in the same way.
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
        """Pixels of each class that are predicted as this class."""
        return self.confusion.diagonal(axis1=-2, axis2=-1)

    @property
    def pred(self) -> Int[Array | np.ndarray, "*b k"]:
        """Pixels that are predicted as each class."""
        return self.confusion.sum(-2)

    @property
    def label(self) -> Int[Array | np.ndarray, "*b k"]:
        """Pixels whose true class is each class."""
        return self.confusion.sum(-1)

    @property
    def union(self) -> Int[Array | np.ndarray, "*b k"]:
        """Pixels that are of each class or are predicted as this class."""
        return self.pred + self.label - self.intersect


def boundary_radius(height: int, width: int, ratio: float = BOUNDARY_RATIO) -> int:
    """Returns how many pixels a mask's boundary is wide: a share of the diagonal, at least 1."""
    return max(1, round(ratio * math.sqrt(height**2 + width**2)))


def tolerance_pixels(height: int, width: int, tolerance: float) -> float:
    """Returns a tolerance in pixels; if it is below 1, it is a share of the image's diagonal."""
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
    """Counts the pixels of one image; `jax.vmap` makes it count a batch of equal sizes.

    Args:
        prediction: class of each pixel, 0..num_classes-1.
        label: the truth, 0..num_classes-1, or 255 where a pixel belongs to no class.
        num_classes: number of classes k.
        boundary_ratio: width of the boundaries as a share of the diagonal: 0.001 as in the released
            evaluator, 0.02 as in the paper of Boundary IoU.
        tolerances: distances by which contours may be off, at most `MOST_TOLERANCES`, each a share
            of the diagonal (below 1) or a number of pixels. The widest takes most of the time;
            without any, no contour is matched.

    Returns:
        int32 counts, for images below 2^31 pixels.

    Raises:
        ValueError: there are too many tolerances.
    """
    if len(tolerances) > MOST_TOLERANCES:
        raise ValueError(f"{len(tolerances)} tolerances; {MOST_TOLERANCES} can be counted at once")
    size = label.shape
    radius = boundary_radius(*size, boundary_ratio)
    distances = [tolerance_pixels(*size, tolerance) for tolerance in tolerances]
    # The image is counted in tiles, one after the other, each with as much of its neighbours as
    # decides about its own pixels. All 12 megapixels at once take 250 MB, and half of the time goes
    # into getting that memory from the system. A tile takes less than 32 MB: larger blocks would be
    # given back to the system by the C library each time.
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
    """Returns how many pixels along a side a tile counts, and how many it sees, with margins."""
    tiles = -(-length // max(_TILE - 2 * margin, 2 * margin))
    core = -(-length // tiles)
    return core, -(-(core + 2 * margin) // _ROWS) * _ROWS


def _tile_counts(
    prediction: UInt8[Array, "h w"],
    label: UInt8[Array, "h w"],
    counted: Bool[Array, "h w"],
    num_classes: int,
    radius: int,
    distances: list[float],
) -> Counts:
    """Counts the pixels of a tile where `counted` is true."""

    def outline(labels, others):
        seen = jnp.where(others == IGNORE, jnp.uint8(IGNORE), labels)
        bits = class_bits(jnp.where(contours(seen), seen, jnp.uint8(IGNORE)), num_classes)
        return bits, boundary(labels, radius)

    def flag(mine, other):
        """Returns a byte per pixel: a bit for the boundary, the contour and each tolerance."""
        bits, edge = mine
        near = (_common_nearby(bits, other[0], distance) for distance in distances)
        masks = (edge, jnp.any(bits != 0, 0), *near)
        return functools.reduce(
            jnp.bitwise_or, (mask.astype(jnp.uint8) << i for i, mask in enumerate(masks))
        )

    def planes(mine, other):
        labels, flags = mine
        # Release: 255 is not dropped from the boundaries: a prediction's boundary counts against
        # the union where there is no truth
        # (tests/metrics/counts_test.py::test_counts_equal_the_release).
        common_edge = (flags & other[1] & 1 != 0) & (labels == other[0])
        masks = (common_edge, *((flags >> i) & 1 != 0 for i in range(2 + len(distances))))
        if num_classes > _MOST_PLANES:
            return labels, masks
        of_class = [_plane((labels == k) & counted) for k in range(num_classes)]
        return jnp.stack(of_class), [_plane(mask) for mask in masks]

    pred_flags, label_flags = _both_ways(flag, *_both_ways(outline, prediction, label))
    (predicted, pred_masks), (labelled, label_masks) = _both_ways(
        planes, (prediction, pred_flags), (label, label_flags)
    )
    t = 3 + len(distances)
    if num_classes > _MOST_PLANES:
        confusion = _pairs(labelled, predicted, counted, num_classes)
        of_pred = _bins(predicted, [mask & counted for mask in pred_masks], num_classes)
        of_label = _bins(labelled, [mask & counted for mask in label_masks[1:]], num_classes)
    else:
        of_pred = _common_bits(predicted, [*pred_masks, *labelled])
        of_label = _common_bits(labelled, label_masks[1:])
        confusion = of_pred[t:]
    return Counts(
        confusion=confusion,
        boundary_intersect=of_pred[0],
        boundary_union=of_pred[1] + of_label[0] - of_pred[0],
        contour_pred=of_pred[2],
        contour_label=of_label[1],
        matched_pred=of_pred[3:t],
        matched_label=of_label[2:],
    )


def _common_nearby(
    bits: UInt8[Array, "s h w"], others: UInt8[Array, "s h w"], distance: float
) -> Bool[Array, "h w"]:
    """Returns the pixels whose own bit is among the others' at most `distance` away.

    A byte holds eight classes. A contour pixel has one class, so its bit is in one of them.
    """
    if len(bits) == 1:
        return bits[0] & spread(others[0], distance) != 0

    def add(found, pair):
        mine, other = pair
        return found | (mine & spread(other, distance)), None

    return lax.scan(add, jnp.zeros_like(bits[0]), (bits, others))[0] != 0


def _pairs(
    labels: UInt8[Array, "h w"],
    predictions: UInt8[Array, "h w"],
    counted: Bool[Array, "h w"],
    k: int,
) -> Int[Array, "k k"]:
    """Returns the numbers of counted pixels by label and prediction, int32.

    One bit plane for each of many classes takes minutes to compile, and as many reads of the image.
    """
    known = counted & (labels < k) & (predictions < k)
    pair = labels.astype(jnp.int32) * k + predictions.astype(jnp.int32)
    bins = jnp.where(known, pair, k * k).ravel()
    return jnp.zeros(k * k + 1, jnp.int32).at[bins].add(1)[:-1].reshape(k, k)


def _bins(
    labels: UInt8[Array, "h w"], masks: list[Bool[Array, "h w"]], k: int
) -> Int[Array, "m k"]:
    """Returns for each mask how many of its pixels have each of the labels 0..k-1, int32."""

    def count(mask):
        bins = jnp.where(mask & (labels < k), labels, k).astype(jnp.int32).ravel()
        return jnp.zeros(k + 1, jnp.int32).at[bins].add(1)[:-1]

    return lax.map(count, jnp.stack(masks))


def _both_ways(function, one, two):
    """Returns (function(one, two), function(two, one)), and has both results stored.

    On CPUs, XLA would fuse the function with whatever uses its results: it would compute them again
    for each pixel of each user, without vector instructions. It cannot fuse across a loop, so the
    two calls are the two rounds of one.
    """

    def turn(_, carry):
        (mine, other), (_, done) = carry
        return (other, mine), (done, function(mine, other))

    shapes = jax.eval_shape(function, one, two)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.fori_loop(0, 2, turn, ((one, two), (nothing, nothing)))[1]


def _plane(mask: Bool[Array, "h w"]) -> UInt8[Array, "i w"]:
    """Packs a mask into bytes, each of which holds a column of eight rows."""
    rows = mask.astype(jnp.uint8).reshape(-1, _ROWS_PER_BYTE, mask.shape[1])
    return functools.reduce(jnp.bitwise_or, (rows[:, i] << i for i in range(_ROWS_PER_BYTE)))


def _common_bits(
    planes: UInt8[Array, "k i w"], masks: list[UInt8[Array, "i w"]]
) -> Int[Array, "m k"]:
    """Returns how many bits are set both in each mask and in each plane, int32."""
    k, _, width = planes.shape

    def count(mask):
        bits = lax.population_count(planes & mask[None]).reshape(k, -1, _BYTES_AT_ONCE, width)
        return bits.sum(2, dtype=jnp.uint8).sum((1, 2), dtype=jnp.int32)

    return lax.map(count, jnp.stack(masks))


def zero_counts(num_classes: int = 7, num_tolerances: int = len(TOLERANCES)) -> Counts:
    """Returns a pool of no images, int64 on the host."""
    k, t = num_classes, num_tolerances
    shapes = Counts((k, k), (k,), (k,), (k,), (k,), (t, k), (t, k))
    return Counts(*(np.zeros((0, *shape), np.int64) for shape in shapes))


def add_counts(pool: Counts, counts: Counts) -> Counts:
    """Returns the pool with the counts of one more image, or of a batch [b ...].

    This waits for the device: call it for one image while the next one is computed.
    """
    return Counts(
        *(
            np.concatenate([images, np.asarray(field, np.int64).reshape(-1, *images.shape[1:])])
            for images, field in zip(pool, counts, strict=True)
        )
    )
