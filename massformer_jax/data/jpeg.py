"""Decoding only the rows of a JPEG that are needed.

The coded data of a JPEG have to be read from their start, but not to their end: if the header
claims fewer rows than there are, a decoder stops there. If a file has restart markers at the ends
of rows (some cameras write them, and `jpegtran -restart 1` adds them without loss), decoding can
also begin at one of them. In both cases the pixels are exactly those of the whole photograph.
"""

import re
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8

_START, _END = b"\xff\xd8", b"\xff\xd9"
_END_OF_IMAGE, _START_OF_SCAN, _RESTART_INTERVAL = 0xD9, 0xDA, 0xDD
_SEQUENTIAL_FRAMES = (0xC0, 0xC1)
_OTHER_FRAMES = tuple(set(range(0xC2, 0xD0)) - {0xC4, 0xC8, 0xCC})  # tables and an extension
_TABLES_AND_TEXTS = (0xC4, 0xCC, 0xDB, 0xDC, *range(0xE0, 0xF0), 0xFE)
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a segment
# Between segments decoders pass over everything that is no marker: fill bytes of 0xff, and bytes
# that cameras and editors leave there.
_MARKER = re.compile(rb"\xff[^\x00\xff]")
# A scan's data end at the first byte pair that is neither a stuffed 0xff nor a restart marker.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# Chroma that is stored for every second row is interpolated, so that the colour of a row also
# depends on the rows next to it.
_CONTEXT = 2


class Layout(NamedTuple):
    """The positions of the parts of a JPEG whose rows are coded from top to bottom in one scan."""

    height: int  # pixels
    width: int  # pixels
    frame: int  # position in bytes of the frame's segment, behind its marker
    scan: int  # position in bytes where the coded data begin
    end: int  # position in bytes where they end
    restart_rows: int  # rows of pixels from one restart marker to the next; 0 if there are none


class JpegError(ValueError):
    """The error of a JPEG whose markers do not lead to an end-of-image marker."""


def read_layout(data: bytes) -> Layout | None:
    """Walks the markers of a JPEG from its start to its end, as libjpeg does.

    A look at the last two bytes would not do: cameras append data after the end, and a thumbnail in
    the EXIF block has an end of its own. Bytes between the segments are passed over, as OpenCV and
    Pillow do, whose decoder is libjpeg.

    Returns:
        The layout, or None if the rows are coded in several passes (a progressive file) or in
        another unusual way.

    Raises:
        JpegError: the markers do not lead to an end, or there is one that decoders do not know.
    """
    frame, kind, interval = 0, 0, 0
    scans: list[tuple[int, int]] = []
    position = len(_START)
    while found := _MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            sequential = kind in _SEQUENTIAL_FRAMES and len(scans) == 1
            return _layout(data, frame, scans[0], interval) if sequential else None
        if marker in _ALONE:
            continue
        segment = position
        # The length includes its own two bytes. Decoders take 0 and 1 for 2.
        position += max(2, int.from_bytes(data[segment : segment + 2], "big"))
        if marker in _SEQUENTIAL_FRAMES or marker in _OTHER_FRAMES:
            frame, kind = segment, marker
        elif marker == _RESTART_INTERVAL:
            interval = int.from_bytes(data[segment + 2 : segment + 4], "big")
        elif marker == _START_OF_SCAN:
            end = _END_OF_SCAN.search(data, position)
            if end is None:
                break
            scans.append((position, end.start()))
            position = end.start()
        elif marker not in _TABLES_AND_TEXTS:
            break
    # A text behind the coded data may claim to be longer than it is, and so hide the end.
    hidden = kind in _SEQUENTIAL_FRAMES and len(scans) == 1 and data.endswith(_END)
    if hidden and _is_whole(data[: scans[0][1]] + _END):
        return None
    raise JpegError("the JPEG is truncated or corrupt")


def _is_whole(data: bytes) -> bool:
    """Tells whether a JPEG can be decoded without any warning, such as one of missing data."""
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_factor=8, strict=True)
    except ValueError:
        return False
    return True


def _layout(data: bytes, frame: int, scan: tuple[int, int], interval: int) -> Layout | None:
    """Makes the layout from the positions of the parts, or returns None if the frame is unusual.

    Args:
        data: the JPEG.
        frame: position of the frame's segment.
        scan: where the coded data begin and end.
        interval: number of coded units from one restart marker to the next, or 0.
    """
    segment = data[frame : frame + int.from_bytes(data[frame : frame + 2], "big")]
    components = (len(segment) - 8) // 3
    # Four components are CMYK. Below, a height of 0 means that it is stored after the scan.
    if components not in (1, 3) or segment[2] != 8 or segment[7] != components:
        return None
    height, width = (int.from_bytes(segment[i : i + 2], "big") for i in (3, 5))
    sampling = segment[9::3]
    # A lone component is coded block by block, whatever its sampling factors.
    unit_width = 8 * max(s >> 4 for s in sampling) if components > 1 else 8
    unit_height = 8 * max(s & 15 for s in sampling) if components > 1 else 8
    if not height or not width or not unit_width or not unit_height:
        return None
    units = -(-width // unit_width)
    restart_rows = interval // units * unit_height if interval % units == 0 else 0
    return Layout(height, width, frame, *scan, restart_rows)


def decode_rows(
    data: bytes, layout: Layout, start: int, stop: int, *, reduce: int = 1
) -> UInt8[np.ndarray, "rows w 3"]:
    """Decodes the rows start..stop-1 of a photograph to RGB, without turning it by its EXIF tag.

    Args:
        data: a complete JPEG.
        layout: what `read_layout` returned for it.
        start: first row, in pixels of the photograph after `reduce`.
        stop: end of the rows, likewise.
        reduce: 1, 2, 4 or 8: the photograph is shrunk to this fraction of its size, rounded up, by
            averaging in the frequency domain.

    Raises:
        ValueError: the data cannot be decoded. Wrong codes in complete data are not noticed.
    """
    above, below = (start - _CONTEXT) * reduce, (stop + _CONTEXT) * reduce
    first, data, height = _shortened(data, layout, above, below)
    h, w = -(-height // reduce), -(-layout.width // reduce)
    # NumPy asks the system for large pages of memory. Without them, clearing the decoder's own
    # memory takes as long as decoding.
    buffer = np.empty(h * w * 3, np.uint8)
    # Not strict, because a strict decoder takes the data behind the last claimed row for an error.
    image = simplejpeg.decode_jpeg(
        data, "RGB", min_height=h, min_width=w, min_factor=reduce, buffer=buffer, strict=False
    )
    return image[start - first // reduce : stop - first // reduce]


def _shortened(data: bytes, layout: Layout, start: int, stop: int) -> tuple[int, bytearray, int]:
    """Cuts a JPEG down to fewer rows, which include start..stop-1.

    Returns:
        (first, JPEG, height): the new JPEG holds the rows first..first+height-1.
    """
    start, stop = max(start, 0), min(stop, layout.height)
    first, body = 0, memoryview(data)[layout.scan :]
    restart_rows, markers = layout.restart_rows, []
    if restart_rows and start >= restart_rows:
        found = [marker.start() for marker in _RESTART.finditer(data, layout.scan, layout.end)]
        begin, end = start // restart_rows - 1, -(-stop // restart_rows) - 1
        if len(found) == -(-layout.height // restart_rows) - 1:
            first = (begin + 1) * restart_rows
            markers = [position - found[begin] - 2 for position in found[begin + 1 : end]]
            last = found[end] if end < len(found) else layout.end
            body = bytes(memoryview(data)[found[begin] + 2 : last]) + _END
    shortened = bytearray(memoryview(data)[: layout.scan])
    shortened[layout.frame + 3 : layout.frame + 5] = (stop - first).to_bytes(2, "big")
    shortened += body
    for number, marker in enumerate(markers):  # they are numbered 0..7 again and again
        shortened[layout.scan + marker + 1] = 0xD0 + number % 8
    return first, shortened, stop - first
