"""Which files are label maps: one judgement for the builder and for all that read label maps."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from massformer_jax.classes import CLASSES, PALETTE, class_palette
from massformer_jax.data.images import ImageError, decode_mask, encode_mask, mask_size
from massformer_jax.data.label_png import LabelMapError, check_label_map
from massformer_jax.data.png import PIXELS_SETTING, read_labels
from massformer_jax.data_builders.mass13k import headers
from massformer_jax.data_builders.mass13k.label_maps import grey_label_map

CLASS_COUNT = len(CLASSES)
LABELS = np.random.default_rng(0).choice(np.uint8([0, 1, 2, 6, 255]), (40, 60))


def file_of(labels, kind, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, kind, **options)
    return buffer.getvalue()


def paletted(labels, colours) -> bytes:
    image = Image.fromarray(labels)
    image.putpalette(np.array(colours, np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def grey_of(bits: int) -> bytes:
    """A grey PNG of fewer bits: Pillow writes it with a palette, so the header is changed."""
    image = Image.fromarray(LABELS % 2)
    image.putpalette(bytes(3 * 2**bits))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=bits)
    data = bytearray(buffer.getvalue())
    data[25] = 0
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_what_is_no_png_is_named_whatever_its_name(kind):
    data = file_of(LABELS % 7, kind)
    with pytest.raises(
        ImageError, match=f"x.png: is a {kind}, whatever its name; export the label"
    ):
        decode_mask(data, "x.png")


@pytest.mark.parametrize(
    "data, kind",
    [
        (grey_of(1), "1-bit grey"),
        (grey_of(2), "2-bit grey"),
        (file_of(LABELS.astype(np.uint16), "PNG"), "16-bit grey"),
        (file_of(PALETTE[LABELS % 7], "PNG"), "8-bit RGB"),
        (file_of(np.repeat(LABELS[..., None], 4, 2), "PNG"), "8-bit RGBA"),
    ],
)
def test_pixels_that_are_no_labels_are_refused(data, kind):
    with pytest.raises(ImageError, match=f"the label map holds {kind} pixels; save it as an 8-bit"):
        decode_mask(data)


def test_only_who_looks_colours_up_may_have_rgb():
    data = io.BytesIO(file_of(PALETTE[LABELS % 7], "PNG"))
    assert check_label_map(data, colours=True)[:2] == (40, 60)
    with pytest.raises(LabelMapError, match="RGB"):
        check_label_map(data)


def test_a_quantised_prediction_is_refused():
    """Its indices are in the order of frequency, and its palette tells which class each is."""
    truth = np.full((30, 40), 5, np.uint8)
    truth[:9] = 3
    image = Image.fromarray(PALETTE[truth]).quantize(2)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    with pytest.raises(ImageError, match=r"palette shows label 0 in the colour of (sky|tree): are"):
        decode_mask(buffer.getvalue(), classes=CLASS_COUNT)
    # Smoothing or a JPEG on the way changes colours a little.
    off = np.add(PALETTE[[5, 3]].astype(int), [[3, 2, -4], [5, -6, 0]])
    with pytest.raises(ImageError, match="label 0 in the colour of sky"):
        decode_mask(paletted(truth % 2, np.clip(off, 0, 255)), classes=CLASS_COUNT)


@pytest.mark.parametrize(
    "colours, classes",
    [
        (PALETTE, CLASS_COUNT),
        # Colours of another dataset tell nothing, nor does black.
        ([[128, 64, 128], [244, 35, 232], [70, 70, 70], [102, 102, 156]], CLASS_COUNT),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], CLASS_COUNT),
        # Of other classes nobody knows the colours.
        (class_palette(3), 3),
        ([[255, 0, 0], [0, 0, 255], [0, 255, 0]], 3),
        ([[255, 0, 0], [0, 0, 255], [0, 255, 0]], None),
    ],
)
def test_palettes_that_do_not_contradict_the_indices(colours, classes):
    labels = LABELS % min(len(colours), 3)
    np.testing.assert_array_equal(decode_mask(paletted(labels, colours), classes=classes), labels)


def test_our_own_label_maps_are_in_order():
    for classes in (3, 7, 20):
        data = encode_mask(LABELS, np.array(class_palette(classes), np.uint8))
        np.testing.assert_array_equal(decode_mask(data, classes=classes), LABELS)


def filtered(labels, **options) -> bytes:
    """A label map whose rows are filtered, so that Pillow has to read it."""
    rows = b"".join(b"\1" + np.diff(row, prepend=np.uint8(0)).tobytes() for row in labels)
    data = file_of(labels, "PNG", **options)
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    body = b"IDAT" + zlib.compress(rows)
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return data[:start] + chunk + data[end:]


def test_texts_and_pillow_s_limits_do_not_matter(monkeypatch, tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("history", "abc" * 1_000_000, zip=True)
    data = filtered(LABELS, pnginfo=text)
    assert read_labels(data) is None
    with pytest.raises(ValueError, match="too large"):
        Image.open(io.BytesIO(data))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(decode_mask(data), LABELS)
    (tmp_path / "x.png").write_bytes(data)
    assert mask_size(tmp_path / "x.png") == LABELS.shape


def test_the_limit_of_pixels_is_a_setting(monkeypatch):
    for data in (filtered(LABELS), encode_mask(LABELS)):
        monkeypatch.setenv(PIXELS_SETTING, "2400")
        np.testing.assert_array_equal(decode_mask(data), LABELS)
        monkeypatch.setenv(PIXELS_SETTING, "2399")
        words = f"60x40 pixels, more than 2,399; if this is right, set {PIXELS_SETTING} higher"
        with pytest.raises(ImageError, match=words):
            decode_mask(data)


@pytest.mark.parametrize("make", [filtered, encode_mask])
def test_a_header_that_promises_too_much_is_damage(make):
    """It stands for a gigabyte, for which there are not the data."""
    data = bytearray(make(LABELS))
    data[16:24] = (32_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(ImageError, match="truncated, corrupt or no PNG"):
        decode_mask(bytes(data))


@pytest.mark.parametrize("make", [encode_mask, filtered])
def test_the_builder_reads_the_same(make, tmp_path):
    """Also what is behind the end of the file; the labels come back from what it stores."""
    (tmp_path / "x.png").write_bytes(make(LABELS % 7) + b"appended")
    remarks = []
    assert headers._check_label_map(tmp_path / "x.png", remarks) == LABELS.shape and not remarks
    stored, histogram = grey_label_map((tmp_path / "x.png").read_bytes())
    np.testing.assert_array_equal(decode_mask(stored), LABELS % 7)
    assert histogram[:7] == np.bincount((LABELS % 7).ravel(), minlength=7).tolist()


def test_what_is_behind_the_end_does_not_matter_and_a_missing_end_does():
    for data in (filtered(LABELS), encode_mask(LABELS)):
        np.testing.assert_array_equal(decode_mask(data + b"appended"), LABELS)
        with pytest.raises(ImageError, match="truncated"):
            decode_mask(data[:-12])


@pytest.mark.parametrize("make", [filtered, encode_mask, grey_of])
def test_altered_files_are_an_image_error_or_labels(make):
    data = make(1 if make is grey_of else LABELS)
    rng = np.random.default_rng(0)
    for _ in range(300):
        altered = bytearray(data[: rng.integers(len(data))] if rng.random() < 0.2 else data)
        for _ in range(rng.integers(1, 4)):
            if altered:
                altered[rng.integers(len(altered))] = rng.integers(256)
        try:
            labels = decode_mask(bytes(altered))
        except ImageError:
            continue
        assert labels.dtype == np.uint8 and labels.ndim == 2
