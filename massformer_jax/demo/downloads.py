"""Files that the page hands out."""

import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from massformer_jax.data.images import encode_mask

_LONGEST = 120  # letters of the names of classes in a file's name
# Fast: the photograph's noise hardly gets smaller with more effort.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 2)


def shown_jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Returns a photograph, RGB, as a JPEG for the screen."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def labels_png(labels: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "k 3"]) -> bytes:
    """Returns a label map as a PNG with a palette, whose indices are the labels."""
    return encode_mask(labels, palette)


def alpha_png(alpha: Float[np.ndarray, "h w"]) -> bytes:
    """Returns an alpha of 0..1 as a grey PNG of 16 bits."""
    return cv2.imencode(".png", np.rint(alpha * 65535).astype(np.uint16), _PNG)[1].tobytes()


def cutout_png(colours: UInt8[np.ndarray, "h w 3"], alpha: Float[np.ndarray, "h w"]) -> bytes:
    """Returns colours, RGB, with an alpha of 0..1 as a PNG of 8 bits that is not premultiplied."""
    pixels = cv2.cvtColor(colours, cv2.COLOR_RGB2BGRA)
    pixels[..., 3] = np.rint(alpha * 255)
    return cv2.imencode(".png", pixels, _PNG)[1].tobytes()


def file_name(photograph: str, what: str, classes: Sequence[str] = ()) -> str:
    """Returns the name of a file: that of the photograph, of the classes, and what it is."""
    names = "+".join(classes)
    if len(names) > _LONGEST:
        names = f"{len(classes)} classes"
    parts = [pathlib.PurePath(photograph).stem or "photograph", names, what]
    return "_".join(part for part in parts if part) + ".png"
