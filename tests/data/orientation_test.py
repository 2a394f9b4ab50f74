"""Tests that all readers of photographs find the same orientation, however it is stored."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from massformer_jax.classes import CLASSES
from massformer_jax.data.crops import ResizedCrop
from massformer_jax.data.images import decode_image, decode_window, encode_mask, image_size
from massformer_jax.data.package import build
from massformer_jax.data.pipeline import Decode, open_split
from massformer_jax.report.picture_files import find_photographs
from tests.helpers.turns import TURNS

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Tag data larger")

# A photograph that is red left, green right and blue below, so that each turn differs.
STORED = np.zeros((40, 64, 3), np.uint8)
STORED[:, :32, 0] = STORED[:, 32:, 1] = STORED[20:, :, 2] = 220


def jpeg(*segments, density=True):
    """Makes a JPEG with these APP1 segments in front of all others but JFIF's."""
    buffer = io.BytesIO()
    Image.fromarray(STORED).save(buffer, "JPEG", quality=95, dpi=(72, 72))
    data = buffer.getvalue()
    start = 20 if density else 2
    added = b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments)
    return data[:2] + data[2:start] + added + data[20:]


def exif(value, kind="H", order="<", tag=0x0112):
    """Makes an EXIF block that holds one tag.

    Args:
        value: of the tag.
        kind: its type, as `struct` calls it: two bytes (H), four (L) or one (B).
        order: of the bytes.
        tag: its number.
    """
    number = {"B": 1, "H": 3, "L": 4}[kind]
    entry = struct.pack(f"{order}HHL", tag, number, 1) + struct.pack(order + kind, value)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    return b"Exif\0\0" + header + struct.pack(f"{order}H", 1) + entry.ljust(12, b"\0") + bytes(4)


def xmp(text):
    """Makes an XMP packet around the text."""
    return b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:RDF>" + text + b"</rdf:RDF></x:xmpmeta>"


def in_another_format(kind, value):
    """Makes a file of another format with an EXIF block."""
    buffer, block = io.BytesIO(), Image.Exif()
    block[0x0112] = value
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(STORED).save(buffer, kind, exif=block, **options)
    return buffer.getvalue()


def png_with_xmp(value):
    """Makes a PNG file with an XMP packet alone."""
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f'<rdf:Description tiff:Orientation="{value}"/>')
    Image.fromarray(STORED).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


FORMS = {
    "EXIF": lambda o: jpeg(exif(o)),
    "EXIF without JFIF": lambda o: jpeg(exif(o), density=False),
    "EXIF, the other order of bytes": lambda o: jpeg(exif(o, order=">")),
    "EXIF as a long": lambda o: jpeg(exif(o, "L")),
    "EXIF as a long, the other order": lambda o: jpeg(exif(o, "L", ">")),
    "EXIF as a byte": lambda o: jpeg(exif(o, "B", ">")),
    "EXIF after a doubled header": lambda o: jpeg(b"Exif\0\0" + exif(o)),
    "EXIF in two segments": lambda o: jpeg(exif(o)[:20], b"Exif\0\0" + exif(o)[20:]),
    "EXIF behind XMP": lambda o: jpeg(xmp(b"<dc:title/>"), exif(o)),
    "EXIF against XMP": lambda o: jpeg(xmp(b'tiff:Orientation="8"'), exif(o)),
    "XMP attribute": lambda o: jpeg(xmp(b'<rdf:Description tiff:Orientation="%d"/>' % o)),
    "XMP attribute in other quotes": lambda o: jpeg(xmp(b"tiff:Orientation = '%d'" % o)),
    "XMP element": lambda o: jpeg(xmp(b"<tiff:Orientation>%d</tiff:Orientation>" % o)),
    "XMP, EXIF without orientation": lambda o: jpeg(
        exif(300, tag=0x011A), xmp(b'tiff:Orientation="%d"' % o)
    ),
    "XMP, EXIF with 0": lambda o: jpeg(exif(0), xmp(b'tiff:Orientation="%d"' % o)),
    "XMP, EXIF of zeros": lambda o: jpeg(b"Exif\0\0" + bytes(9), xmp(b'tiff:Orientation="%d"' % o)),
    "PNG": lambda o: in_another_format("PNG", o),
    "PNG with XMP": png_with_xmp,
    "WebP": lambda o: in_another_format("WEBP", o),
    "TIFF": lambda o: in_another_format("TIFF", o),
}

MALFORMED = {
    "zeros": b"Exif\0\0" + bytes(30),
    "nothing": b"Exif\0\0",
    "a cut header": b"Exif\0\0II*\0",
    "a cut entry": exif(6)[:-10],
    "a block beyond the end": b"Exif\0\0II*\0" + struct.pack("<L", 2**31),
    "a tag without a value": exif(6).replace(struct.pack("<L", 1), struct.pack("<L", 0)),
    "a tag with too many values": exif(6).replace(struct.pack("<L", 1), struct.pack("<L", 2**30)),
    "a tag of another type": exif(6).replace(b"\x12\x01\x03\0", b"\x12\x01\x02\0"),
    "0": exif(0),
    "9": exif(9),
    "65536": exif(65536, "L"),
    "XMP with 0": xmp(b'tiff:Orientation="0"'),
    "XMP with 16": xmp(b'tiff:Orientation="16"'),
    "XMP that is no text": xmp(b"\xff\xfe\0\x80tiff:Orientation="),
}


def check(data, expected, tmp_path):
    """Checks what each reader of photographs makes of the file.

    Args:
        data: the file.
        expected: uint8 [h, w, 3], the photograph as it is seen, nearly.
        tmp_path: a folder.
    """
    height, width = expected.shape[:2]
    image = decode_image(data)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 6
    assert image_size(data) == (height, width)
    window = decode_window(data, slice(3, 30), slice(2, 33))
    np.testing.assert_array_equal(window, image[3:30, 2:33])

    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(data)
    mask = encode_mask(np.ones((height, width), np.uint8))
    (tmp_path / "labels" / "a.png").write_bytes(mask)
    assert image_size(tmp_path / "images" / "a.jpg") == (height, width)
    assert list(find_photographs(tmp_path / "images", tmp_path / "labels")) == ["a.png"]

    record = {"image": data, "segmentation_mask": mask, "file_name": b"a.jpg"}
    example = Decode().map(record)
    np.testing.assert_array_equal(example["image"], image)
    crop = ResizedCrop(64, (min(height, width),), max(height, width))
    (whole,) = crop.random_map(record, np.random.default_rng(0))
    np.testing.assert_array_equal(whole["image"], image)


@pytest.mark.parametrize("orientation", [3, 5, 6, 7])
@pytest.mark.parametrize("form", FORMS)
def test_all_readers_find_it(form, orientation, tmp_path):
    check(FORMS[form](orientation), TURNS[orientation](STORED), tmp_path)


@pytest.mark.parametrize("orientation", TURNS)
def test_each_is_obeyed(orientation, tmp_path):
    check(jpeg(exif(orientation)), TURNS[orientation](STORED), tmp_path)


@pytest.mark.parametrize("form", MALFORMED)
def test_what_cannot_be_understood_says_nothing(form, tmp_path):
    check(jpeg(MALFORMED[form]), STORED, tmp_path)


def test_bytes_at_random_end_in_no_other_error():
    rng = np.random.default_rng(0)
    expected = decode_image(jpeg())
    turned = 0
    for _ in range(500):
        block = bytearray(exif(6, *rng.choice(["H<", "L<", "H>"])))
        block[rng.integers(6, len(block))] = rng.integers(256)
        image = decode_image(jpeg(bytes(block)))
        assert image_size(jpeg(bytes(block))) == image.shape[:2]
        turned += image.shape != expected.shape
    assert 50 < turned < 450


@pytest.mark.parametrize("form", ["XMP attribute", "EXIF as a long", "EXIF after a doubled header"])
@pytest.mark.parametrize("label_is_upright", [True, False])
def test_the_builder_finds_it_too(form, label_is_upright, tmp_path):
    labels = np.random.default_rng(0).integers(0, len(CLASSES), STORED.shape[:2], np.uint8)
    upright = np.rot90(labels, -1)
    release = tmp_path / "release"
    for folder in ("images", "annotations"):
        (release / folder / "train").mkdir(parents=True)
    (release / "images" / "train" / "a.jpg").write_bytes(FORMS[form](6))
    mask = encode_mask(np.ascontiguousarray(upright if label_is_upright else labels))
    (release / "annotations" / "train" / "a.png").write_bytes(mask)
    build(release, tmp_path / "data")
    (record,) = open_split(tmp_path / "data", "train")
    example = Decode().map(record)
    assert example["image"].shape[:2] == (record["height"], record["width"]) == (64, 40)
    np.testing.assert_array_equal(example["label"], upright)
