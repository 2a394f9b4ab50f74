"""A reader for the PNG files of tests/parity that needs nothing but NumPy."""

import pathlib
import struct
import zlib

import numpy as np

_CHANNELS = {0: 1, 2: 3}  # colour types: grey and RGB


def read_png(path: pathlib.Path) -> np.ndarray:
    """Returns the pixels, uint8 [h, w] or [h, w, 3], of an 8-bit grey or RGB image.

    Raises:
        ValueError: the image is of another kind, or interlaced.
    """
    data = path.read_bytes()
    position, packed, header = 8, b"", b""
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        content = data[position + 8 : position + 8 + length]
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            packed += content
        position += length + 12
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if bits != 8 or colours not in _CHANNELS or interlaced:
        raise ValueError(f"{path} is no plain 8-bit grey or RGB image")
    channels = _CHANNELS[colours]
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + width * channels)
    pixels = np.zeros((height, width, channels), np.uint8)
    above = np.zeros((width, channels), np.uint8)
    for row, pixel_row in zip(rows, pixels, strict=True):
        _restore(int(row[0]), row[1:].reshape(width, channels), above, pixel_row)
        above = pixel_row
    return pixels[..., 0] if channels == 1 else pixels


def _restore(kind: int, differences: np.ndarray, above: np.ndarray, out: np.ndarray) -> None:
    """Undoes the filter of a row and writes its pixels [w, c] into `out`; bytes wrap around."""
    if kind == 0:
        out[:] = differences
    elif kind == 1:  # relative to the left neighbour
        out[:] = np.cumsum(differences, 0, dtype=np.uint8)
    elif kind == 2:  # relative to the pixel above
        out[:] = differences + above
    else:  # relative to the mean of both, or to Paeth's choice of left, above and above left
        for channel in range(differences.shape[1]):
            left, corner, values = 0, 0, []
            both = zip(differences[:, channel].tolist(), above[:, channel].tolist(), strict=True)
            for difference, up in both:
                guess = (left + up) // 2 if kind == 3 else _nearest(left, up, corner)
                left, corner = (difference + guess) & 255, up
                values.append(left)
            out[:, channel] = values


def _nearest(left: int, up: int, corner: int) -> int:
    """Returns what Paeth's predictor of the PNG specification chooses."""
    estimate = left + up - corner
    return min((left, up, corner), key=lambda value: abs(estimate - value))
