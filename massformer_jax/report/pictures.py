"""Small pictures of large images: an overview, and the worst parts at full resolution.

A 4096x3072 photograph with two label maps and a map of errors takes about 120 kB this way.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from massformer_jax.data.classes import IGNORE
from massformer_jax.metrics import boundary_radius
from massformer_jax.overlay import IGNORE_COLOUR

OVERVIEW = 640  # pixels of its longer side at most
TILE = 256  # pixels a side of a part
TILES = 3
_BLOCK = 8  # pixels a side in which errors are summed up to find the worst parts
_QUALITY, _TILE_QUALITY, _LOSSLESS = 60, 75, 101  # of WebP, as OpenCV has it

# What `errors` gives, least important first: where a picture is reduced, the largest is kept.
NOTHING, ELSEWHERE, FOUND, MISSED, INVENTED, WRONG = range(6)
# Told apart by the colour-blind too (Okabe and Ito). RGB and opacity.
ERROR_COLOURS = (
    (0, 0, 0, 0),
    (204, 121, 167, 110),
    (255, 255, 255, 150),
    (230, 159, 0, 255),
    (86, 180, 233, 255),
    (213, 60, 20, 255),
)


class Level(NamedTuple):
    """A rectangle of an image; `layers` are encoded pictures of it, of one size."""

    x: int  # pixels of the image, from its left
    y: int  # from its top
    step: int  # pixels of the image along the side of a pixel of the layers
    width: int  # of the layers
    height: int
    layers: dict[str, bytes]  # WebP


class Picture(NamedTuple):
    """An image in levels, the overview first; `parts` are the worst: (x, y, side), pixels."""

    width: int
    height: int
    levels: tuple[Level, ...]
    parts: tuple[tuple[int, int, int], ...]

    @property
    def bytes(self) -> int:
        """What all its layers take."""
        return sum(len(data) for level in self.levels for data in level.layers.values())


def boundary(labels: UInt8[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    """What `ops.boundaries.boundary` computes, on the host: devices are busy elsewhere."""
    x = cv2.copyMakeBorder(labels, *(radius,) * 4, cv2.BORDER_CONSTANT, value=IGNORE)
    corner = x[:-1, :-1]
    change = (corner != x[1:, :-1]) | (corner != x[:-1, 1:]) | (corner != x[1:, 1:])
    # Anchored at the upper left of its window: out[y, x] looks at rows y .. y + 2 radius - 1.
    window = np.ones((2 * radius, 2 * radius), np.uint8)
    near = cv2.dilate(change.view(np.uint8), window, anchor=(0, 0))
    return near[: labels.shape[0], : labels.shape[1]].view(bool)


def errors(
    truth: UInt8[np.ndarray, "h w"],
    prediction: UInt8[np.ndarray, "h w"],
    boundary_ratio: float,
) -> UInt8[np.ndarray, "h w"]:
    """What boundary IoU counts, pixel by pixel.

    Args:
      truth: 0..k-1 or 255.
      prediction: 0..k-1.
      boundary_ratio: see `metrics.image_counts`.

    Returns:
      FOUND on the boundary of the truth and of the prediction, with the same class; MISSED on the
      truth's alone; INVENTED on the prediction's alone; WRONG on both, of different classes;
      ELSEWHERE where the class is wrong away from any boundary; else NOTHING.
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
    """Pictures of an image's photograph, truth, predictions and their errors.

    Args:
      image: the photograph, RGB, or None where there is none.
      truth: 0..k-1 or 255.
      predictions: by a suffix of their layers' names, 0..k-1.
      boundary_ratio: of what counts as a boundary.
      palette: RGB of the classes.

    Returns:
      Layers `photo`, `truth`, and of every prediction `prediction…` and `errors…`. The parts are
      where most boundary pixels are wrong, of two predictions where they differ most in that.
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
    step = math.ceil(max(truth.shape) / OVERVIEW)
    levels = [_level(image, maps, (0, 0, width, height), step)]
    if step > 1:
        levels += [_level(image, maps, (x, y, side, side), 1) for x, y, side in parts]
    return Picture(width, height, tuple(levels), parts)


def worst_parts(wrong: Bool[np.ndarray, "h w"]) -> tuple[tuple[int, int, int], ...]:
    """Up to TILES squares (x, y, side) with the most such pixels, most first; none if all is well.

    A later one is chosen by the pixels that the earlier ones do not show.
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


def _level(image, maps, place: tuple[int, int, int, int], step: int) -> Level:
    x, y, width, height = place
    layers = {}
    if image is not None:
        part = image[y : y + height, x : x + width]
        layers["photo"] = _photo(_means(part, step), _QUALITY if step > 1 else _TILE_QUALITY)
    for name, (codes, colours) in maps.items():
        part = codes[y : y + height, x : x + width]
        keep = _largest if name.startswith("errors") else _middles
        layers[name] = _map(keep(part, step), colours)
    return Level(x, y, step, -(-width // step), -(-height // step), layers)


def _padded(x: np.ndarray, step: int) -> np.ndarray:
    """Continued at the bottom and right to multiples of the step."""
    bottom, right = (-length % step for length in x.shape[:2])
    return cv2.copyMakeBorder(x, 0, bottom, 0, right, cv2.BORDER_REPLICATE)


def _means(image: np.ndarray, step: int) -> np.ndarray:
    whole = _padded(image, step)
    size = (whole.shape[1] // step, whole.shape[0] // step)
    return cv2.resize(whole, size, interpolation=cv2.INTER_AREA)


def _middles(labels: np.ndarray, step: int) -> np.ndarray:
    return _padded(labels, step)[step // 2 :: step, step // 2 :: step]


def _largest(codes: np.ndarray, step: int) -> np.ndarray:
    if step == 1:
        return codes
    near = cv2.dilate(_padded(codes, step), np.ones((step, step), np.uint8), anchor=(0, 0))
    return near[::step, ::step]


def _photo(image: np.ndarray, quality: int) -> bytes:
    return _webp(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)


def _map(codes: np.ndarray, colours: Sequence[Sequence[int]]) -> bytes:
    """Without loss, in two thirds of the bytes of a PNG."""
    table = np.array([(*rgba, 255)[:4] for rgba in colours], np.uint8)
    return _webp(cv2.cvtColor(table[codes], cv2.COLOR_RGBA2BGRA), _LOSSLESS)


def _webp(image: np.ndarray, quality: int) -> bytes:
    return cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
