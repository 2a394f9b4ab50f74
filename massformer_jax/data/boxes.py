"""The boxes that HEIC, AVIF and JPEG XL files are made of, read where decoders do not tell of them.

A box is a length, a name of four letters, and a body, which may hold further boxes (ISO/IEC
14496-12). A HEIC or AVIF file holds items: a photograph, the tiles that it is joined from,
thumbnails, maps of depth or brightness, EXIF. The primary item is the photograph itself.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

# Bytes of a file in a row that are zero and cannot be coded pictures. HEVC never has three of them,
# and AV1 never had more than sixteen. Interrupted downloads leave thousands.
_HOLE = bytes(256)
_CODED = (b"hvc1", b"hev1", b"av01")  # types of items whose data are HEVC or AV1


class Box(NamedTuple):
    """One box: its name, and the positions in bytes where its body begins and ends."""

    name: bytes
    start: int
    end: int


def boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """Yields the boxes between two positions, until one does not fit in there."""
    while start + 8 <= end:
        size, name = struct.unpack_from(">L4s", data, start)
        body = start + 8
        if size == 1 and body + 8 <= end:  # the size is stored behind the name, in eight bytes
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        stop = end if size == 0 else start + size  # 0: up to the end
        if not body <= stop <= end:
            return
        yield Box(name, body, stop)
        start = stop


def brands(data: bytes) -> list[bytes]:
    """Returns the brands of a file, its major one first; none if it does not begin with brands."""
    first = next(boxes(data, 0, len(data)), None)
    if first is None or first.name != b"ftyp":
        return []
    body = data[first.start : first.end]
    return [body[:4], *(body[i : i + 4] for i in range(8, len(body) - 3, 4))]


def coded_colours(data: bytes) -> tuple[int, int] | None:
    """Returns the colour primaries and transfer characteristics of the primary item, if it has any.

    These are code points of ITU-T H.273, from a box of the kind `nclx`.
    """
    try:
        return _coded_colours(data)
    except (struct.error, IndexError, StopIteration):  # the decoder finds out what is wrong with it
        return None


def has_holes(data: bytes) -> bool:
    """Tells whether a HEIC or AVIF file has zeros where there should be coded pictures."""
    try:
        return any(data.find(_HOLE, *extent) >= 0 for extent in _coded_extents(data))
    except (struct.error, IndexError, StopIteration):
        return False


def _inside(data: bytes, outer: Box, name: bytes, skip: int = 0) -> Box:
    """Returns the first box of this name within another, behind `skip` bytes of its body."""
    found = (box for box in boxes(data, outer.start + skip, outer.end) if box.name == name)
    return next(found)


def _meta(data: bytes) -> Box:
    """Returns the box that describes all items; its first four bytes are its version and flags."""
    return next(box for box in boxes(data, 0, len(data)) if box.name == b"meta")


def _coded_colours(data: bytes) -> tuple[int, int] | None:
    meta = _meta(data)
    primary = _inside(data, meta, b"pitm", 4)
    # Boxes with a version store it in their first byte, and it decides about the width of numbers.
    (item,) = struct.unpack_from(">L" if data[primary.start] else ">H", data, primary.start + 4)
    all_properties = _inside(data, meta, b"iprp", 4)
    container = _inside(data, all_properties, b"ipco")
    properties = list(boxes(data, container.start, container.end))
    for number in _associated(data, _inside(data, all_properties, b"ipma"), item):
        box = properties[number - 1]
        if box.name == b"colr" and data[box.start : box.start + 4] == b"nclx":
            return struct.unpack_from(">HH", data, box.start + 4)
    return None


def _associated(data: bytes, box: Box, wanted: int) -> list[int]:
    """Returns the numbers, from 1, of the properties that an item has."""
    version, wide = data[box.start], data[box.start + 3] & 1
    (count,) = struct.unpack_from(">L", data, box.start + 4)
    position = box.start + 8
    for _ in range(count):
        item, many = struct.unpack_from(">LB" if version else ">HB", data, position)
        position += 5 if version else 3
        numbers = struct.unpack_from(f">{many}{'H' if wide else 'B'}", data, position)
        position += many * (2 if wide else 1)
        if item == wanted:
            # The first bit says whether a reader has to understand the property.
            return [number & (0x7FFF if wide else 0x7F) for number in numbers if number]
    return []


def _coded_extents(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields where the data of HEVC and AV1 items begin and end, in bytes of the file."""
    meta = _meta(data)
    kinds = _item_kinds(data, _inside(data, meta, b"iinf", 4))
    box = _inside(data, meta, b"iloc", 4)
    version = data[box.start]
    sizes = (data[box.start + 4] >> 4, data[box.start + 4] & 15)
    bases = (data[box.start + 5] >> 4, data[box.start + 5] & 15)
    number = ">L" if version == 2 else ">H"
    (count,) = struct.unpack_from(number, data, box.start + 6)
    position = box.start + 6 + struct.calcsize(number)

    def read(width: int) -> int:
        nonlocal position
        position += width
        if position > box.end:
            raise IndexError(position)
        return int.from_bytes(data[position - width : position], "big")

    for _ in range(count):
        item = read(struct.calcsize(number))
        method = read(2) & 15 if version else 0  # 0: the file; else a part of this or another one
        read(2)
        base = read(bases[0])
        for _ in range(read(2)):
            read(bases[1] if version else 0)
            start = base + read(sizes[0])
            length = read(sizes[1])
            if method == 0 and kinds.get(item) in _CODED:
                yield start, start + length if length else len(data)


def _item_kinds(data: bytes, box: Box) -> dict[int, bytes]:
    """Returns the types of all items by their numbers."""
    start = box.start + (8 if data[box.start] else 6)
    kinds = {}
    for entry in boxes(data, start, box.end):
        version = data[entry.start]
        if version >= 2:
            form = ">LH4s" if version == 3 else ">HH4s"
            item, _, kind = struct.unpack_from(form, data, entry.start + 4)
            kinds[item] = kind
    return kinds
