"""Reading photographs and label maps, and writing label maps.

OpenCV decodes whole photographs (it also turns an image by its EXIF tag), `jpeg` parts of them;
`png` decodes most label maps, Pillow all others (it too returns the *indices* of a palette PNG).
"""

import io
import os
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from massformer_jax.data.classes import PALETTE
from massformer_jax.data.jpeg import JpegError, Layout, decode_rows, read_layout
from massformer_jax.data.png import read_labels
from massformer_jax.errors import InputError

Source = bytes | str | os.PathLike

_EXIF_ORIENTATION = 0x0112
_JPEG_START = b"\xff\xd8"
_NO_IMAGE = "not a readable image (JPEG or PNG expected); replace the file"


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
    if data.startswith(_JPEG_START):
        _jpeg_layout(data, name)
    image = None
    if data:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        except cv2.error:  # an absurd size in a damaged header
            image = None
    if image is None:
        raise ImageError(f"{name}: {_NO_IMAGE}")
    return image


def decode_window(
    source: bytes, rows: slice, columns: slice, name: str = "image", *, reduce: int = 1
) -> UInt8[np.ndarray, "h w 3"]:
    """A part of what `decode_image` gives, without decoding all of a JPEG for it.

    Of an upright JPEG whose rows are coded from top to bottom, and that is nearly every photograph,
    those below the window are not decoded, and with restart markers those above are neither.

    Args:
      source: the bytes of an image file.
      rows, columns: with start and stop, in pixels of the upright photograph, reduced if so asked.
      name: what an error calls the image.
      reduce: 1, 2, 4 or 8: the photograph at that fraction of its size, rounded up. The values are
        means over the pixels put together (by JPEG's frequencies where possible).

    Raises:
      ImageError: as `decode_image`.
    """
    layout = _jpeg_layout(source, name) if source.startswith(_JPEG_START) else None
    if layout is None or _orientation(source) != 1:
        image = decode_image(source, name)
        if reduce > 1:
            h, w = (-(-side // reduce) for side in image.shape[:2])
            image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
        return image[rows, columns]
    try:
        strip = decode_rows(source, layout, rows.start, rows.stop, reduce=reduce)
    except ValueError as error:
        raise ImageError(f"{name}: {_NO_IMAGE}") from error
    return strip[:, columns]


def decode_mask(source: Source, name: str = "mask") -> UInt8[np.ndarray, "h w"]:
    """Decodes a label map to one label a pixel, uint8.

    Takes a palette PNG (its indices, whatever its colours) and an 8-bit grey PNG. An EXIF tag is
    not obeyed: a label map has to fit the upright photograph as it lies.

    Args:
      source: the bytes of a PNG file, or the path of one.
      name: what an error calls the label map; for a path, the path itself.

    Returns:
      The labels; the array may be read-only, and a view of a larger one.

    Raises:
      ImageError: not an image, a damaged one, or one that holds colours instead of labels.
      OSError: the path cannot be read.
    """
    data, name = _load(source, name)
    labels = read_labels(data)
    if labels is not None:
        return labels
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


def _jpeg_layout(data: bytes, name: str) -> Layout | None:
    try:
        return read_layout(data)
    except JpegError as error:
        raise ImageError(f"{name}: {error}; copy or download it again") from error


def _orientation(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(_EXIF_ORIENTATION, 1)
    except UnidentifiedImageError:
        return 0
