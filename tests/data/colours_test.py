"""Tests that colours become those of sRGB that NumPy computes from published matrices."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from massformer_jax.data import colours
from massformer_jax.data.images import decode_image
from massformer_jax.data.photographs import read_photograph
from massformer_jax.errors import InputError
from massformer_jax.inference.image_pixels import pixels_of
from tests.helpers import profiles

# Linear light in each space to linear sRGB, with both whites adapted (CSS Color 4).
TO_SRGB = {
    "Display P3": [
        [1.2249401763, -0.2249401763, 0],
        [-0.0420569547, 1.0420569547, 0],
        [-0.0196375546, -0.0786360456, 1.0982736001],
    ],
    "Adobe RGB": [
        [1.3983557440, -0.3983557440, 0],
        [0, 1, 0],
        [0, -0.0429289893, 1.0429289893],
    ],
    "ProPhoto": [
        [2.0341926, -0.7274198, -0.3067655],
        [-0.2288108, 1.2317292, -0.0029216],
        [-0.0085649, -0.1532726, 1.1618390],
    ],
}
# XYZ of red, green and blue, adapted to D50, and the exponent.
PROPHOTO = profiles.rgb(
    [(0.79767, 0.28804, 0), (0.13519, 0.71188, 0), (0.03134, 0.00009, 0.82491)], 1.8
)
DISPLAY_P3 = colours.matrix_profile(colours._PRIMARIES[12], colours._SRGB_CURVE)
ADOBE_RGB = profiles.rgb(
    [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)],
    563 / 256,
)
COLUMN_NAMES = (b"rXYZ", b"gXYZ", b"bXYZ")
CURVE_NAMES = (b"rTRC", b"gTRC", b"bTRC")
PROFILES = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB, "ProPhoto": PROPHOTO}


def light(values):
    """Makes linear light of sRGB's numbers in 0..1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def numbers(light):
    """Makes sRGB's numbers, 0..255, of linear light."""
    light = np.clip(light, 0, 1)
    curved = 1.055 * light ** (1 / 2.4) - 0.055
    return 255 * np.where(light <= 0.0031308, 12.92 * light, curved)


CURVES = {
    "Display P3": light,
    "Adobe RGB": lambda v: v ** (563 / 256),
    "ProPhoto": lambda v: v**1.8,
}


def expected(pixels, space):
    """Returns sRGB, float 0..255, of pixels in another space."""
    return numbers(CURVES[space](pixels / 255) @ np.array(TO_SRGB[space]).T)


def patches(low=0, high=256, seed=0):
    """Returns 30 patches of 16x16 pixels in all kinds of colours."""
    few = np.random.default_rng(seed).integers(low, high, (5, 6, 3), np.uint8)
    return few.repeat(16, 0).repeat(16, 1)


def write(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("space", PROFILES)
def test_colours_are_those_of_srgb(space, tmp_path):
    pixels = patches()
    found = read_photograph(write(tmp_path / "a.png", pixels, icc_profile=PROFILES[space]))
    # Of ProPhoto, one step near black is many of sRGB.
    assert np.abs(found - expected(pixels, space)).max() <= (2 if space == "ProPhoto" else 1)
    assert np.abs(found.astype(int) - pixels).max() > 20
    # What the dataset's reader returns stays as it is stored.
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp", "avif"])
def test_all_formats_are_converted(suffix, tmp_path):
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    options |= {"avif": {"quality": 100, "subsampling": "4:4:4", "speed": 8}}
    pixels = patches(60, 200)
    path = tmp_path / f"a.{suffix}"
    write(path, pixels, icc_profile=DISPLAY_P3, **options.get(suffix, {}))
    stored = np.asarray(Image.open(path)) if suffix == "avif" else decode_image(path)
    assert np.abs(stored.astype(int) - pixels).mean() < 1
    assert np.abs(read_photograph(path) - expected(stored, "Display P3")).max() <= 1


def test_made_profiles_are_those_of_the_standard():
    """Two ways to Adobe RGB: published numbers of its profile, and its primaries."""
    made = colours.matrix_profile(colours._ADOBE_RGB, colours._ADOBE_RGB_CURVE)
    found = np.array(
        [
            getattr(ImageCms.ImageCmsProfile(io.BytesIO(made)).profile, f"{name}_colorant")[0]
            for name in ("red", "green", "blue")
        ]
    )
    published = [
        (0.60974, 0.31111, 0.01947),
        (0.20528, 0.62567, 0.06087),
        (0.14919, 0.06322, 0.74457),
    ]
    np.testing.assert_allclose(found, published, atol=2e-4)


def test_adobe_rgb_that_exif_alone_tells(tmp_path):
    """Cameras write no profile, but option R03 of DCF."""
    pixels, exif = patches(60, 200), Image.Exif()
    exif[0x010F] = "Camera"
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    path = write(tmp_path / "_A.jpg", pixels, exif=exif)
    stored = decode_image(path)
    assert np.abs(read_photograph(path) - expected(stored, "Adobe RGB")).max() <= 1
    with Image.open(path) as image:
        assert np.abs(pixels_of(image) - expected(stored, "Adobe RGB")).max() <= 1
    exif.get_ifd(0x8769)[0xA005] = {1: "R98"}
    path = write(tmp_path / "a.jpg", pixels, exif=exif)
    np.testing.assert_array_equal(read_photograph(path), decode_image(path))


def srgb_profiles():
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rec709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))
    return {"LittleCMS": plain, "ours": colours.matrix_profile(rec709, colours._SRGB_CURVE)}


@pytest.mark.parametrize("which", srgb_profiles())
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_srgb_stays_as_it_was(which, suffix, tmp_path):
    profile = srgb_profiles()[which]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for i, options in enumerate(({}, {"icc_profile": profile})):
        path = write(tmp_path / f"{i}.{suffix}", pixels, **options)
        np.testing.assert_array_equal(read_photograph(path), decode_image(path))


def test_what_is_srgb_but_for_rounding_stays_as_it_was(tmp_path):
    """Profiles of sRGB differ in the fourth digit, which would move some colours by one step."""
    columns = [
        (0.43607, 0.22249, 0.01392),
        (0.38515, 0.71687, 0.09708),
        (0.14307, 0.06061, 0.71410),
    ]
    curve = np.round(65535 * light(np.linspace(0, 1, 1024))).astype(">u2")
    tags = {name: b"curv" + struct.pack(">LL", 0, 1024) + curve.tobytes() for name in CURVE_NAMES}
    tags |= {
        n: profiles.xyz(c) for n, c in zip(COLUMN_NAMES, np.array(columns) + 1e-4, strict=True)
    }
    profile = profiles.profile(b"RGB ", tags | {b"wtpt": profiles.xyz(profiles.D50)})
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    moved = ImageCms.profileToProfile(
        Image.fromarray(pixels), io.BytesIO(profile), ImageCms.createProfile("sRGB")
    )
    assert np.abs(np.asarray(moved).astype(int) - pixels).max() == 1
    path = write(tmp_path / "a.png", pixels, icc_profile=profile)
    np.testing.assert_array_equal(read_photograph(path), pixels)


def test_grey(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(8, 32).repeat(4, 0)
    for name, profile, exponent in (
        ("a.png", profiles.grey(1.8), 1.8),
        ("b.tif", profiles.grey(1.8), 1.8),
        ("c.png", PROPHOTO, 1.8),  # an RGB photograph that was made grey keeps its profile
    ):
        found = read_photograph(write(tmp_path / name, grey, icc_profile=profile))
        wanted = numbers((grey / 255.0) ** exponent)
        assert np.abs(found - wanted[..., None]).max() <= 1.5  # steps near black
        assert np.abs(pixels_of(Image.open(tmp_path / name)) - wanted[..., None]).max() <= 1.5
    deep = grey.astype(np.uint16) * 257
    found = read_photograph(write(tmp_path / "d.png", deep, icc_profile=profiles.grey(1.8)))
    assert np.abs(found - wanted[..., None]).max() <= 1.5


def lab_of_inks(c, m, y, k):
    """The colours that full inks have on a printer of our own."""
    return (
        (100 - 30 * c - 40 * m - 10 * y) * (1 - k),
        0 if k else 60 * m - 30 * c,
        0 if k else 50 * y,
    )


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(suffix, tmp_path):
    for inks in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 1, 0), (1, 1, 0, 0), (0, 0, 0, 1)):
        image = Image.new("CMYK", (32, 24), tuple(255 * i for i in inks))
        path = tmp_path / f"{inks}.{suffix}"
        options = {"quality": 100} if suffix == "jpg" else {}
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, icc_profile=profiles.cmyk(lab_of_inks), exif=exif, **options)
        found = read_photograph(path)
        assert found.shape == (32, 24, 3)
        light, a, b = lab_of_inks(*inks)
        rounded = [round(light * 2.55) / 2.55, a, b]  # profiles store L in steps of 100/255
        assert np.abs(found - srgb_of_lab(rounded)).max() <= 3
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            np.testing.assert_array_equal(pixels_of(image), found)
        if suffix == "tif":
            with Image.open(path) as image, pytest.raises(InputError, match="pass the path"):
                pixels_of(image)
        # Without a profile it is read as ever.
        Image.new("CMYK", (32, 24), image.getpixel((0, 0))).save(path, **options)
        np.testing.assert_array_equal(read_photograph(path), decode_image(path))


def srgb_of_lab(lab):
    y = (lab[0] + 16) / 116
    f = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    xyz = profiles.D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    matrix = [[3.1341, -1.6174, -0.4907], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]
    return numbers(np.array(matrix) @ xyz)


def test_pil_images_are_converted_too(tmp_path):
    pixels = patches()
    path = write(tmp_path / "a.png", pixels, icc_profile=DISPLAY_P3)
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels_of(image), read_photograph(path))
    with Image.open(path) as image:
        image.info["icc_profile"] = b"nothing"
        with pytest.raises(
            colours.ProfileError, match=r"^a PIL image: its colour profile is damaged"
        ):
            pixels_of(image)


def test_what_nobody_understands_is_refused(tmp_path):
    pixels = patches()
    cut = DISPLAY_P3[: len(DISPLAY_P3) // 2]
    for profile, line in (
        (b"nothing", r"p\.jpg: its colour profile is damaged; save it as sRGB, or without its"),
        (cut, r"p\.jpg: its colour profile is damaged"),
        (DISPLAY_P3.replace(b"RGB ", b"R\xb1B "), r"p\.jpg: its colour profile is damaged"),
        (profiles.grey(2.2), r"p\.jpg: its colours are RGB, but its profile is for GRAY"),
        (profiles.cmyk(lab_of_inks), r"p\.jpg: its colours are RGB, but its profile is for CMYK"),
    ):
        path = write(tmp_path / "p.jpg", pixels, icc_profile=profile)
        with pytest.raises(colours.ProfileError, match=line):
            read_photograph(path)
    # One of two parts of a profile is missing.
    data = write(tmp_path / "q.jpg", pixels, icc_profile=DISPLAY_P3).read_bytes()
    (tmp_path / "q.jpg").write_bytes(data.replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2"))
    with pytest.raises(colours.ProfileError, match=r"q\.jpg: its colour profile is damaged"):
        read_photograph(tmp_path / "q.jpg")


def test_hdr_in_a_profile_is_refused(tmp_path):
    tags = {b"cicp": b"cicp\0\0\0\0" + bytes([9, 16, 0, 1]), b"wtpt": profiles.xyz(profiles.D50)}
    path = write(tmp_path / "h.png", patches(), icc_profile=profiles.profile(b"RGB ", tags))
    with pytest.raises(
        colours.ProfileError, match=r"h\.png: an HDR photograph \(PQ\).*without HDR$"
    ):
        read_photograph(path)


def test_sixteen_bits_are_converted(tmp_path):
    pixels = patches(60, 200)
    tiff = tmp_path / "a.tif"
    tifffile = pytest.importorskip("tifffile", reason="pip install 'massformer-jax[test]'")
    tifffile.imwrite(tiff, pixels.astype(np.uint16) * 257, photometric="rgb", iccprofile=ADOBE_RGB)
    assert np.abs(read_photograph(tiff) - expected(pixels, "Adobe RGB")).max() <= 1
    tifffile.imwrite(
        tiff,
        np.moveaxis(pixels.astype(np.uint16) * 257, 2, 0),
        photometric="rgb",
        planarconfig="separate",
        iccprofile=ADOBE_RGB,
    )
    assert np.abs(read_photograph(tiff) - expected(pixels, "Adobe RGB")).max() <= 1


def test_a_tiff_that_pillow_does_not_open_is_converted_too(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="pip install 'massformer-jax[test]'")
    grey = np.arange(256, dtype=np.uint16).reshape(8, 32) * 257
    pixels = np.stack([grey, np.full_like(grey, 65535)], -1)
    path = tmp_path / "a.tif"
    for profile in (profiles.grey(1.8), PROPHOTO):
        tifffile.imwrite(
            path,
            pixels,
            photometric="minisblack",
            extrasamples=("unassalpha",),
            iccprofile=profile,
        )
        with pytest.raises(OSError):
            Image.open(path)
        wanted = numbers((grey / 65535) ** 1.8)[..., None]
        assert np.abs(read_photograph(path) - wanted).max() <= 1.5
