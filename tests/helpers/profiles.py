"""ICC profiles and files of cameras for tests, written by hand."""

import io
import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])


def profile(space, tags, *, connection=b"XYZ ", device=b"mntr"):
    """Makes an ICC profile of version 2.

    Args:
        space: the colours that it is for, four bytes.
        tags: their contents by their names.
        connection: the space in which profiles meet, four bytes.
        device: the class of the profile.
    """
    body, table, position = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        content = content.ljust(-(-len(content) // 4) * 4, b"\0")
        table += name + struct.pack(">LL", position + len(body), len(content))
        body += content
    header = struct.pack(">L4xL", position + len(body), 0x02400000) + device + space + connection
    header = header.ljust(36, b"\0") + b"acsp" + bytes(28) + xyz(D50)[8:]
    return header.ljust(128, b"\0") + struct.pack(">L", len(tags)) + table + body


def xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3l", *(round(v * 65536) for v in values))


def gamma(exponent):
    return b"curv" + struct.pack(">LLH", 0, 1, round(exponent * 256))


def rgb(columns, exponent):
    """Makes a profile of RGB.

    Args:
        columns: the XYZ of red, green and blue, adapted to D50.
        exponent: that makes light of numbers.
    """
    tags = {name: xyz(c) for name, c in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    tags |= {name: gamma(exponent) for name in (b"rTRC", b"gTRC", b"bTRC")}
    return profile(b"RGB ", tags | {b"wtpt": xyz(D50)})


def grey(exponent):
    return profile(b"GRAY", {b"kTRC": gamma(exponent), b"wtpt": xyz(D50)})


def cmyk(lab):
    """Makes a profile of CMYK.

    Args:
        lab: maps each of the 16 mixtures of no ink and full ink to L, a and b.
    """
    corners = [[(i >> k) & 1 for k in (3, 2, 1, 0)] for i in range(16)]  # cyan changes last
    numbers = [lab(*corner) for corner in corners]
    stored = bytes(round(v) for light, a, b in numbers for v in (light * 2.55, a + 128, b + 128))
    straight = bytes(range(256))
    identity = struct.pack(">9l", *np.eye(3, dtype=int).ravel().tolist())
    matrix = struct.pack(">9l", *(65536 * v for v in struct.unpack(">9l", identity)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + straight * 4 + stored + straight * 3
    tags = {b"A2B0": table, b"A2B1": table, b"wtpt": xyz(D50)}
    return profile(b"CMYK", tags, connection=b"Lab ", device=b"prtr")


def dng(light, orientation=1):
    """Makes a camera RAW: what a sensor sees through red, green and blue in turn, uncompressed.

    Args:
        light: linear sRGB, float [h, w, 3] in 0..1, of even size.
        orientation: as EXIF numbers it.
    """
    height, width = light.shape[:2]
    mosaic = light[..., 1].copy()
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = light[0::2, 0::2, 0], light[1::2, 1::2, 2]
    pixels = (mosaic * 65535).round().astype("<u2").tobytes()
    # The camera's colours are those of sRGB.
    from_xyz = (3.2405, -1.5371, -0.4985, -0.9693, 1.8760, 0.0416, 0.0556, -0.2040, 1.0572)
    fractions = [(round(value * 10000), 10000) for value in from_xyz]
    short, long, texts, bytes_, rational, signed = 3, 4, 2, 1, 5, 10
    entries = {
        254: (long, 1, struct.pack("<L", 0)),
        256: (long, 1, struct.pack("<L", width)),
        257: (long, 1, struct.pack("<L", height)),
        258: (short, 1, struct.pack("<H", 16)),
        259: (short, 1, struct.pack("<H", 1)),
        262: (short, 1, struct.pack("<H", 32803)),
        271: (texts, 5, b"Test\0"),
        272: (texts, 7, b"Camera\0"),
        273: (long, 1, b"here"),
        274: (short, 1, struct.pack("<H", orientation)),
        277: (short, 1, struct.pack("<H", 1)),
        278: (long, 1, struct.pack("<L", height)),
        279: (long, 1, struct.pack("<L", len(pixels))),
        33421: (short, 2, struct.pack("<HH", 2, 2)),
        33422: (bytes_, 4, bytes([0, 1, 1, 2])),
        50706: (bytes_, 4, bytes([1, 4, 0, 0])),
        50708: (texts, 12, b"Test Camera\0"),
        50714: (short, 1, struct.pack("<H", 0)),
        50717: (short, 1, struct.pack("<H", 65535)),
        50721: (signed, 9, b"".join(struct.pack("<ll", *pair) for pair in fractions)),
        50728: (rational, 3, struct.pack("<6L", 1, 1, 1, 1, 1, 1)),
        50778: (short, 1, struct.pack("<H", 21)),
    }
    start = 8 + 2 + 12 * len(entries) + 4
    further = b""
    directory = b""
    size = sum(
        len(content) + len(content) % 2 for *_, content in entries.values() if len(content) > 4
    )
    for tag, (kind, count, content) in entries.items():
        if content == b"here":
            content = struct.pack("<L", start + size)
        if len(content) > 4:
            position = start + len(further)
            further += content + bytes(len(content) % 2)
            content = struct.pack("<L", position)
        directory += struct.pack("<HHL", tag, kind, count) + content.ljust(4, b"\0")
    assert len(further) == size
    file = io.BytesIO()
    file.write(b"II*\0" + struct.pack("<LH", 8, len(entries)) + directory + bytes(4))
    file.write(further + pixels)
    return file.getvalue()
