import io

import cv2
import numpy as np
import pytest
from PIL import Image

from massformer_jax.classes import IGNORE, PALETTE
from massformer_jax.data.images import (
    ImageError,
    decode_image,
    decode_mask,
    encode_mask,
    image_size,
)
from tests.helpers.turns import TURNS


def photograph(height=40, width=60):
    """Makes a picture that is red left, green right and blue below, so that each turn differs."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = 220
    image[:, width // 2 :, 1] = 220
    image[height // 2 :, :, 2] = 220
    return image


def encoded(image, fmt="JPEG", **options):
    """Encodes an image with Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, fmt, **options)
    return buffer.getvalue()


def test_image_is_rgb_from_bytes_and_path(tmp_path):
    image = photograph()
    png = encoded(image, "PNG")
    np.testing.assert_array_equal(decode_image(png), image)
    (tmp_path / "a.png").write_bytes(png)
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), image)
    assert np.abs(decode_image(encoded(image, quality=95)).astype(int) - image).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph(), "PNG", exif=exif)
    jpeg = encoded(photograph(), quality=95, exif=exif)
    upright = TURNS[orientation](photograph())
    for file in (data, jpeg):
        image = decode_image(file)
        assert image_size(file) == image.shape[:2] == upright.shape[:2]
        assert np.abs(image.astype(int) - upright).mean() < 6


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_that_ends_early_is_refused(tmp_path, progressive):
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    data = encoded(noise, quality=90, progressive=progressive)
    for missing in (1, 2, 3, 800, len(data) - 2):
        (tmp_path / "cut.jpg").write_bytes(data[:-missing])
        with pytest.raises(
            ImageError, match=r"cut\.jpg: the JPEG is truncated .*download it again$"
        ):
            decode_image(tmp_path / "cut.jpg")


def test_jpeg_that_ends_in_zeros_is_refused():
    # Interrupted downloads leave such files, whose lower part OpenCV fills with grey.
    complete = encoded(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8), quality=90)
    data = complete[: len(complete) // 2] + bytes(len(complete) // 2)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[-1].std() < 30
    assert decode_image(complete)[-1].std() > 50
    with pytest.raises(ImageError, match=r"^photo: the JPEG is truncated"):
        decode_image(data, "photo")


def test_data_after_the_end_of_a_jpeg_is_no_damage():
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9" * 9  # within a segment these do not end the image
    data = encoded(photograph(), exif=exif, restart_marker_blocks=1)
    padded = data[:2] + b"\xff\xff" + data[2:]  # fill bytes, allowed before any marker
    for harmless in (data + b"trailer \xff\xff", padded):
        np.testing.assert_array_equal(decode_image(harmless), decode_image(data))
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data[:-2] + b"trailer")


@pytest.mark.parametrize("data", [b"", b"no image", encoded(photograph(), "PNG")[:-200]])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(ImageError, match=r"^a\.png: not a readable image .*replace the file$"):
        decode_image(data, "a.png")


def test_mask_survives_in_all_values_and_shows_the_palette():
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = encode_mask(labels)
    np.testing.assert_array_equal(decode_mask(data), labels)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "P"
        colours = np.array(image.convert("RGB")).reshape(-1, 3)
    np.testing.assert_array_equal(colours[: len(PALETTE)], PALETTE)
    np.testing.assert_array_equal(colours[IGNORE], [255, 255, 255])


def test_grey_and_foreign_palette_masks_give_their_labels():
    labels = np.random.default_rng(0).integers(0, 7, (20, 30), np.uint8)
    np.testing.assert_array_equal(decode_mask(encoded(labels, "PNG")), labels)
    image = Image.fromarray(labels)
    image.putpalette(bytes(range(255, -1, -1)) * 3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=4)
    np.testing.assert_array_equal(decode_mask(buffer.getvalue()), labels)


def test_mask_errors_name_the_file(tmp_path):
    data = encode_mask(np.random.default_rng(0).integers(0, 7, (99, 99), np.uint8))
    for broken in (b"", b"no image", data[: len(data) // 2]):
        (tmp_path / "m.png").write_bytes(broken)
        with pytest.raises(ImageError, match=r"m\.png: the label map is truncated.*again$"):
            decode_mask(tmp_path / "m.png")
    with pytest.raises(ImageError, match="m: the label map holds 8-bit RGB pixels; save it"):
        decode_mask(encoded(photograph(), "PNG"), "m")
    with pytest.raises(ImageError, match="holds 16-bit grey pixels"):
        decode_mask(encoded(np.zeros((4, 4), np.uint16), "PNG"))


def test_size_needs_the_header_alone(tmp_path):
    data = encoded(photograph(33, 47))
    assert image_size(data[:700]) == (33, 47)
    (tmp_path / "no.jpg").write_bytes(b"text")
    with pytest.raises(ImageError, match=r"no\.jpg: not a readable image"):
        image_size(tmp_path / "no.jpg")


def test_size_of_a_header_that_only_the_decoder_understands():
    data = bytearray(encoded(photograph(33, 47), "WEBP"))
    data[16] ^= 2  # the size of the only chunk
    image = Image.fromarray(decode_image(bytes(data)))
    assert image_size(bytes(data)) == (image.height, image.width) == (33, 47)
