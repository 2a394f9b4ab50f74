"""The augmentations of the released recipe.

An element is a dict of `image` (uint8 [h w 3], RGB 0..255) and `label` (uint8 [h w], 0..6 or 255);
what else is in it stays as it is.
Each transform does one job. The recipe's order is `crops.ResizedCrop`, which makes elements from a
record, then RandomFlip, PhotometricDistortion and PadToSquare. All random numbers come from the
generator that grain derives from (seed, transform, index), so that an element is the same whatever
thread or host makes it.

Source: the released configuration, mmsegmentation/configs/_base_/datasets/mass13k.py, and the
transforms of mmsegmentation 1.x that it names.
"""

import dataclasses

import cv2
import grain
import numpy as np
from jaxtyping import UInt8

from massformer_jax.classes import IGNORE

Element = dict[str, np.ndarray]

# The mean colour of ImageNet, rounded, which normalisation turns into about zero.
_MEAN_RGB = (124, 116, 104)


@dataclasses.dataclass(frozen=True)
class Each(grain.transforms.RandomMap):
    """The transform that applies another one to each element of a list."""

    transform: grain.transforms.RandomMap

    def random_map(self, element: list[Element], rng: np.random.Generator) -> list[Element]:
        """Transforms the elements of the list one after the other, with one generator."""
        return [self.transform.random_map(part, rng) for part in element]


@dataclasses.dataclass(frozen=True)
class RandomFlip(grain.transforms.RandomMap):
    """The transform that exchanges left and right with a given probability."""

    probability: float = 0.5

    def random_map(self, element: Element, rng: np.random.Generator) -> Element:
        """Mirrors the image and its label map, or returns them as they are."""
        if rng.random() >= self.probability:
            return element
        return {
            **element,
            "image": cv2.flip(element["image"], 1),
            "label": cv2.flip(element["label"], 1),
        }


@dataclasses.dataclass(frozen=True)
class PhotometricDistortion(grain.transforms.RandomMap):
    """The transform that changes brightness, contrast, saturation and hue.

    Each is changed with probability 1/2. Contrast comes right after brightness or last, with equal
    probability. Saturation and hue are changed in OpenCV's 8-bit HSV, where hue is 0..179. Every
    change rounds down to uint8, as released.
    """

    brightness: float = 32.0  # added: -brightness..brightness, of 255
    contrast: tuple[float, float] = (0.5, 1.5)  # smallest and largest factor
    saturation: tuple[float, float] = (0.5, 1.5)  # smallest and largest factor
    hue: int = 18  # added: -hue..hue-1, of 180

    def random_map(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element with other colours; its label map stays the same."""
        image = element["image"]
        if rng.random() < 0.5:
            image = _scaled(image, 1.0, rng.uniform(-self.brightness, self.brightness))
        contrast_first = rng.random() < 0.5
        if contrast_first:
            image = self._contrast(image, rng)
        if rng.random() < 0.5:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[..., 1] = _scaled(hsv[..., 1], rng.uniform(*self.saturation), 0.0)
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if rng.random() < 0.5:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            # Release: the upper end is open, since numpy's randint excludes it
            # (transforms_test.py::test_hue_shift_excludes_its_upper_end).
            shifted = (np.arange(256) + rng.integers(-self.hue, self.hue)) % 180
            hsv[..., 0] = cv2.LUT(hsv[..., 0], shifted.astype(np.uint8))
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if not contrast_first:
            image = self._contrast(image, rng)
        return {**element, "image": image}

    def _contrast(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changes the contrast with probability 1/2."""
        if rng.random() >= 0.5:
            return image
        return _scaled(image, rng.uniform(*self.contrast), 0.0)


def _scaled(
    image: UInt8[np.ndarray, "..."], factor: float, offset: float
) -> UInt8[np.ndarray, "..."]:
    """Returns image * factor + offset, clipped to 0..255 and rounded down, as released."""
    table = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))


@dataclasses.dataclass(frozen=True)
class PadToSquare(grain.transforms.Map):
    """The transform that pads a crop at the bottom and right to `size` x `size` pixels."""

    size: int

    def map(self, element: Element) -> Element:
        """Fills the missing pixels with the mean colour and label 255."""
        height, width = element["label"].shape
        if (height, width) == (self.size, self.size):
            return element
        image = np.full((self.size, self.size, 3), _MEAN_RGB, np.uint8)
        label = np.full((self.size, self.size), IGNORE, np.uint8)
        image[:height, :width] = element["image"]
        label[:height, :width] = element["label"]
        return {**element, "image": image, "label": label}
