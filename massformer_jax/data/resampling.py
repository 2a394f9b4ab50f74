"""OpenCV's resizing, computed for a part of the result from a part of the source.

`cv2.resize` knows whole images only, and the weights of a pixel depend on its place in the whole:
they are made in float32 of its coordinate there. Here they are made the same way, and applied in
the same integer arithmetic, so that the result equals `cv2.resize` followed by a crop bit for bit
(tests/data/resampling_test.py compares them).

Source: OpenCV, modules/imgproc/src/resize.cpp, INTER_LINEAR and INTER_NEAREST for uint8.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Int, UInt8

_ONE = 2048  # weight 1 in fixed point
_BLOCK = 32  # rows at a time: what they take stays in the cache


def resize_image(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Bilinear, half-pixel centres, no antialiasing, as OpenCV does in fixed point."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


class Taps(NamedTuple):
    """Along one axis: each of n results is `low`·(1 - weight) + `high`·weight of the source."""

    low: Int[np.ndarray, " n"]  # source positions, rising
    high: Int[np.ndarray, " n"]
    low_weight: Int[np.ndarray, " n"]  # 0..2048
    high_weight: Int[np.ndarray, " n"]

    @property
    def span(self) -> slice:
        """The part of the source that is looked at."""
        return slice(int(self.low[0]), int(self.high[-1]) + 1)


def taps(length: int, resized: int, window: slice, reduce: int = 1) -> Taps:
    """What the rows or columns `window` of an image resized from `length` to `resized` are made of.

    Args:
      length, resized: of the axis, in the whole source and in the whole result.
      window: start and stop of what is wanted.
      reduce: the source is at hand at this fraction of its size only, rounded up.
    """
    # In this order and these types because OpenCV rounds so.
    step = 1.0 / (resized / (length / reduce))
    centres = ((np.arange(window.start, window.stop) + 0.5) * step - 0.5).astype(np.float32)
    position = np.floor(centres)
    weight = centres - position
    low_weight = np.rint((np.float32(1) - weight) * np.float32(_ONE)).astype(np.int32)
    high_weight = np.rint(weight * np.float32(_ONE)).astype(np.int32)
    last = -(-length // reduce) - 1
    low, high = (np.clip(position + i, 0, last).astype(np.intp) for i in (0, 1))
    return Taps(low, high, low_weight, high_weight)


def resize_window(
    source: UInt8[np.ndarray, "rows columns 3"], rows: Taps, columns: Taps
) -> UInt8[np.ndarray, "h w 3"]:
    """Bilinear, half-pixel centres, no antialiasing.

    Args:
      source: the part `[rows.span, columns.span]` of the whole source.
    """
    h, w = len(rows.low), len(columns.low)
    # Four channels, so that a pixel is one 32-bit word to gather.
    words = cv2.cvtColor(source, cv2.COLOR_RGB2RGBA).view(np.uint32)[..., 0]
    left, right = (side - columns.low[0] for side in (columns.low, columns.high))
    left_weight, right_weight = (np.repeat(x, 4) for x in (columns.low_weight, columns.high_weight))
    top, bottom = (side - rows.low[0] for side in (rows.low, rows.high))
    top_weight, bottom_weight = rows.low_weight[:, None], rows.high_weight[:, None]
    blocks = [slice(start, min(start + _BLOCK, h)) for start in range(0, h, _BLOCK)]
    most = max(bottom[block.stop - 1] + 1 - top[block.start] for block in blocks)
    # Buffers, since memory that is new every time costs more than the arithmetic.
    pixels, (blended, product) = (
        np.empty((most, w), np.uint32),
        np.empty((2, most, 4 * w), np.int32),
    )
    upper, lower = np.empty((2, _BLOCK, 4 * w), np.int32)
    result = np.empty((h, 4 * w), np.uint8)
    for block in blocks:
        first = top[block.start]
        part = words[first : bottom[block.stop - 1] + 1]
        gathered, a, b = (buffer[: len(part)] for buffer in (pixels, blended, product))
        np.take(part, left, 1, out=gathered, mode="clip")
        np.multiply(gathered.view(np.uint8), left_weight, out=a)
        np.take(part, right, 1, out=gathered, mode="clip")
        np.multiply(gathered.view(np.uint8), right_weight, out=b)
        a += b
        a >>= 4
        over, under = (buffer[: block.stop - block.start] for buffer in (upper, lower))
        np.take(a, top[block] - first, 0, out=over, mode="clip")
        over *= top_weight[block]
        over >>= 16
        np.take(a, bottom[block] - first, 0, out=under, mode="clip")
        under *= bottom_weight[block]
        under >>= 16
        over += under
        over += 2
        over >>= 2
        result[block] = over
    return cv2.cvtColor(result.reshape(h, w, 4), cv2.COLOR_RGBA2RGB)


def nearest(length: int, resized: int, window: slice) -> Int[np.ndarray, " n"]:
    """The source positions that the pixels `window` of a nearest resize along one axis come from.

    Pixel y comes from floor(y * length / resized), without a half-pixel shift.
    """
    step = 1.0 / (resized / length)
    positions = np.floor(np.arange(window.start, window.stop) * step).astype(np.intp)
    return np.minimum(positions, length - 1)
