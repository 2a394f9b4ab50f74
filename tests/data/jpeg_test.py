import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from massformer_jax.data import jpeg
from massformer_jax.data.images import ImageError, decode_image, decode_window
from massformer_jax.data.jpeg import read_layout
from tests.helpers.altered_jpegs import encoded, picture

# Pillow numbers the subsamplings 4:4:4, 4:2:2 and 4:2:0 from 0 to 2.
KINDS = {
    "444": {"subsampling": 0},
    "422": {"subsampling": 1},
    "420": {"subsampling": 2},
    "420, restarts each row": {"subsampling": 2, "restart_marker_rows": 1},
    "420, restarts each second row": {"subsampling": 2, "restart_marker_rows": 2},
    "444, restarts each row": {"subsampling": 0, "restart_marker_rows": 1},
    "420, restarts within rows": {"subsampling": 2, "restart_marker_blocks": 3},
    "progressive": {"progressive": True},
    "progressive, restarts": {"progressive": True, "restart_marker_rows": 1},
    "EXIF data": {"comment": b"\xff\xd9 no end"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(61, 83), (96, 64)])
def test_a_window_has_the_very_pixels_of_the_whole(kind, size):
    data = encoded(picture(*size), **KINDS[kind])
    whole = decode_image(data)
    for start in range(0, size[0], 3):
        for stop in {start + 1, start + 2, start + 17, size[0] - 1, size[0]}:
            if start < stop <= size[0]:
                window = decode_window(data, slice(start, stop), slice(5, 40))
                np.testing.assert_array_equal(window, whole[start:stop, 5:40])


def test_grey_and_440_and_turned_ones_too():
    grey = encoded(picture(61, 83)[..., 0])
    ok, tall = cv2.imencode(
        ".jpg",
        picture(61, 83),
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440],
    )
    assert ok
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(picture(61, 83), exif=exif)
    cmyk = io.BytesIO()
    Image.fromarray(picture(61, 83)).convert("CMYK").save(cmyk, "JPEG")
    for data in (grey, tall.tobytes(), turned, cmyk.getvalue()):
        whole = decode_image(data)
        for start, stop in ((0, 9), (20, 31), (40, 61), (60, 61)):
            window = decode_window(data, slice(start, stop), slice(3, 50))
            np.testing.assert_array_equal(window, whole[start:stop, 3:50])


def test_layout_says_where_restarts_stand():
    assert read_layout(encoded(picture(61, 83), **KINDS["420"])).restart_rows == 0
    for name, rows in (
        ("420, restarts each row", 16),
        ("420, restarts each second row", 32),
        ("444, restarts each row", 8),
        ("420, restarts within rows", 0),
    ):
        layout = read_layout(encoded(picture(61, 83), **KINDS[name]))
        assert (layout.height, layout.width, layout.restart_rows) == (61, 83, rows), name
    assert read_layout(encoded(picture(61, 83), **KINDS["progressive"])) is None


def test_grey_with_sampling_factors_is_coded_block_by_block():
    # The factors mean nothing if there is one component, but some encoders write 2x2 nevertheless.
    data = bytearray(encoded(picture(61, 83)[..., 0], restart_marker_rows=1))
    data[read_layout(bytes(data)).frame + 9] = 0x22
    whole = decode_image(bytes(data))
    assert read_layout(bytes(data)).restart_rows == 8
    for start in range(0, 60, 5):
        window = decode_window(bytes(data), slice(start, 61), slice(0, 83))
        np.testing.assert_array_equal(window, whole[start:])


def test_sampling_factors_of_zero_are_no_layout():
    data = bytearray(encoded(picture(61, 83)))
    frame = read_layout(bytes(data)).frame
    for i in range(3):
        data[frame + 9 + 3 * i] &= 0x0F
    assert read_layout(bytes(data)) is None
    with pytest.raises(ImageError):
        decode_image(bytes(data))


def test_what_lies_beyond_the_window_is_not_decoded(monkeypatch):
    # The claimed height ends just below the window. Above it, the data begin at a restart marker.
    seen = []
    decode = simplejpeg.decode_jpeg

    def watched(data, *args, **options):
        seen.append((read_layout(bytes(data)).height, len(data)))
        return decode(data, *args, **options)

    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", watched)
    for kind, start, heights, share in (
        ("420", 0, (32, 48), 1.0),
        ("420", 200, (232, 248), 1.0),
        ("420, restarts each row", 200, (32, 64), 0.5),
    ):
        data = encoded(picture(256, 256), **KINDS[kind])
        decode_window(data, slice(start, start + 32), slice(0, 9))
        height, length = seen[-1]
        assert heights[0] <= height <= heights[1]
        assert length <= share * len(data)


@pytest.mark.parametrize("kind", ["444", "420", "420, restarts each row", "progressive"])
@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_reduced_rows_are_means(kind, reduce):
    image = picture(160, 136)
    data = encoded(image, **KINDS[kind])
    mean = cv2.resize(image, (136 // reduce, 160 // reduce), interpolation=cv2.INTER_AREA)
    window = decode_window(data, slice(40 // reduce, 120 // reduce), slice(1, 12), reduce=reduce)
    expected = mean[40 // reduce : 120 // reduce, 1:12]
    assert window.shape == expected.shape
    assert np.abs(window.astype(int) - expected).mean() < 5


def test_reduced_windows_fit_together():
    data = encoded(picture(157, 131), **KINDS["420, restarts each row"])
    whole = decode_window(data, slice(0, 79), slice(0, 66), reduce=2)
    assert whole.shape == (79, 66, 3)
    for start, stop in ((0, 8), (17, 40), (33, 79), (78, 79)):
        part = decode_window(data, slice(start, stop), slice(0, 66), reduce=2)
        np.testing.assert_array_equal(part, whole[start:stop])


def test_damage_is_an_image_error_or_nothing():
    # Whichever bytes change, there is no other exception and no endless loop.
    rng = np.random.default_rng(0)
    data = encoded(picture(64, 64), **KINDS["420, restarts each row"])
    refused = 0
    for _ in range(400):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data) if rng.random() < 0.5 else 700, 3):
            damaged[position] = rng.integers(0, 256)
        try:
            decode_window(bytes(damaged), slice(20, 40), slice(0, 64), "a.jpg")
        except ImageError as error:
            refused += 1
            assert str(error).startswith("a.jpg: ") and "\n" not in str(error)
    assert 40 < refused < 360


def test_a_truncated_file_is_refused_even_where_the_window_is_whole():
    data = encoded(picture(256, 64), **KINDS["420"])
    with pytest.raises(ImageError, match=r"^a\.jpg: the JPEG is truncated"):
        decode_window(data[:-40], slice(0, 8), slice(0, 64), "a.jpg")
