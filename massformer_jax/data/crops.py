"""The way from a record to training crops, on which only what a crop shows is read.

The released pipeline decodes and resizes the whole photograph, and keeps 1024 x 1024 pixels of it.
But where the crop will lie can be decided first: crops are placed until one is varied enough, for
which the label map is looked up at the crop's pixels alone. Then the photograph is decoded down to
the last row that the crop needs, and only the crop's window is resized.

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

from massformer_jax.classes import IGNORE
from massformer_jax.data.images import ImageError, decode_mask, decode_window, image_size
from massformer_jax.data.resampling import nearest, resize_window, taps
from massformer_jax.data.sizes import resized_size
from massformer_jax.data.transforms import Element


class Place(NamedTuple):
    """The place of a crop: `rows` and `columns` of the photograph resized to `size`, in pixels."""

    size: tuple[int, int]
    rows: slice
    columns: slice


@dataclasses.dataclass(frozen=True)
class ResizedCrop(grain.transforms.RandomMap):
    """The transform that resizes a photograph and cuts `size` x `size` pixels out of it.

    No more of the photograph is decoded than these pixels need. Its short edge becomes one of
    `short_edges`, and its long edge at most `max_long_edge` pixels. If an edge is then shorter than
    `size`, so is the crop. The crop is drawn again, up to `tries` times, while one class covers
    `max_class_share` of its labelled pixels or more, or while it shows fewer than two classes; the
    last crop drawn is kept.

    With `exact`, a crop equals OpenCV's bilinear (image) and nearest (label) resizing of the whole
    photograph bit for bit. Without it, a photograph that is to shrink to half of its size or less
    is decoded at 1/2, 1/4 or 1/8 of its size, which is faster and antialiases it.
    """

    size: int
    short_edges: tuple[int, ...]
    max_long_edge: int
    max_class_share: float = 0.75
    tries: int = 10
    crops: int = 1
    exact: bool = True

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> list[Element]:
        """Decodes a record once and makes `crops` crops of it, each resized and placed anew.

        Args:
            element: a record {'image', 'segmentation_mask', 'file_name'} of encoded files.
            rng: decides the sizes and places.

        Raises:
            ImageError: one of the files is damaged, or their sizes differ. It names the file.
        """
        name = element["file_name"].decode()
        label = decode_mask(element["segmentation_mask"], f"label map of {name}")
        places, labels = zip(*(self._draw(label, rng) for _ in range(self.crops)), strict=True)
        images = cut_images(element["image"], name, label.shape, places, exact=self.exact)
        return [
            {"image": image, "label": label} for image, label in zip(images, labels, strict=True)
        ]

    def _draw(
        self, label: UInt8[np.ndarray, "h w"], rng: np.random.Generator
    ) -> tuple[Place, UInt8[np.ndarray, "h2 w2"]]:
        """Draws the place of a crop, and returns it with the label map there."""
        short_edge = int(rng.choice(self.short_edges))
        size = resized_size(*label.shape, long_edge=self.max_long_edge, short_edge=short_edge)
        for _ in range(1 + self.tries):
            place = Place(size, *(self._window(length, rng) for length in size))
            cut = cut_label(label, place)
            if is_varied(cut, self.max_class_share):
                break
        return place, cut

    def _window(self, length: int, rng: np.random.Generator) -> slice:
        """Draws the crop's window on a side of this length."""
        start = int(rng.integers(max(length - self.size, 0) + 1))
        return slice(start, min(start + self.size, length))


def cut_label(label: UInt8[np.ndarray, "h w"], place: Place) -> UInt8[np.ndarray, "h2 w2"]:
    """Returns the crop of a label map, as OpenCV's nearest resizing and cropping would give it."""
    height, width = label.shape
    rows = nearest(height, place.size[0], place.rows)
    columns = nearest(width, place.size[1], place.columns)
    return np.take(label[rows, columns[0] : columns[-1] + 1], columns - columns[0], axis=1)


def cut_images(
    data: bytes, name: str, shape: tuple[int, int], places: Sequence[Place], *, exact: bool = True
) -> list[UInt8[np.ndarray, "h2 w2 3"]]:
    """Returns crops of a photograph, which is decoded once and only as far as they reach.

    Args:
        data: the bytes of the image file.
        name: what an error calls the photograph.
        shape: the (height, width) that it has to have, in pixels.
        places: where the crops lie.
        exact: whether the crops are those of OpenCV's bilinear resizing of the whole photograph.
            Otherwise it is decoded at a reduced size if all places shrink it to half or less.

    Raises:
        ImageError: the file is not an image, is damaged, or has another size.
    """
    check_size(data, name, shape)
    shrunk = min(shape[axis] / place.size[axis] for place in places for axis in (0, 1))
    reduce = 1 if exact else max(r for r in (1, 2, 4, 8) if r <= max(shrunk, 1))
    axes = [  # rows and columns of each place
        [
            taps(length, resized, window, reduce)
            for length, resized, window in zip(shape, place.size, place[1:], strict=True)
        ]
        for place in places
    ]
    top, left = (min(taps_of[axis].span.start for taps_of in axes) for axis in (0, 1))
    bottom, right = (max(taps_of[axis].span.stop for taps_of in axes) for axis in (0, 1))
    window = decode_window(data, slice(top, bottom), slice(left, right), name, reduce=reduce)
    return [
        resize_window(
            window[rows.span.start - top : rows.span.stop - top][
                :, columns.span.start - left : columns.span.stop - left
            ],
            rows,
            columns,
        )
        for rows, columns in axes
    ]


def check_size(data: bytes, name: str, shape: tuple[int, int]) -> None:
    """Checks that a photograph has the size of its label map.

    Args:
        data: the bytes of the image file.
        name: what an error calls the photograph.
        shape: the (height, width) of the label map, in pixels.

    Raises:
        ImageError: the photograph has another size, or is no image.
    """
    if (found := image_size(data, name)) != shape:
        sizes = (f"{w}x{h}" for h, w in (found, shape))
        raise ImageError("{}: the photograph is {}, its label map {}".format(name, *sizes))


def is_varied(label: UInt8[np.ndarray, "h w"], max_class_share: float) -> bool:
    """Tells whether two classes or more show, each on less than this share of labelled pixels."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()[:IGNORE]
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < max_class_share)
