"""Tests that photographs of all formats are read upright and whole, or refused in one line."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from massformer_jax.data import boxes, photographs
from massformer_jax.data.colours import ProfileError
from massformer_jax.data.images import ImageError, decode_image
from massformer_jax.data.photographs import (
    PHOTOGRAPH_SUFFIXES,
    photograph_orientation,
    photograph_size,
    read_photograph,
)
from massformer_jax.errors import InputError
from scripts.soak.alterations import altered
from tests.data.colours_test import DISPLAY_P3, expected, numbers
from tests.helpers.profiles import dng
from tests.helpers.turns import TURNS

pytestmark = pytest.mark.filterwarnings(
    "ignore:Corrupt EXIF data", "ignore:Truncated File Read", "ignore:Tag data larger"
)
INSTALL = "pip install 'massformer-jax[test]'"
# A photograph that is red left, green right and blue below, so that each turn differs.
STORED = np.zeros((40, 64, 3), np.uint8)
STORED[:, :32, 0] = STORED[:, 32:, 1] = STORED[20:, :, 2] = 220
NOISE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


def encoded(pixels, kind, *, orientation=None, **options):
    """Encodes a photograph.

    Args:
        pixels: RGB.
        kind: what Pillow calls the format.
        orientation: that EXIF says, or what replaces it in the format.
        options: of Pillow.
    """
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
        options["exif"] = exif.tobytes()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def heic(pixels, **options):
    """Encodes a HEIC; an orientation becomes boxes that say how to turn it, beside EXIF."""
    pytest.importorskip("pillow_heif", reason=INSTALL).register_heif_opener()
    return encoded(pixels, "HEIF", **options)


def avif(pixels, **options):
    return encoded(pixels, "AVIF", speed=8, **options)


def jxl(pixels, **options):
    pytest.importorskip("pillow_jxl", reason=INSTALL)
    return encoded(pixels, "JXL", **options)


def jxl_of_jpeg(pixels, folder, **options):
    """Packs a JPEG into a JPEG XL without loss."""
    pytest.importorskip("pillow_jxl", reason=INSTALL)
    path, buffer = folder / "source.jpg", io.BytesIO()
    path.write_bytes(encoded(pixels, "JPEG", quality=95, **options))
    with Image.open(path) as image:
        image.save(buffer, "JXL", lossless_jpeg=True)
    return buffer.getvalue()


def written(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


def check(path, wanted, most=6):
    """Checks what is read, and the size that the header says."""
    found = read_photograph(path)
    assert found.dtype == np.uint8 and found.shape == wanted.shape
    assert photograph_size(path) == wanted.shape[:2]
    assert np.abs(found.astype(int) - wanted).mean() < most
    # The same from the bytes and the name, without a file.
    data, name = path.read_bytes(), path.name
    np.testing.assert_array_equal(read_photograph(data, name), found)
    assert photograph_size(data, name) == wanted.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_container_turns_once(orientation, tmp_path):
    seen = TURNS[orientation](STORED)
    data = heic(STORED, quality=95, orientation=orientation)
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    check(written(tmp_path, "a.heic", data), seen)
    data = avif(STORED, quality=95, orientation=orientation)
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    check(written(tmp_path, "a.avif", data), seen)
    # LibRaw knows the turns that cameras make, and the mirror images that none makes.
    pytest.importorskip("rawpy", reason=INSTALL)
    if orientation in (1, 3, 6, 8):
        path = written(tmp_path, "a.dng", dng(STORED / 255, orientation))
        assert read_photograph(path).shape == seen.shape
        assert photograph_size(path) == seen.shape[:2]
        assert [*corners(read_photograph(path))] == [*corners(seen)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tells_how_the_file_lies(orientation, tmp_path):
    """Turned by it, the pixels that a file stores are what is read of it."""
    files = {
        f"a.{kind.lower()}": encoded(STORED, kind, orientation=orientation)
        for kind in ("JPEG", "PNG", "WEBP", "TIFF")
    }
    files["a.avif"] = avif(STORED, quality=95, orientation=orientation)
    if orientation in (1, 3, 6, 8):
        pytest.importorskip("rawpy", reason=INSTALL)
        files["a.dng"] = dng(STORED / 255, orientation)
    for name, data in files.items():
        path = written(tmp_path, name, data)
        assert photograph_orientation(path) == orientation, name
        seen = TURNS[photograph_orientation(path)](STORED)
        assert [*corners(read_photograph(path))] == [*corners(seen)], name
    path = written(tmp_path, "a.heic", heic(STORED, quality=95, orientation=orientation))
    assert photograph_orientation(path) == 1


def corners(pixels):
    for y, x in ((5, 5), (5, -5), (-5, 5), (-5, -5)):
        yield tuple(int(value > 110) for value in pixels[y, x])


def test_exif_and_xmp_alone_turn_no_container(tmp_path):
    """The standards of HEIC and AVIF leave turning to their boxes."""
    data = heic(STORED, quality=95, orientation=6)
    # The box is called something else, and as long; readers pass over it.
    check(written(tmp_path, "a.heic", data.replace(b"irot", b"free")), STORED)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = avif(STORED, quality=95, xmp=xmp)
    assert xmp in data
    check(written(tmp_path, "a.avif", data), STORED)
    data = avif(STORED, quality=95, orientation=6)
    place = data.index(b"irot") + 4
    assert data[place] == 3
    check(written(tmp_path, "b.avif", data[:place] + b"\0" + data[place + 1 :]), STORED)


def test_exif_turns_no_jpeg_xl(tmp_path):
    """The codestream of JPEG XL says how it is turned, and EXIF repeats it, or is wrong."""
    check(written(tmp_path, "a.jxl", jxl(STORED, lossless=True, orientation=6)), STORED, 0.1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_codestream_turns_a_jpeg_xl(orientation, tmp_path):
    data = jxl(STORED, lossless=True)
    bits = f"{int.from_bytes(data[2:6], 'little'):032b}"[::-1]
    # 40x64, not all metadata are default, none is beyond the usual, 8 bits, sRGB without XYB.
    size, usual, rest = "10010000011100", "00", "000100010010"
    assert bits.startswith(size + usual + rest[:7])
    turned = f"{orientation - 1:03b}"[::-1]
    # These also say that there is no other size, no preview, no animation and no tone mapping.
    head = f"{size}01{turned}000" + "0001000" + "1" + "1" + "001"
    head = head.ljust(-(-len(head) // 8) * 8, "0")
    new = bytes(int(head[i : i + 8][::-1], 2) for i in range(0, len(head), 8))
    check(written(tmp_path, "a.jxl", data[:2] + new + data[6:]), TURNS[orientation](STORED), 0.1)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_jpeg_within_a_jpeg_xl(orientation, tmp_path):
    data = jxl_of_jpeg(STORED, tmp_path, orientation=orientation, icc_profile=DISPLAY_P3)
    path = written(tmp_path, "a.jxl", data)
    np.testing.assert_array_equal(read_photograph(path), read_photograph(tmp_path / "source.jpg"))
    assert photograph_size(path) == TURNS[orientation](STORED).shape[:2]


def test_colours_of_heic(tmp_path):
    few = np.random.default_rng(1).integers(60, 200, (4, 4, 3), np.uint8)
    pixels = few.repeat(16, 0).repeat(16, 1)
    options = {"quality": 100, "chroma": 444, "matrix_coefficients": 0}
    plain = written(tmp_path, "a.heic", heic(pixels, **options))
    stored = read_photograph(plain)
    assert np.abs(stored.astype(int) - pixels).max() <= 3
    data = heic(pixels, icc_profile=DISPLAY_P3, **options)
    found = read_photograph(written(tmp_path, "b.heic", data))
    assert np.abs(found - expected(stored, "Display P3")).max() <= 1
    # Code points instead of a profile.
    data = heic(pixels, color_primaries=12, transfer_characteristics=13, **options)
    found = read_photograph(written(tmp_path, "c.heic", data))
    assert np.abs(found - expected(stored, "Display P3")).max() <= 1
    data = heic(pixels, color_primaries=9, transfer_characteristics=16, **options)
    with pytest.raises(ProfileError, match=r"d\.heic: an HDR photograph \(PQ\)"):
        read_photograph(written(tmp_path, "d.heic", data))


def test_coded_colours_of_avif(tmp_path):
    """Pillow does not tell of them; the box is found by walking to the primary item."""
    pixels = np.random.default_rng(1).integers(60, 200, (4, 4, 3), np.uint8).repeat(16, 0)
    pixels = pixels.repeat(16, 1)
    data = avif(pixels, quality=100, subsampling="4:4:4")
    plain = b"colrnclx" + struct.pack(">HH", 1, 13)
    assert data.count(plain) == 1 and boxes.coded_colours(data) == (1, 13)
    stored = read_photograph(written(tmp_path, "a.avif", data))
    changed = data.replace(plain, b"colrnclx" + struct.pack(">HH", 12, 13))
    found = read_photograph(written(tmp_path, "b.avif", changed))
    assert np.abs(found - expected(stored, "Display P3")).max() <= 1
    for codes, line in (
        ((9, 18), r"an HDR photograph \(HLG\)"),
        ((10, 8), "primaries 10 and tran"),
    ):
        changed = data.replace(plain, b"colrnclx" + struct.pack(">HH", *codes))
        with pytest.raises(ProfileError, match=rf"c\.avif: .*{line}"):
            read_photograph(written(tmp_path, "c.avif", changed))


def test_raw_is_developed_in_srgb(tmp_path):
    pytest.importorskip("rawpy", reason=INSTALL)
    light = np.full((64, 96, 3), 0.1)
    light[8:24, 8:24], light[8:24, 40:56], light[40:56, 8:24] = (0.8, 0.1, 0.1), 1, (0.1, 0.1, 0.6)
    found = read_photograph(written(tmp_path, "a.dng", dng(light)))
    curved = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    for y, x in ((16, 16), (16, 48), (48, 16), (32, 80)):
        assert np.abs(found[y, x] - curved[y, x]).max() <= 3  # white is left as bright as it is


def test_suffixes_do_not_matter_but_for_raw(tmp_path):
    """Phones export HEIC as .JPG, and people rename files."""
    check(written(tmp_path, "a.JPG", heic(STORED, quality=95)), STORED)
    check(written(tmp_path, "b.heic", encoded(STORED, "JPEG", quality=95)), STORED)
    check(written(tmp_path, "c.dng", encoded(STORED, "JPEG", quality=95)), STORED)
    check(written(tmp_path, "d", encoded(STORED, "WEBP", quality=95)), STORED, 12)
    assert {".heic", ".dng", ".jxl", ".jpg"} <= PHOTOGRAPH_SUFFIXES


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_without_a_profile_it_is_what_the_dataset_reads(kind, tmp_path):
    for i, pixels in enumerate((NOISE, NOISE[..., 0])):
        path = written(tmp_path, f"{i}.{kind}", encoded(pixels, kind))
        np.testing.assert_array_equal(read_photograph(path), decode_image(path))
        assert photograph_size(path) == pixels.shape[:2]


def files(folder):
    """Returns sound files of all kinds by their names."""
    return {
        "a.heic": heic(NOISE),
        "b.avif": avif(NOISE),
        "c.jxl": jxl(NOISE),
        "d.jxl": jxl_of_jpeg(NOISE, folder),
        "e.webp": encoded(NOISE, "WEBP"),
        "f.tif": encoded(NOISE, "TIFF"),
        "g.tif": encoded(NOISE, "TIFF", compression="tiff_lzw"),
        "h.tif": encoded(NOISE, "TIFF", compression="jpeg"),
        "i.png": encoded(NOISE, "PNG"),
        "j.dng": dng(NOISE / 255),
    }


def test_what_ends_early_is_refused(tmp_path):
    pytest.importorskip("rawpy", reason=INSTALL)
    for name, data in files(tmp_path).items():
        kept = read_photograph(written(tmp_path, name, data))
        for missing in (2, 300, len(data) // 3, len(data) // 2, len(data) - 40):
            path = written(tmp_path, name, data[:-missing])
            try:
                found = read_photograph(path)
            except ImageError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                continue
            # Some formats end in bytes that say nothing of pixels.
            assert missing == 2, f"{name} without its last {missing} bytes"
            np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize("name", ["a.heic", "b.avif", "c.jxl"])
def test_what_ends_in_zeros_is_refused(name, tmp_path):
    """Interrupted downloads leave such files, which decoders fill with grey."""
    data = files(tmp_path)[name]
    read_photograph(written(tmp_path, name, data))
    for share in (0.3, 0.6, 0.95):
        kept = int(len(data) * share)
        path = written(tmp_path, name, data[:kept] + bytes(len(data) - kept))
        with pytest.raises(ImageError, match="is truncated or damaged; copy or download it again"):
            read_photograph(path)
    # Zeros behind the picture do no harm.
    read_photograph(written(tmp_path, name, data + b"\0\0\x04\0free" + bytes(1016)))


def test_black_photographs_have_no_holes(tmp_path):
    black = np.zeros((600, 800, 3), np.uint8)
    for name, make in (("a.heic", heic), ("b.avif", avif)):
        assert not read_photograph(written(tmp_path, name, make(black))).any()


def test_altered_files_are_refused_or_read(tmp_path):
    """Whatever was altered, there is one line, and a size that fits."""
    pytest.importorskip("rawpy", reason=INSTALL)
    rng = np.random.default_rng(16)
    sound = files(tmp_path) | {"k.dng": heic(NOISE), "l.cr2": encoded(NOISE, "TIFF")}
    ends = []
    for number in range(300):
        name = list(sound)[number % len(sound)]
        data, done = altered(sound[name], rng)
        path = written(tmp_path, name, data or b"")
        sizes = []
        for read in (lambda p: read_photograph(p).shape, photograph_size):
            try:
                sizes.append(read(path)[:2])
            except InputError as error:
                assert str(path) in str(error) and "\n" not in str(error), done
        ends.append(len(sizes))
        assert len(sizes) < 2 or sizes[0] == sizes[1], f"{name}: {done}"
    assert set(ends) == {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        (
            "a.txt",
            b"a text",
            "no photograph that can be read; use JPEG, PNG, TIFF, WebP, AVIF, HEIC",
        ),
        ("a.jpg", b"", "no photograph that can be read"),
        ("a.mov", b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "no photograph that can be read"),
        ("a.heic", b"\0\0\0\x14ftypheic\0\0\0\0mif1", "the HEIC is truncated or damaged"),
        ("a.nef", b"no camera wrote this" * 99, "no camera RAW that LibRaw knows"),
        ("a.nef", b"II*\0\x08\0\0\0", "the camera RAW is truncated or damaged"),
        ("a.jxl", b"\xff\x0a", "the JPEG XL is truncated or damaged"),
        ("a.jpg", encoded(NOISE, "JPEG")[:-900], "the JPEG is truncated"),
    ],
)
def test_lines_say_what_is_wrong(name, data, line, tmp_path):
    for module in ("pillow_heif", "pillow_jxl", "rawpy"):
        pytest.importorskip(module, reason=INSTALL)
    path = written(tmp_path, name, data)
    with pytest.raises(ImageError, match=line) as caught:
        read_photograph(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("suffix", "module", "line"),
    [
        ("heic", "pillow_heif", "HEIC is read by pillow-heif"),
        ("jxl", "pillow_jxl", "JPEG XL is read by pillow-jxl-plugin"),
        ("dng", "rawpy", "camera RAW is read by rawpy"),
    ],
)
def test_a_missing_reader_is_named(suffix, module, line, tmp_path, monkeypatch):
    make = {"heic": heic, "jxl": jxl, "dng": lambda pixels: dng(pixels / 255)}
    path = written(tmp_path, f"IMG_1.{suffix}", make[suffix](STORED))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImageError, match=rf"IMG_1\.{suffix}: {line}; pip install 'massformer-jax\["
    ):
        read_photograph(path)


def test_tiffs_of_numbers_that_are_no_colours_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason=INSTALL)
    ramp = np.linspace(0, 1, 96).reshape(4, 8, 3)
    for dtype, scale, line in (
        (np.float32, 1, "a TIFF of floating-point"),
        (np.float16, 1, "a TIFF of floating-point"),
        (np.int16, 32767, "a TIFF of signed numbers"),
    ):
        tifffile.imwrite(tmp_path / "a.tif", (ramp * scale).astype(dtype), photometric="rgb")
        with pytest.raises(ImageError, match=rf"a\.tif: {line}.*; save it with 8 or 16 bits"):
            read_photograph(tmp_path / "a.tif")
    deep = (ramp * 65535).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    assert np.abs(read_photograph(tmp_path / "a.tif") - ramp * 255).max() <= 1
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", subfiletype=1)
    with pytest.raises(ImageError, match="its first page is a preview"):
        read_photograph(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes(dng(ramp))
    with pytest.raises(ImageError, match=r"a camera RAW in a TIFF; rename it to end in \.dng"):
        read_photograph(tmp_path / "a.tif")


def test_the_first_of_several_pictures_is_read(tmp_path):
    one, two = Image.fromarray(STORED), Image.fromarray(255 - STORED)
    for kind, options in (
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        ("PNG", {}),
        ("AVIF", {"quality": 95, "speed": 8}),
    ):
        path = tmp_path / f"a.{kind.lower()}"
        one.save(path, kind, save_all=True, append_images=[two], **options)
        assert Image.open(path).n_frames == 2
        check(path, STORED)
    pillow_heif = pytest.importorskip("pillow_heif", reason=INSTALL)
    both = pillow_heif.from_pillow(two)
    both.add_from_pillow(one)
    both.save(tmp_path / "a.heic", primary_index=1, quality=95)
    check(tmp_path / "a.heic", STORED)  # the primary one, wherever it stands


@pytest.mark.parametrize("kind", ["heic", "avif", "jxl", "png", "webp"])
def test_transparency_is_dropped(kind, tmp_path):
    pixels = np.dstack([STORED, np.full(STORED.shape[:2], 7, np.uint8)])
    make = {"heic": heic, "avif": avif, "jxl": jxl}
    options = {"jxl": {"lossless": True}, "webp": {"lossless": True, "exact": True}}
    options = options.get(kind, {"quality": 95})
    names = {"png": "PNG", "webp": "WEBP"}
    encode = make.get(kind, lambda p, **o: encoded(p, names[kind], **o))
    check(written(tmp_path, f"a.{kind}", encode(pixels, **options)), STORED)


def test_transparent_pixels_of_tiff_are_seen_on_black(tmp_path):
    """OpenCV has it so, and what it reads of the dataset's formats stays."""
    pixels = np.dstack([STORED, np.full(STORED.shape[:2], 51, np.uint8)])
    check(written(tmp_path, "a.tif", encoded(pixels, "TIFF")), STORED // 5, 1)


def test_sixteen_bits_and_grey_of_jpeg_xl(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wanted = np.repeat(grey[..., None], 3, 2)
    check(written(tmp_path, "a.jxl", jxl(grey, lossless=True)), wanted, 0.1)
    # This encoder says that 16 bits are linear light.
    seen = numbers(grey / 255.0)[..., None].repeat(3, 2)
    check(written(tmp_path, "b.jxl", jxl(grey.astype(np.uint16) * 257, lossless=True)), seen, 1)


@pytest.mark.parametrize("name", ["a.heic", "b.avif", "c.jxl", "j.dng"])
def test_absurd_sizes_are_refused_before_decoding(name, tmp_path, monkeypatch):
    pytest.importorskip("rawpy", reason=INSTALL)
    path = written(tmp_path, name, files(tmp_path)[name])
    monkeypatch.setattr(photographs, "most_pixels", lambda: 96 * 128 - 1)
    with pytest.raises(
        ImageError, match="96 rows of 128 pixels are more than 12287 pixels; shrink"
    ):
        read_photograph(path)
    monkeypatch.setattr(photographs, "most_pixels", lambda: 96 * 128)
    assert read_photograph(path).shape == (96, 128, 3)


def test_a_heic_whose_size_is_damaged_is_refused(tmp_path):
    """The coded picture has a size of its own, and the two functions must not differ."""
    data = heic(NOISE)
    path = written(tmp_path, "a.heic", data.replace(b"ispe", b"isqe"))
    for read in (read_photograph, photograph_size):
        with pytest.raises(ImageError, match=r"a\.heic: the HEIC is truncated or damaged"):
            read(path)


def test_many_brands_do_not_hide_a_format(tmp_path):
    data = avif(STORED, quality=95)
    brands = data[8 : int.from_bytes(data[:4], "big")] + b"none" * 40
    # Nothing follows, and so it is an AVIF that ends early.
    path = written(tmp_path, "a", struct.pack(">L4s", 8 + len(brands), b"ftyp") + brands)
    for read in (read_photograph, photograph_size):
        with pytest.raises(ImageError, match="the AVIF is truncated or damaged"):
            read(path)
