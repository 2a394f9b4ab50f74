"""Reading photographs and label maps, and writing label maps.

OpenCV decodes photographs (the fastest of the decoders that also turn an image by its EXIF tag);
Pillow decodes label maps (the only one that returns the *indices* of a palette PNG).
"""

import io
import os
import re
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from massformer_jax.data.classes import PALETTE
from massformer_jax.errors import InputError

Source = bytes | str | os.PathLike

_EXIF_ORIENTATION = 0x0112
_JPEG_START = b"\xff\xd8"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# The first byte pair after a scan's data that is neither a stuffed 0xff nor a restart marker.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


class ImageError(InputError):
    """A file that cannot be used; the message is one line that names it and says what to do."""


def decode_image(source: Source, name: str = "image") -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a photograph to RGB, uint8, 0..255.

    A photograph turned by its EXIF tag is delivered upright, as the released code's reader does.

    Args:
      source: the bytes of an image file, or the path of one. JPEG, PNG, WebP, TIFF, ...; grey
        images are repeated to three channels, 16-bit ones brought to 8, transparency is dropped.
      name: what an error calls the image; for a path, the path itself.

    Raises:
      ImageError: not an image, or a damaged one. OpenCV answers a JPEG whose data stop early with
        a lower part in grey, from a file or where zeros follow; such a file is refused here.
      OSError: the path cannot be read.
    """
    data, name = _load(source, name)
    if data.startswith(_JPEG_START) and not _is_complete_jpeg(data):
        raise ImageError(f"{name}: the JPEG is truncated or corrupt; copy or download it again")
    image = None
    if data:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        except cv2.error:  # an absurd size in a damaged header
            image = None
    if image is None:
        raise ImageError(f"{name}: not a readable image (JPEG or PNG expected); replace the file")
    return image


def decode_mask(source: Source, name: str = "mask") -> UInt8[np.ndarray, "h w"]:
    """Decodes a label map to one label a pixel, uint8.

    Takes a palette PNG (its indices, whatever its colours) and an 8-bit grey PNG. An EXIF tag is
    not obeyed: a label map has to fit the upright photograph as it lies.

    Args:
      source: the bytes of a PNG file, or the path of one.
      name: what an error calls the label map; for a path, the path itself.

    Raises:
      ImageError: not an image, a damaged one, or one that holds colours instead of labels.
      OSError: the path cannot be read.
    """
    data, name = _load(source, name)
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode = image.mode
            labels = np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(
            f"{name}: the label map is truncated, corrupt or no PNG; copy or download it again"
        ) from error
    if mode not in ("P", "L"):
        raise ImageError(
            f"{name}: the label map holds {mode} pixels, not labels; save it as a palette PNG or "
            "an 8-bit grey PNG"
        )
    return labels


def encode_mask(
    labels: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "k 3"] = PALETTE
) -> bytes:
    """Encodes a label map as a palette PNG: indices in the pixels, the classes' colours for eyes.

    Args:
      labels: any values of 0..255; those beyond the classes, with 255 (ignored), show white.
      palette: RGB of the classes 0..k-1, the dataset's by default.
    """
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(palette)] = palette
    image = Image.fromarray(labels)
    image.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def image_size(source: Source, name: str = "image") -> tuple[int, int]:
    """(height, width) in pixels that `decode_image` would give, read from the header alone.

    Raises:
      ImageError: no image that can be identified.
      OSError: the path cannot be read.
    """
    # A path is not loaded: the header of a 4 MB photograph is its first few kB.
    if not isinstance(source, bytes):
        name = os.fspath(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a readable image; replace the file") from error
    return (width, height) if turned else (height, width)


def _load(source: Source, name: str) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, name
    return Path(source).read_bytes(), os.fspath(source)


def _is_complete_jpeg(data: bytes) -> bool:
    """Whether the markers lead from the start to an end-of-image marker.

    Walking is exact where a look at the last two bytes is not: cameras append data after the end,
    and a thumbnail in the EXIF block has an end of its own.
    """
    position = len(_JPEG_START)
    while position + 1 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == _END_OF_IMAGE:
            return True
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        position += 2
        position += int.from_bytes(data[position : position + 2], "big")
        if marker == _START_OF_SCAN:
            end = _END_OF_SCAN.search(data, position)
            if end is None:
                return False
            position = end.start()
    return False
