"""PNG files: their headers, and reading label maps fast if no row of the PNG is filtered.

A label map consists of long runs of few values, and in most files no row is filtered. To unpack it
is therefore mostly copying, which zlib-ng does eight times as fast as the zlib within Pillow.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL.PngImagePlugin import PngImageFile
from zlib_ng import zlib_ng

SIGNATURE = b"\x89PNG\r\n\x1a\n"  # the first bytes of every PNG
GREY, RGB, PALETTED = 0, 2, 3  # colour types; 4 and 6 are grey and RGB with transparency
# The variable is OpenCV's, whose limit for photographs it is, too; so is its default.
PIXELS_SETTING = "OPENCV_IO_MAX_IMAGE_PIXELS"
_MOST_PIXELS = 2**30
_CHANNELS = {GREY: 1, RGB: 3, PALETTED: 1, 4: 2, 6: 4}
_MOST_INFLATED = 1032  # bytes that one byte of deflate can stand for
_ANCILLARY = 0x20  # bit of a chunk's first letter: pixels can be read without it


class PngError(ValueError):
    """The error of data that are no PNG, or a damaged one."""


class Header(NamedTuple):
    """What a PNG says before its pixels; `palette` holds the bytes of RGB colours, or none."""

    height: int
    width: int
    depth: int  # bits per sample
    colour: int  # GREY, RGB, PALETTED, 4 or 6
    interlaced: int
    palette: bytes


def most_pixels() -> int:
    """Returns how many pixels an image may have, which the user can set in the environment."""
    return int(os.environ.get(PIXELS_SETTING, _MOST_PIXELS))


def read_header(file: io.BufferedIOBase) -> Header:
    """Reads the header of a PNG, and no more of the file than that.

    Raises:
        PngError: this is no PNG, or it is damaged before its pixels.
    """
    return _header(_critical_chunks(file, before=b"IDAT"))


def read_labels(data: bytes) -> UInt8[np.ndarray, "h w"] | None:
    """Reads the labels of an 8-bit palette or grey PNG, if no row is filtered and nothing damaged.

    Encoders leave the rows of palette images unfiltered, as the PNG specification advises.

    Args:
        data: the bytes of a file.

    Returns:
        The labels, read-only; or None for any other file, which a general reader has to look at.
    """
    try:
        chunks = list(_critical_chunks(io.BytesIO(data)))
        header = _header(chunks)
    except PngError:
        return None
    height, width = header.height, header.width
    if header.depth != 8 or header.colour not in (GREY, PALETTED) or header.interlaced:
        return None
    packed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    size = height * (width + 1)
    if size > _MOST_INFLATED * len(packed):
        return None
    try:
        rows = zlib_ng.decompress(packed, bufsize=size)
    except zlib_ng.error:
        return None
    if len(rows) != size:
        return None
    table = np.frombuffer(rows, np.uint8).reshape(height, width + 1)
    # The first byte of a row is the number of its filter.
    return None if table[:, 0].any() else table[:, 1:]


def open_png(data: bytes) -> PngImageFile:
    """Opens a PNG by Pillow, without Pillow's limits for the number of pixels and for texts.

    Only the pixels are handed on: texts, profiles and other extras are not looked at.

    Raises:
        PngError: this is no PNG, or it is damaged, or has fewer data than its pixels need.
    """
    chunks = list(_critical_chunks(io.BytesIO(data)))
    header, parts, packed = _header(chunks), [SIGNATURE], 0
    for kind, content in chunks:
        packed += len(content) if kind == b"IDAT" else 0
        check = struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
        parts += [struct.pack(">I", len(content)), kind, content, check]
    bits = header.depth * _CHANNELS.get(header.colour, 1)
    if header.height * (-(-header.width * bits // 8) + 1) > _MOST_INFLATED * packed:
        raise PngError("too few data")
    try:
        return PngImageFile(io.BytesIO(b"".join(parts)))
    except (OSError, SyntaxError, ValueError) as error:
        raise PngError(str(error)) from error


def _header(chunks: Iterable[tuple[bytes, bytes]]) -> Header:
    """Returns the header that is in the first of some chunks; raises PngError if it is not."""
    content, palette = b"", b""
    for i, (kind, body) in enumerate(chunks):
        if i == 0 and kind == b"IHDR":
            content = body
        elif kind == b"PLTE":
            palette = body
        elif kind == b"IDAT":
            break
    if len(content) != 13:
        raise PngError("no header")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content)
    if not width or not height:
        raise PngError("no pixels")
    return Header(height, width, depth, colour, interlaced, palette)


def _critical_chunks(file: io.BufferedIOBase, before: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Yields kind and content of the chunks that pixels need, up to the last one, IEND.

    Args:
        file: is read from its start.
        before: a kind of chunk at which to stop, so that a header can be read alone.

    Raises:
        PngError: this is no PNG, or one of these chunks is damaged or missing.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise PngError("no PNG")
    kind = b""
    while kind != b"IEND":
        start = file.read(8)
        if len(start) < 8:
            raise PngError("ends early")
        length, kind = struct.unpack(">I4s", start)
        if kind == before:
            return
        if file.tell() + length + 4 > end:
            raise PngError("ends early")
        if kind[0] & _ANCILLARY:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        content = file.read(length)
        if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(file.read(4), "big"):
            raise PngError("a damaged part")
        yield kind, content
