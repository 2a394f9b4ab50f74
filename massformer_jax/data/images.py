"""Reading photographs and label maps, and writing label maps.

Photographs are decoded by OpenCV, parts of a photograph by the module `jpeg`, and both are turned
upright as the module `orientation` says. Label maps are decoded by the module `label_png`, to the
*indices* of a palette PNG, not its colours.
"""

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from massformer_jax.classes import PALETTE, Class
from massformer_jax.data.jpeg import JpegError, Layout, decode_rows, read_layout
from massformer_jax.data.label_png import LabelMapError, check_label_map, decode_labels
from massformer_jax.data.orientation import TURNED_BY_A_QUARTER, UPRIGHT, orientation, upright
from massformer_jax.data.png import SIGNATURE
from massformer_jax.errors import InputError

ImageSource = bytes | str | os.PathLike

_JPEG_START = b"\xff\xd8"
_READERS = {
    _JPEG_START: JpegImagePlugin.JpegImageFile,
    SIGNATURE: PngImagePlugin.PngImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    **dict.fromkeys((b"II*\0", b"MM\0*"), TiffImagePlugin.TiffImageFile),
}
_NO_IMAGE = "not a readable image (JPEG or PNG expected); replace the file"


class ImageError(InputError):
    """The error of an image file that cannot be used: one line with its name and what to do."""


def decode_image(source: ImageSource, name: str = "image") -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a photograph to RGB, uint8, 0..255.

    A photograph is returned upright, see `data.orientation`. A grey image is repeated to three
    channels, 16 bits become 8, and transparency is dropped.

    Args:
        source: the bytes of an image file, or its path: JPEG, PNG, WebP, TIFF, ...
        name: what an error calls the image; a path is called by itself.

    Raises:
        ImageError: the file is not an image, or is damaged. OpenCV fills the lower part of a JPEG
            whose data stop early with grey; such a file is refused here.
        OSError: the path cannot be read.
    """
    return _decode(*load(source, name), cv2.IMREAD_COLOR_RGB)


def decode_reduced(source: ImageSource, name: str = "image") -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a photograph at an eighth of its size, rounded up; takes half the time of all pixels.

    It refuses what `decode_image` refuses, so that a builder can try photographs by it.

    Args:
        source: see `decode_image`.
        name: see `decode_image`.

    Raises:
        ImageError: see `decode_image`.
        OSError: the path cannot be read.
    """
    return _decode(*load(source, name), cv2.IMREAD_REDUCED_COLOR_8)[..., ::-1]


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
    layout = _jpeg_layout(source, name)
    if layout is not None and _orientation(source) == UPRIGHT:
        # What this decoder does not know, the other one may.
        with contextlib.suppress(ValueError):
            strip = decode_rows(source, layout, rows.start, rows.stop, reduce=reduce)
            return strip[:, columns]
    image = decode_image(source, name)
    if reduce > 1:
        h, w = (-(-side // reduce) for side in image.shape[:2])
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    return image[rows, columns]


def decode_mask(
    source: ImageSource, name: str = "mask", *, classes: int | Sequence[Class] | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Decodes a label map to one label per pixel, uint8, see `data.label_png`.

    An EXIF tag is not obeyed: a label map has to fit the upright photograph.

    Args:
        source: the bytes of a PNG file, or its path.
        name: what an error calls the label map; a path is called by itself.
        classes: of the dataset, or their number, for a check of the palette, see
            `label_png.check_label_map`.

    Returns:
        The labels. The array may be read-only, and a view of a larger one.

    Raises:
        ImageError: the file is not an image, is damaged, or holds colours instead of labels.
        OSError: the path cannot be read.
    """
    data, name = load(source, name)
    try:
        return decode_labels(io.BytesIO(data), classes=classes)
    except LabelMapError as error:
        raise ImageError(f"{name}: {error}") from error


def mask_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns the (height, width) in pixels of a label map, from the header of its file alone.

    Raises:
        ImageError: see `decode_mask`.
        OSError: the path cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return check_label_map(file)[:2]
    except LabelMapError as error:
        raise ImageError(f"{os.fspath(path)}: {error}") from error


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
    """Returns the (height, width) in pixels of what `decode_image` returns.

    It needs the header alone, but for the few files whose header Pillow does not understand.

    Args:
        source: the bytes of an image file, or its path.
        name: what an error calls the image; a path is called by itself.

    Raises:
        ImageError: the file is no image.
        OSError: the path cannot be read.
    """
    # A path is not loaded: the header of a 4 MB photograph is its first few kB.
    if not isinstance(source, bytes):
        name = os.fspath(source)
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        image = opened(file)
        if image is None:
            # OpenCV, which decodes, reads some headers that Pillow does not.
            return decode_image(source, name).shape[:2]
        width, height = image.size
        turned = orientation(image) in TURNED_BY_A_QUARTER
    return (width, height) if turned else (height, width)


def load(source: ImageSource, name: str) -> tuple[bytes, str]:
    """Returns the bytes of a file, and what an error calls it."""
    if isinstance(source, bytes):
        return source, name
    return Path(source).read_bytes(), os.fspath(source)


def _decode(data: bytes, name: str, flags: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a photograph by OpenCV and turns it upright, or raises ImageError.

    Args:
        data: the image file.
        name: what an error calls it.
        flags: in which colours and at which size, as OpenCV numbers them.
    """
    _jpeg_layout(data, name)
    image = None
    if data:
        try:
            flags |= cv2.IMREAD_IGNORE_ORIENTATION
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:  # an absurd size in a damaged header
            image = None
    if image is None:
        raise ImageError(f"{name}: {_NO_IMAGE}")
    return upright(image, _orientation(data))


def _jpeg_layout(data: bytes, name: str) -> Layout | None:
    """Reads the layout of a JPEG, and raises ImageError if it is truncated; None if it is none."""
    if not data.startswith(_JPEG_START):
        return None
    try:
        return read_layout(data)
    except JpegError as error:
        raise ImageError(f"{name}: {error}; copy or download it again") from error


def _orientation(data: bytes) -> int:
    """Returns the orientation of an image file, see `data.orientation.orientation`."""
    with io.BytesIO(data) as file:
        image = opened(file)
        return UPRIGHT if image is None else orientation(image)


def opened(file: io.BufferedIOBase) -> Image.Image | None:
    """Opens an image by Pillow, which reads its header; returns None if it is no readable image.

    Raises:
        OSError: the disk cannot be read.
    """
    start = file.read(len(SIGNATURE))
    file.seek(0)
    try:
        # `Image.open` has a limit of its own for the size of an image, and takes some JPEGs apart.
        for beginning, reader in _READERS.items():
            if start.startswith(beginning):
                return reader(file)
        return Image.open(file)
    except Exception as error:  # of many types, all undocumented, if the header is damaged
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return None
