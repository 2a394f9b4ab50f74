"""JPEG XL files: their headers, and their pixels by libjxl (package pillow-jxl-plugin)."""

import numpy as np
from PIL import Image

from massformer_jax.data.boxes import boxes
from massformer_jax.data.orientation import TURNED_BY_A_QUARTER

CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"  # how files begin
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


class JpegXlError(ValueError):
    """The error of a JPEG XL file that is damaged or truncated."""


class _Bits:
    """The bits of a codestream, from the lowest of the first byte on."""

    def __init__(self, data: bytes):
        self._number, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def read(self, count: int) -> int:
        if count > self._left:
            raise JpegXlError("the header is not whole")
        value = self._number & ((1 << count) - 1)
        self._number, self._left = self._number >> count, self._left - count
        return value

    def read_side(self) -> int:
        """Reads a number of pixels that is not a multiple of eight."""
        return 1 + self.read((9, 13, 18, 30)[self.read(2)])


def read_size(data: bytes) -> tuple[int, int]:
    """Returns the (height, width) in pixels of what is seen, from the header alone.

    Raises:
        JpegXlError: the header is damaged.
    """
    bits = _Bits(_codestream(data)[2:32])
    small = bits.read(1)
    height = 8 * (1 + bits.read(5)) if small else bits.read_side()
    ratio = bits.read(3)
    if ratio:
        width = height * _RATIOS[ratio][0] // _RATIOS[ratio][1]
    else:
        width = 8 * (1 + bits.read(5)) if small else bits.read_side()
    # The next bits say that everything else is as usual, or else that the orientation is not.
    orientation = 1 + bits.read(3) if not bits.read(1) and bits.read(1) else 1
    return (width, height) if orientation in TURNED_BY_A_QUARTER else (height, width)


def decode(data: bytes) -> Image.Image | bytes:
    """Decodes a JPEG XL.

    Returns:
        The photograph, upright, with its profile in `info`; or a JPEG, if it was made of one.

    Raises:
        JpegXlError: the file is damaged or truncated.
        ImportError: the package pillow-jxl-plugin is not installed.
    """
    from pillow_jxl import Decoder

    try:
        # Its plugin for Pillow leaves the EXIF orientation in place, which libjxl has obeyed.
        is_jpeg, info, pixels, profile, *_ = Decoder()(data)
    except RuntimeError as error:
        raise JpegXlError("libjxl cannot decode it") from error
    if is_jpeg:
        return bytes(pixels)
    size = info.width, info.height
    if info.mode in ("F", "F;16"):  # grey, 0..1
        grey = np.frombuffer(pixels, np.float32).reshape(size[::-1])
        image = Image.fromarray((np.clip(np.nan_to_num(grey), 0, 1) * 255).round().astype(np.uint8))
    elif info.mode == "I;16":
        grey = np.frombuffer(pixels, np.uint16).reshape(size[::-1])
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    else:
        image = Image.frombytes(info.mode, size, pixels)
    if profile:
        image.info["icc_profile"] = bytes(profile)
    return image


def _codestream(data: bytes) -> bytes:
    """Returns the beginning of the coded data, which may lie in a box."""
    if not data.startswith(CONTAINER):
        return data
    for box in boxes(data, 0, len(data)):
        if box.name in (b"jxlc", b"jxlp"):  # whole, or in parts with a number of four bytes
            start = box.start + (4 if box.name == b"jxlp" else 0)
            return data[start : min(box.end, start + 64)]
    raise JpegXlError("there is no picture in it")
