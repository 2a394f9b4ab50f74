import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from massformer_jax.data import label_png
from massformer_jax.data.images import ImageError, decode_mask, encode_mask
from massformer_jax.data.png import read_labels


def labels(height=37, width=53):
    """Makes a random label map, always the same one."""
    return np.random.default_rng(0).choice(np.uint8([0, 1, 5, 255]), (height, width))


def encoded(array):
    """Encodes an array as PNG with Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_our_label_maps_are_read_fast():
    np.testing.assert_array_equal(read_labels(encode_mask(labels())), labels())


def test_several_chunks_of_pixels_are_joined():
    data = encode_mask(labels(300, 400))
    start = data.index(b"IDAT") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    packed = data[start + 8 : start + 8 + length]

    def chunk(content):
        body = b"IDAT" + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    parts = b"".join(chunk(packed[i : i + 999]) for i in range(0, length, 999))
    chunked = data[:start] + parts + data[start + 12 + length :]
    assert chunked.count(b"IDAT") > 10
    np.testing.assert_array_equal(read_labels(chunked), labels(300, 400))


def test_other_files_are_left_to_pillow():
    filtered = cv2.imencode(".png", labels(), [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP])[
        1
    ].tobytes()
    few = Image.fromarray(labels() % 4)
    few.putpalette(bytes(range(12)))
    small = io.BytesIO()
    few.save(small, "PNG", bits=2)
    for data, expected in ((filtered, labels()), (small.getvalue(), labels() % 4)):
        assert read_labels(data) is None
        np.testing.assert_array_equal(decode_mask(data), expected)


def test_colours_are_still_refused():
    data = encoded(np.zeros((4, 4, 3), np.uint8))
    assert read_labels(data) is None
    with pytest.raises(ImageError, match="holds 8-bit RGB pixels"):
        decode_mask(data)


def test_damage_is_an_image_error(monkeypatch):
    # Each byte is changed in turn. There is an error, or Pillow returns the same labels.
    data = encode_mask(labels(9, 11))
    refused = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        try:
            fast = decode_mask(bytes(damaged))
        except ImageError:
            refused += 1
            continue
        with monkeypatch.context() as patch:
            patch.setattr(label_png, "read_labels", lambda _: None)
            np.testing.assert_array_equal(fast, decode_mask(bytes(damaged)))
    assert refused > len(data) // 2


def test_a_header_that_promises_too_much_allocates_nothing():
    data = bytearray(encode_mask(labels()))
    data[16:24] = (2**31 - 1).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    assert read_labels(bytes(data)) is None
