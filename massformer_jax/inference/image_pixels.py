"""The pixels of what is taken for a photograph from Python: a path, a PIL image, or an array."""

import os
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from massformer_jax.data.colours import in_srgb
from massformer_jax.data.orientation import orientation, upright
from massformer_jax.data.photographs import read_photograph
from massformer_jax.errors import InputError


def pixels_of(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of what `Segmenter.predict` takes for a photograph, RGB and upright.

    Raises:
        InputError: it is no photograph, or a damaged one.
        OSError: the path cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        return read_photograph(image)
    if isinstance(image, Image.Image):
        return _pixels_of_pil(image)
    if not hasattr(image, "__array__"):
        raise InputError(
            f"a {type(image).__name__} is no photograph; pass a path, a PIL image, or RGB as uint8 "
            "[height, width, 3]"
        )
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise InputError(
            f"an image of shape {pixels.shape} and dtype {pixels.dtype}; "
            "pass RGB as uint8 [height, width, 3]"
        )
    return pixels


def _pixels_of_pil(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of a PIL image, as `read_photograph` returns those of its file."""
    if image.mode in ("I", "F") or not image.width or not image.height:
        raise InputError(
            f"a PIL image of mode {image.mode} and size {image.width}x{image.height}; convert it "
            "to RGB"
        )
    turned, size = orientation(image), image.size
    try:
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            pixels = np.repeat(grey[..., None], 3, 2)
        else:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"a PIL image that cannot be read: {error}") from error
    if image.size != size:
        # Pillow does this to uncompressed TIFF files that it maps into memory and has to turn.
        raise InputError(
            "a PIL image that Pillow mixed up when it loaded it; pass the path instead"
        )
    return upright(in_srgb(pixels, image, "a PIL image"), turned)
