"""From a record to training crops, reading only what a crop shows.

The released pipeline decodes and resizes all of a photograph, and keeps 1024 x 1024 pixels. Where
the crop will lie is known before: the label map is read at the crop's pixels alone until a crop is
varied enough, then the photograph is decoded down to the last row needed, and resized within.

Source: the released configuration, mmsegmentation/configs/_base_/datasets/mass13k.py, and
RandomChoiceResize and RandomCrop of mmsegmentation 1.x that it names.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import grain
import numpy as np
from jaxtyping import UInt8

from massformer_jax.data.classes import IGNORE
from massformer_jax.data.images import ImageError, decode_mask, decode_window, image_size
from massformer_jax.data.resampling import nearest, resize_window, taps
from massformer_jax.data.sizes import resized_size
from massformer_jax.data.transforms import Element


class Place(NamedTuple):
    """A crop: the window `rows`, `columns` of the photograph resized to `size`; in pixels."""

    size: tuple[int, int]
    rows: slice
    columns: slice


@dataclasses.dataclass(frozen=True)
class ResizedCrop(grain.transforms.RandomMap):
    """Resizes the photograph and cuts out `size` x `size` pixels, decoding no more than these need.

    The short edge becomes one of `short_edges`, the long one at most `max_long_edge` pixels. The
    crop is smaller along an edge shorter than `size`. It is drawn again, up to `tries` times, while
    one class covers `max_class_share` of its labelled pixels or more, or while it shows fewer than
    two classes; the last one drawn is kept.

    Takes a record {'image', 'segmentation_mask', 'file_name'} of encoded files, and returns a list
    of `crops` elements, each resized and placed on its own, from one decoding.

    With `exact`, they equal OpenCV's bilinear (image) and nearest (label) resizing of the whole
    photograph bit for bit. Without, a photograph that is to shrink to half or less is decoded at
    1/2, 1/4 or 1/8, which is faster and antialiases it.
    """

    size: int
    short_edges: tuple[int, ...]
    max_long_edge: int
    max_class_share: float = 0.75
    tries: int = 10
    crops: int = 1
    exact: bool = True

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> list[Element]:
        """Raises ImageError, naming the file, if it is damaged."""
        name = element["file_name"].decode()
        label = decode_mask(element["segmentation_mask"], f"label map of {name}")
        places, labels = zip(*(self._draw(label, rng) for _ in range(self.crops)), strict=True)
        images = cut_images(element["image"], name, label.shape, places, exact=self.exact)
        pairs = zip(images, labels, strict=True)
        return [{"image": image, "label": label} for image, label in pairs]

    def _draw(
        self, label: UInt8[np.ndarray, "h w"], rng: np.random.Generator
    ) -> tuple[Place, UInt8[np.ndarray, "h2 w2"]]:
        short_edge = int(rng.choice(self.short_edges))
        size = resized_size(*label.shape, long_edge=self.max_long_edge, short_edge=short_edge)
        for _ in range(1 + self.tries):
            place = Place(size, *(self._window(length, rng) for length in size))
            cut = cut_label(label, place)
            if is_varied(cut, self.max_class_share):
                break
        return place, cut

    def _window(self, length: int, rng: np.random.Generator) -> slice:
        start = int(rng.integers(max(length - self.size, 0) + 1))
        return slice(start, min(start + self.size, length))


def cut_label(label: UInt8[np.ndarray, "h w"], place: Place) -> UInt8[np.ndarray, "h2 w2"]:
    """What resizing the whole as OpenCV does (nearest), then cropping would give."""
    height, width = label.shape
    rows = nearest(height, place.size[0], place.rows)
    columns = nearest(width, place.size[1], place.columns)
    return np.take(label[rows, columns[0] : columns[-1] + 1], columns - columns[0], axis=1)


def cut_images(
    data: bytes, name: str, shape: tuple[int, int], places: Sequence[Place], *, exact: bool = True
) -> list[UInt8[np.ndarray, "h2 w2 3"]]:
    """Crops of a photograph that is decoded once, as far as they reach.

    Args:
      data: the bytes of the image file.
      name: what an error calls it.
      shape: (height, width) it has to have, in pixels.
      places: where the crops lie.
      exact: what resizing the whole as OpenCV does (bilinear), then cropping would give; else
        decoded at a reduced size where all places shrink the photograph to half or less.

    Raises:
      ImageError: not an image, a damaged one, or one of another size.
    """
    if (size := image_size(data, name)) != shape:
        sizes = (f"{w}x{h}" for h, w in (size, shape))
        raise ImageError("{}: the photograph is {}, its label map {}".format(name, *sizes))
    shrunk = min(shape[axis] / place.size[axis] for place in places for axis in (0, 1))
    reduce = 1 if exact else max(r for r in (1, 2, 4, 8) if r <= max(shrunk, 1))
    pairs = [
        [
            taps(length, resized, window, reduce)
            for length, resized, window in zip(shape, place.size, place[1:], strict=True)
        ]
        for place in places
    ]
    top, left = (min(pair[axis].span.start for pair in pairs) for axis in (0, 1))
    bottom, right = (max(pair[axis].span.stop for pair in pairs) for axis in (0, 1))
    window = decode_window(data, slice(top, bottom), slice(left, right), name, reduce=reduce)
    return [
        resize_window(
            window[rows.span.start - top : rows.span.stop - top][
                :, columns.span.start - left : columns.span.stop - left
            ],
            rows,
            columns,
        )
        for rows, columns in pairs
    ]


def is_varied(label: UInt8[np.ndarray, "h w"], max_class_share: float) -> bool:
    """Whether at least two classes show, the largest on less than this share of labelled pixels."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()[:IGNORE]
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < max_class_share)
