"""Small pictures of large images: an overview, and the worst parts at full resolution.

The picture of a 4096x3072 photograph with two label maps and a map of errors takes about 120 kB.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from massformer_jax.classes import IGNORE
from massformer_jax.metrics.counts import boundary_radius
from massformer_jax.report.overlay import IGNORE_COLOUR

OVERVIEW = 640  # pixels along the longer side of the overview, at most
TILE = 256  # pixels along each side of a part
TILES = 3
_BLOCK = 8  # side of the blocks in which errors are summed up to find the worst parts, in pixels
_QUALITY, _TILE_QUALITY, _LOSSLESS = 60, 75, 101  # of WebP, on the scale of OpenCV

# What `errors` returns, the least important first: where a picture is reduced, each pixel shows the
# largest of those it stands for.
NOTHING, ELSEWHERE, FOUND, MISSED, INVENTED, WRONG = range(6)
# RGB and opacity. The colour-blind can tell these colours apart, too (Okabe and Ito).
ERROR_COLOURS = (
    (0, 0, 0, 0),
    (204, 121, 167, 110),
    (255, 255, 255, 150),
    (230, 159, 0, 255),
    (86, 180, 233, 255),
    (213, 60, 20, 255),
)


class Level(NamedTuple):
    """A rectangle of an image, in layers of one size that lie one upon the other.

    Attributes:
        x: distance of the rectangle from the left of the image, in pixels of the image.
        y: distance from its top.
        reduction: how many pixels of the image lie along the side of one pixel of the layers.
        width: width of the layers.
        height: height of the layers.
        layers: each layer by its name, as WebP.
    """

    x: int
    y: int
    reduction: int
    width: int
    height: int
    layers: dict[str, bytes]


class Picture(NamedTuple):
    """An image at several levels, the overview first; `parts` are its worst: (x, y, side)."""

    width: int
    height: int
    levels: tuple[Level, ...]
    parts: tuple[tuple[int, int, int], ...]

    @property
    def bytes(self) -> int:
        """Size of all its layers together."""
        return sum(len(data) for level in self.levels for data in level.layers.values())


def boundary(labels: UInt8[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    """Computes the same as `ops.boundaries.boundary`, on the host while the devices are busy."""
    x = cv2.copyMakeBorder(labels, *(radius,) * 4, cv2.BORDER_CONSTANT, value=IGNORE)
    corner = x[:-1, :-1]
    change = (corner != x[1:, :-1]) | (corner != x[:-1, 1:]) | (corner != x[1:, 1:])
    # The window is anchored at its upper left: near[y, x] depends on rows y .. y + 2 radius - 1.
    window = np.ones((2 * radius, 2 * radius), np.uint8)
    near = cv2.dilate(change.view(np.uint8), window, anchor=(0, 0))
    return near[: labels.shape[0], : labels.shape[1]].view(bool)


def errors(
    truth: UInt8[np.ndarray, "h w"],
    prediction: UInt8[np.ndarray, "h w"],
    boundary_ratio: float,
) -> UInt8[np.ndarray, "h w"]:
    """Tells of each pixel how boundary IoU counts it.

    Args:
        truth: 0..k-1 or 255.
        prediction: 0..k-1.
        boundary_ratio: see `metrics.counts.image_counts`.

    Returns:
        FOUND on the boundary both of the truth and of the prediction, with the same class; WRONG on
        both, with different classes; MISSED on that of the truth alone; INVENTED on that of the
        prediction alone; ELSEWHERE where the class is wrong away from any boundary; else NOTHING.
    """
    radius = boundary_radius(*truth.shape, boundary_ratio)
    known, right = truth != IGNORE, truth == prediction
    ours, theirs = boundary(prediction, radius), boundary(truth, radius) & known
    codes = np.where(known & ~right, np.uint8(ELSEWHERE), np.uint8(NOTHING))
    codes[theirs] = MISSED
    codes[ours] = INVENTED
    both = ours & theirs
    codes[both] = np.where(right[both], np.uint8(FOUND), np.uint8(WRONG))
    return codes


def draw(
    image: UInt8[np.ndarray, "h w 3"] | None,
    truth: UInt8[np.ndarray, "h w"],
    predictions: Mapping[str, UInt8[np.ndarray, "h w"]],
    *,
    boundary_ratio: float,
    palette: Sequence[Sequence[int]],
) -> Picture:
    """Draws the photograph, the truth, the predictions and their errors of an image.

    Args:
        image: the photograph, RGB, or None if there is none.
        truth: 0..k-1 or 255.
        predictions: one or two label maps, 0..k-1, by a suffix for the names of their layers.
        boundary_ratio: see `metrics.counts.image_counts`.
        palette: RGB of the classes.

    Returns:
        A picture with the layers `photo` and `truth`, and for each prediction `prediction…` and
        `errors…`. Its parts are where most boundary pixels are wrong. With two predictions they are
        where most pixels are wrong in only one of them.
    """
    colours = [*palette, *[(255, 255, 255)] * (IGNORE - len(palette)), IGNORE_COLOUR]
    maps, found = {"truth": (truth, colours)}, []
    for suffix, prediction in predictions.items():
        codes = errors(truth, prediction, boundary_ratio)
        found.append(codes)
        maps[f"prediction{suffix}"] = (prediction, colours)
        maps[f"errors{suffix}"] = (codes, ERROR_COLOURS)
    wrong = [codes >= MISSED for codes in found]
    height, width = truth.shape
    parts = worst_parts(wrong[0] if len(wrong) == 1 else wrong[0] ^ wrong[1])
    reduction = math.ceil(max(truth.shape) / OVERVIEW)
    levels = [_level(image, maps, (0, 0, width, height), reduction)]
    if reduction > 1:
        levels += [_level(image, maps, (x, y, side, side), 1) for x, y, side in parts]
    return Picture(width, height, tuple(levels), parts)


def worst_parts(wrong: Bool[np.ndarray, "h w"]) -> tuple[tuple[int, int, int], ...]:
    """Returns up to `TILES` squares (x, y, side) with the most wrong pixels, the worst first.

    Pixels that an earlier square shows do not count for a later one. There is no square where no
    pixel is wrong.
    """
    side = min(TILE, max(wrong.shape) // 4, *wrong.shape)
    side -= side % _BLOCK
    if side < _BLOCK:
        return ()
    height, width = (length // _BLOCK for length in wrong.shape)
    seen = wrong[: height * _BLOCK, : width * _BLOCK]
    sums = seen.reshape(height, _BLOCK, width, _BLOCK).sum((1, 3), dtype=np.int32)
    blocks = side // _BLOCK
    parts = []
    for _ in range(TILES):
        integral = np.pad(sums, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        lower, upper = integral[blocks:], integral[:-blocks]
        windows = lower[:, blocks:] - lower[:, :-blocks] - upper[:, blocks:] + upper[:, :-blocks]
        y, x = np.unravel_index(windows.argmax(), windows.shape)
        if not windows[y, x]:
            break
        parts.append((int(x) * _BLOCK, int(y) * _BLOCK, side))
        sums[y : y + blocks, x : x + blocks] = 0
    return tuple(parts)


def _level(image, maps, place: tuple[int, int, int, int], reduction: int) -> Level:
    x, y, width, height = place
    layers = {}
    if image is not None:
        part = image[y : y + height, x : x + width]
        quality = _QUALITY if reduction > 1 else _TILE_QUALITY
        layers["photo"] = _photo(_means(part, reduction), quality)
    for name, (codes, colours) in maps.items():
        part = codes[y : y + height, x : x + width]
        keep = _largest if name.startswith("errors") else _middles
        layers[name] = _map(keep(part, reduction), colours)
    size = -(-width // reduction), -(-height // reduction)
    return Level(x, y, reduction, *size, layers)


def _padded(x: np.ndarray, reduction: int) -> np.ndarray:
    """Continues a map at the bottom and the right, to multiples of the reduction."""
    bottom, right = (-length % reduction for length in x.shape[:2])
    return cv2.copyMakeBorder(x, 0, bottom, 0, right, cv2.BORDER_REPLICATE)


def _means(image: np.ndarray, reduction: int) -> np.ndarray:
    padded = _padded(image, reduction)
    size = (padded.shape[1] // reduction, padded.shape[0] // reduction)
    return cv2.resize(padded, size, interpolation=cv2.INTER_AREA)


def _middles(labels: np.ndarray, reduction: int) -> np.ndarray:
    middle = slice(reduction // 2, None, reduction)
    return _padded(labels, reduction)[middle, middle]


def _largest(codes: np.ndarray, reduction: int) -> np.ndarray:
    if reduction == 1:
        return codes
    window = np.ones((reduction, reduction), np.uint8)
    largest = cv2.dilate(_padded(codes, reduction), window, anchor=(0, 0))
    return largest[::reduction, ::reduction]


def _photo(image: np.ndarray, quality: int) -> bytes:
    return _webp(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)


def _map(codes: np.ndarray, colours: Sequence[Sequence[int]]) -> bytes:
    """Encodes a map without loss, in two thirds of the bytes of a PNG."""
    table = np.array([(*rgba, 255)[:4] for rgba in colours], np.uint8)
    return _webp(cv2.cvtColor(table[codes], cv2.COLOR_RGBA2BGRA), _LOSSLESS)


def _webp(image: np.ndarray, quality: int) -> bytes:
    return cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
