"""JPEGs as cameras, editors and accidents leave them, made from sound ones."""

import io
import re
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

_END_OF_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_BODIES = (b"", b"Exif\0\0", b"JFIF\0", b"Adobe", b"MPF\0", b"ICC_PROFILE\0", b"Photoshop 3.0\0")
_MARKERS = (*range(0xE0, 0xF0), 0xFE, 0xDC, 0x01, 0xD0)  # texts, a number of lines, two alone


def picture(height, width, seed=0):
    """Makes a smooth picture with noise, which shows chroma that is taken from a wrong row."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def encoded(image, **options):
    """Encodes an image as JPEG with Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def sound_jpegs():
    """Returns JPEGs of the kinds that photographs have."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encoded(picture(61, 83)),
        encoded(picture(96, 64), subsampling=2, restart_marker_rows=1),
        encoded(picture(64, 80), subsampling=0, dpi=(72, 72), comment=b"text"),
        encoded(picture(72, 72), progressive=True),
        encoded(picture(80, 56), restart_marker_blocks=3),
        encoded(picture(50, 70)[..., 0]),
        encoded(picture(64, 48), exif=exif),
    ]


def segments(data):
    """Returns [(start, end), ...] of the segments of a sound JPEG, the end-of-image marker last."""
    found, position = [], 2
    while data[position + 1] != 0xD9:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        found.append((position, end))
        scan = data[position + 1] == 0xDA
        position = _END_OF_SCAN.search(data, end).start() if scan else end
    return [*found, (position, position + 2)]


def harmless(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields (what was done, JPEG): the same pixels with all that decoders pass over."""
    places = [start for start, _ in segments(data)]
    for number, place in enumerate(places):
        for what, added in (
            ("a zero byte", b"\0"),
            ("stray bytes", b"\0camera\xff\x00\r\n"),
            ("fill bytes", b"\xff" * 4),
            ("an empty segment", b"\xff\xe8\0\x02"),
            ("a text", b"\xff\xfe\0\x08" + b"\xff\xd9\xff\xd8\xff\xd9"[:6]),
        ):
            # Decoders want the first marker right behind the start.
            if number or added.startswith(b"\xff"):
                yield f"{what} before segment {number}", data[:place] + added + data[place:]
    yield "bytes after the end", data + b"\0\0trailer\xff"
    yield "another image after the end", data + data


def altered(data, rng):
    """Returns a JPEG that is altered at random in one of many ways; not all decoders will read it.

    Args:
        data: a sound JPEG.
        rng: decides.
    """
    found = segments(data)
    start, end = found[rng.integers(len(found) - 1)]
    place = found[rng.integers(len(found))][0]
    new = bytearray(data)
    match rng.choice(["stray", "fill", "segment", "length", "bytes", "cut", "twice", "end"]):
        case "stray":
            new[place:place] = rng.bytes(int(rng.integers(1, 9)))
        case "fill":
            new[place:place] = b"\xff" * int(rng.integers(1, 6))
        case "segment":
            body = bytes(rng.choice(_BODIES)) + rng.bytes(int(rng.integers(0, 40)))
            length = max(0, len(body) + 2 + int(rng.choice([0, 0, 0, -3, -1, 1, 3])))
            marker = bytes([0xFF, rng.choice(_MARKERS)])
            new[place:place] = marker + length.to_bytes(2, "big") + body
        case "length":
            length = int.from_bytes(new[start + 2 : start + 4], "big") + int(rng.integers(-4, 5))
            new[start + 2 : start + 4] = max(0, length).to_bytes(2, "big")
        case "bytes":
            for position in rng.integers(2, len(new), 3):
                new[position] = rng.integers(256)
        case "cut":
            first = int(rng.integers(2, len(new) - 2))
            del new[first : first + int(rng.integers(1, 30))]
        case "twice":
            new[place:place] = new[start:end]
        case "end":
            new += rng.bytes(int(rng.integers(1, 50)))
    return bytes(new)
