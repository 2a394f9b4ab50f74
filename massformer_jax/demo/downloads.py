"""The photograph that the page shows, and the names of the files that it hands out."""

import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

_LONGEST = 120  # letters of the names of classes in a file's name
_JPEG_SIDE = 65_500  # pixels of a side at most, since OpenCV writes no longer ones


def shown_jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Returns a photograph, RGB, as a JPEG for the screen, shrunk if no JPEG is so long."""
    h, w = image.shape[:2]
    factor = _JPEG_SIDE / max(h, w)
    if factor < 1:
        size = max(1, round(w * factor)), max(1, round(h * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def file_name(photograph: str, what: str, classes: Sequence[str] = ()) -> str:
    """Returns the name of a file: that of the photograph, of the classes, and what it is."""
    names = "+".join(classes)
    if len(names) > _LONGEST:
        names = f"{len(classes)} classes"
    parts = [pathlib.PurePath(photograph).stem or "photograph", names, what]
    return "_".join(part for part in parts if part) + ".png"
