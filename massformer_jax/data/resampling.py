"""OpenCV's resizing, computed for a part of the result from a part of the source.

`cv2.resize` makes whole images only. The weights of a pixel depend on its place in the whole image,
since they are computed in float32 from its coordinate there. Here they are computed in the same way
and applied in the same integer arithmetic. So the result equals `cv2.resize` followed by a crop bit
for bit (tests/data/resampling_test.py compares them).

Source: OpenCV, modules/imgproc/src/resize.cpp, INTER_LINEAR and INTER_NEAREST for uint8.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Int, UInt8

_ONE = 2048  # weight 1 in fixed point
_BLOCK = 32  # number of rows resized at a time, so few that their data stay in the cache


def resize_image(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes an image to (height, width) as OpenCV does: bilinearly, in fixed point.

    Pixel centres are at halves, and nothing is done against aliasing.
    """
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


class Taps(NamedTuple):
    """The two source pixels that each of n results along one axis is made of, and their weights."""

    low: Int[np.ndarray, " n"]  # positions in the source, rising
    high: Int[np.ndarray, " n"]  # positions in the source, rising
    low_weight: Int[np.ndarray, " n"]  # 0..2048
    high_weight: Int[np.ndarray, " n"]  # 2048 - low_weight, but for rounding

    @property
    def span(self) -> slice:
        """The part of the source that the results depend on."""
        return slice(int(self.low[0]), int(self.high[-1]) + 1)


def taps(length: int, resized: int, window: slice, reduce: int = 1) -> Taps:
    """Computes what the rows, or the columns, of a resized image are made of.

    Args:
        length: of the axis in the whole source, in pixels.
        resized: length of the axis in the whole result.
        window: start and stop of the rows or columns that are wanted.
        reduce: 1, or n if the source has been shrunk to 1/n of its size, rounded up.
    """
    # The order of operations and the types are OpenCV's, so that all is rounded as there.
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
    """Resizes to a window as `resize_image` would to the whole result.

    Args:
        source: the part `[rows.span, columns.span]` of the whole source.
        rows: what the rows of the window are made of.
        columns: what its columns are made of.
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
    # All blocks share buffers, since new memory for each would cost more than the arithmetic.
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
    """Returns the source position of each pixel in a window of a nearest resize along one axis.

    Pixel y comes from floor(y * length / resized), without a shift by half a pixel.

    Args:
        length: of the axis in the whole source, in pixels.
        resized: length of the axis in the whole result.
        window: start and stop of the pixels that are wanted.
    """
    step = 1.0 / (resized / length)
    positions = np.floor(np.arange(window.start, window.stop) * step).astype(np.intp)
    return np.minimum(positions, length - 1)
