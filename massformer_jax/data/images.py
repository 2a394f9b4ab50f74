"""Reading photographs and label maps, and writing label maps.

Photographs are decoded by OpenCV, which also turns them by their EXIF tag, and parts of a
photograph by the module `jpeg`. Most label maps are decoded by the module `png`, and all others by
Pillow. Both return the *indices* of a palette PNG, not its colours.
"""

import io
import os
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from massformer_jax.classes import PALETTE
from massformer_jax.data.jpeg import JpegError, Layout, decode_rows, read_layout
from massformer_jax.data.png import read_labels
from massformer_jax.errors import InputError

ImageSource = bytes | str | os.PathLike

EXIF_ORIENTATION = 0x0112  # number of the EXIF tag
TURNED_BY_A_QUARTER = (5, 6, 7, 8)  # its values that exchange height and width

_JPEG_START = b"\xff\xd8"
_NO_IMAGE = "not a readable image (JPEG or PNG expected); replace the file"


class ImageError(InputError):
    """The error of an image file that cannot be used: one line with its name and what to do."""


def decode_image(source: ImageSource, name: str = "image") -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a photograph to RGB, uint8, 0..255.

    A photograph that its EXIF tag turns is returned upright, as the released reader does it. A grey
    image is repeated to three channels, 16 bits become 8, and transparency is dropped.

    Args:
        source: the bytes of an image file, or its path: JPEG, PNG, WebP, TIFF, ...
        name: what an error calls the image; a path is called by itself.

    Raises:
        ImageError: the file is not an image, or is damaged. OpenCV fills the lower part of a JPEG
            whose data stop early with grey; such a file is refused here.
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
    """Decodes a part of what `decode_image` returns, without decoding the whole JPEG for it.

    Nearly every photograph is an upright JPEG whose rows are coded from top to bottom. Then the
    rows below the window are not decoded, and with restart markers most rows above it are not
    decoded either.

    Args:
        source: the bytes of an image file.
        rows: slice with start and stop, in pixels of the upright photograph after `reduce`.
        columns: slice likewise.
        name: what an error calls the image.
        reduce: 1, 2, 4 or 8: the photograph is shrunk to this fraction of its size, rounded up. A
            pixel is the mean of those it replaces, or what JPEG's frequencies give instead.

    Raises:
        ImageError: see `decode_image`.
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


def decode_mask(source: ImageSource, name: str = "mask") -> UInt8[np.ndarray, "h w"]:
    """Decodes a label map to one label per pixel, uint8.

    The file is an 8-bit grey PNG, or a palette PNG, of which the indices are taken whatever its
    colours are. An EXIF tag is not obeyed: a label map has to fit the upright photograph.

    Args:
        source: the bytes of a PNG file, or its path.
        name: what an error calls the label map; a path is called by itself.

    Returns:
        The labels. The array may be read-only, and a view of a larger one.

    Raises:
        ImageError: the file is not an image, is damaged, or holds colours instead of labels.
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
    """Encodes a label map as a palette PNG, whose indices are the labels.

    Args:
        labels: any values of 0..255. Those that are no class, such as 255 (ignored), show white.
        palette: RGB of the classes 0..k-1; by default that of the dataset.
    """
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(palette)] = palette
    image = Image.fromarray(labels)
    image.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def image_size(source: ImageSource, name: str = "image") -> tuple[int, int]:
    """Returns the (height, width) in pixels of what `decode_image` returns, from the header alone.

    Args:
        source: the bytes of an image file, or its path.
        name: what an error calls the image; a path is called by itself.

    Raises:
        ImageError: the file is no image that can be identified.
        OSError: the path cannot be read.
    """
    # A path is not loaded: the header of a 4 MB photograph is its first few kB.
    if not isinstance(source, bytes):
        name = os.fspath(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION, 1) in TURNED_BY_A_QUARTER
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a readable image; replace the file") from error
    return (width, height) if turned else (height, width)


def _load(source: ImageSource, name: str) -> tuple[bytes, str]:
    """Returns the bytes of a file, and what an error calls it."""
    if isinstance(source, bytes):
        return source, name
    return Path(source).read_bytes(), os.fspath(source)


def _jpeg_layout(data: bytes, name: str) -> Layout | None:
    """Reads the layout of a JPEG, and raises ImageError if it is truncated."""
    try:
        return read_layout(data)
    except JpegError as error:
        raise ImageError(f"{name}: {error}; copy or download it again") from error


def _orientation(data: bytes) -> int:
    """Returns the value of the EXIF orientation, 1 if there is none, 0 if this is no image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(EXIF_ORIENTATION, 1)
    except UnidentifiedImageError:
        return 0
