"""Reading a user's photograph for prediction: any format of cameras and phones, upright, in sRGB.

The dataset is read by the module `images`, which leaves colours as they are stored, as the release
does. See docs/photographs.md for what is read, how, and up to which limits.
"""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import AvifImagePlugin, Image, TiffImagePlugin

from massformer_jax.data import boxes, jpeg_xl
from massformer_jax.data.colours import in_srgb
from massformer_jax.data.images import (
    ImageError,
    ImageSource,
    decode_image,
    image_size,
    load,
    opened,
)
from massformer_jax.data.orientation import (
    TURNED_BY_A_QUARTER,
    UPRIGHT,
    orientation,
    stored_orientation,
    upright,
)
from massformer_jax.data.png import PIXELS_SETTING, most_pixels

if TYPE_CHECKING:
    import pillow_heif
    import rawpy

RAW_SUFFIXES = frozenset(
    {
        *(".dng", ".gpr", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".raf"),
        *(".orf", ".rw2", ".rwl", ".pef", ".srw", ".3fr", ".fff", ".iiq", ".mos", ".mef", ".mrw"),
        *(".erf", ".kdc", ".dcr", ".x3f"),
    }
)
PHOTOGRAPH_SUFFIXES = RAW_SUFFIXES | {
    *(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"),
    *(".avif", ".heic", ".heif", ".hif", ".jxl"),
}

_BEGINNINGS = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    jpeg_xl.CODESTREAM: "JPEG XL",
    jpeg_xl.CONTAINER: "JPEG XL",
}
# Tags of TIFF, and some of their values.
_KIND_OF_PAGE, _PHOTOMETRIC, _SAMPLE_FORMAT, _PROFILE, _DNG_VERSION = 254, 262, 339, 34675, 50706
_MOSAICS = (32803, 34892)  # of a sensor, or linear light of one
_WHOLE = {1, 4}  # forms of numbers: whole and not negative, or not stated

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_MOST_BRANDS = 4096  # bytes in which a file has told all of its brands
_TURNS_OF_RAW = {3: 3, 5: 8, 6: 6}  # from LibRaw's numbers to those of EXIF
READ = "JPEG, PNG, TIFF, WebP, AVIF, HEIC, JPEG XL or camera RAW"


class _Extra(NamedTuple):
    """A format for which a package is needed that not everybody installs."""

    module: str
    package: str


_EXTRAS = {
    "HEIC": _Extra("pillow_heif", "pillow-heif"),
    "JPEG XL": _Extra("pillow_jxl", "pillow-jxl-plugin"),
    "camera RAW": _Extra("rawpy", "rawpy"),
}


def read_photograph(source: ImageSource, name: str = "photograph") -> UInt8[np.ndarray, "h w 3"]:
    """Reads a photograph as RGB in sRGB, upright, 0..255.

    The format is recognised by its first bytes, and camera RAW by the suffix. Of an animation or a
    file with several pages, the first picture is read. A grey photograph is repeated to three
    channels, 16 bits become 8, transparency and maps of HDR brightness are dropped.

    Args:
        source: the bytes of a file, or its path.
        name: what an error calls it, and what its suffix is taken from; a path is called by itself.

    Raises:
        ImageError: the file is no photograph, damaged or too large; or its reader is not installed.
        ProfileError: nobody knows what its colours are, or they are HDR.
        OSError: the path cannot be read.
    """
    data, name = load(source, name)
    kind = _kind(data, name)
    if kind == "camera RAW":
        return _developed(data, name)
    if kind == "JPEG XL":
        return _decode_jpeg_xl(data, name)
    if kind == "HEIC":
        return _decode_heic(data, name)
    if kind == "AVIF":
        image = _open_avif(data, name)
        return upright(in_srgb(_rgb(image, kind, name), image, name), orientation(image))
    return _decode(data, kind, name)


def photograph_size(source: ImageSource, name: str = "photograph") -> tuple[int, int]:
    """Returns the (height, width) in pixels of what `read_photograph` returns.

    Headers suffice, but the few that Pillow does not understand make it decode the file.

    Args:
        source: see `read_photograph`.
        name: see `read_photograph`.

    Raises:
        ImageError: see `read_photograph`.
        OSError: the path cannot be read.
    """
    if isinstance(source, bytes):
        start = source
    else:
        name = os.fspath(source)
        with open(source, "rb") as file:
            start = file.read(_MOST_BRANDS)
    kind = _kind(start, name)
    if kind not in ("camera RAW", "JPEG XL", "HEIC", "AVIF"):
        return image_size(source, name)
    data, name = load(source, name)
    if kind == "camera RAW":
        with _open_raw(data, name) as raw:
            return _raw_size(raw)
    if kind == "JPEG XL":
        with _damage_told(kind, name):
            return jpeg_xl.read_size(data)
    if kind == "HEIC":
        return _open_heic(data, name).size[::-1]
    image = _open_avif(data, name)
    width, height = image.size
    return (width, height) if orientation(image) in TURNED_BY_A_QUARTER else (height, width)


def photograph_orientation(path: str | os.PathLike) -> int:
    """Returns the EXIF orientation, 1..8, by which `read_photograph` turns what a file stores.

    Of HEIC and JPEG XL it is 1: their decoders hand out upright pixels, to other programs as well.

    Args:
        path: the path of a file that `read_photograph` reads.

    Raises:
        ImageError: see `read_photograph`.
        OSError: the path cannot be read.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        kind = _kind(file.read(_MOST_BRANDS), name)
        file.seek(0)
        if kind == "camera RAW":
            with _open_raw(file.read(), name) as raw:
                return _TURNS_OF_RAW.get(raw.sizes.flip, UPRIGHT)
        if kind in ("HEIC", "JPEG XL"):
            return UPRIGHT
        image = _open_avif(file.read(), name) if kind == "AVIF" else opened(file)
        return UPRIGHT if image is None else stored_orientation(image)


def _kind(data: bytes, name: str) -> str | None:
    """Returns what the format of a file is called, or None if its first bytes tell nothing."""
    kind = next((k for start, k in _BEGINNINGS.items() if data.startswith(start)), None)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if kind in (None, "TIFF") and pathlib.PurePath(name).suffix.lower() in RAW_SUFFIXES:
        return "camera RAW"  # many of these are TIFF files, whose first page is a preview
    found = set(boxes.brands(data))
    if found & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if found & _HEIC_BRANDS else kind


def _decode(data: bytes, kind: str | None, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes what OpenCV does, and converts its colours."""
    profile = _check_tiff(data, name) if kind == "TIFF" else None
    try:
        pixels = decode_image(data, name)
    except ImageError as error:
        if kind is None:
            raise ImageError(f"{name}: no photograph that can be read; use {READ}") from error
        if kind == "JPEG":  # the line says what is wrong with it
            raise
        raise _damaged(kind, name) from error
    with io.BytesIO(data) as file:
        image = opened(file)
        if image is None:  # of a kind that Pillow does not know, such as grey of 16 bits with alpha
            grey = bool((pixels == pixels[..., :1]).all())
            image = Image.new("L" if grey else "RGB", (1, 1))
            image.info = {"icc_profile": profile} if profile else {}
        try:
            converted = in_srgb(pixels, image, name)
        except OSError as error:  # of Pillow, which reads CMYK
            raise _damaged(kind or "photograph", name) from error
        if image.mode == "CMYK" and converted is not pixels:  # Pillow's, which are not turned yet
            converted = upright(converted, orientation(image))
    return converted


def _check_tiff(data: bytes, name: str) -> bytes | None:
    """Checks that the first page of a TIFF is a photograph of whole numbers.

    Returns:
        Its colour profile, if it has one.

    Raises:
        ImageError: it is a preview, a camera's RAW, or its numbers are signed or have a point.
    """
    try:
        with io.BytesIO(data) as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if b"+" in data[2:4] else 8))
            file.seek(tags.next)
            tags.load(file)
        forms = tags.get(_SAMPLE_FORMAT, (1,))
        forms = set(forms if isinstance(forms, tuple) else (forms,))
        is_raw = _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) in _MOSAICS
        is_preview, profile = tags.get(_KIND_OF_PAGE, 0) & 1, tags.get(_PROFILE)
    except Exception as error:  # of many types, all undocumented, if the page is malformed
        raise _damaged("TIFF", name) from error
    if is_raw:
        raise ImageError(f"{name}: a camera RAW in a TIFF; rename it to end in .dng")
    if is_preview:
        raise ImageError(f"{name}: its first page is a preview; save the photograph alone")
    if not forms <= _WHOLE:
        what = "signed numbers" if forms == {2} else "floating-point or complex numbers"
        raise ImageError(f"{name}: a TIFF of {what}; save it with 8 or 16 bits")
    return profile


def _damaged(kind: str, name: str) -> ImageError:
    return ImageError(f"{name}: the {kind} is truncated or damaged; copy or download it again")


@contextlib.contextmanager
def _damage_told(kind: str, name: str) -> Iterator[None]:
    """Turns what decoders raise of damaged data into an ImageError; an ImportError, too."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except ImportError as error:
        extra = _EXTRAS[kind]
        raise ImageError(
            f"{name}: {kind} is read by {extra.package}; pip install 'massformer-jax[photos]'"
        ) from error
    except Exception as error:  # of many types, few of which are documented
        raise _damaged(kind, name) from error


def _check_size(size: tuple[int, int], name: str) -> None:
    """Checks before decoding that a photograph, (height, width), has no absurd size.

    Raises:
        ImageError: it has.
    """
    height, width = size
    if height * width > most_pixels():
        raise ImageError(
            f"{name}: {height} rows of {width} pixels are more than {most_pixels()} pixels; shrink "
            f"it, or set {PIXELS_SETTING} in the environment"
        )


def _open_heic(data: bytes, name: str) -> "pillow_heif.HeifFile":
    """Opens a HEIC by libheif, whose sizes and pixels are those of the upright photograph."""
    with _damage_told("HEIC", name):
        import pillow_heif

        found = pillow_heif.open_heif(data)
        if 0 in found.size:  # a box is damaged of which the decoder could do without
            raise _damaged("HEIC", name)
        _check_size(found.size[::-1], name)
        return found


def _decode_heic(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the primary photograph of a HEIC.

    The EXIF orientation is not looked at: it repeats what the boxes of the file say, or is wrong.
    """
    found = _open_heic(data, name)
    with _damage_told("HEIC", name):
        if boxes.has_holes(data):
            raise _damaged("HEIC", name)
        image = found.to_pillow()
    return in_srgb(_rgb(image, "HEIC", name), image, name)


def _open_avif(data: bytes, name: str) -> Image.Image:
    """Opens an AVIF; Pillow tells what its boxes say of orientation as if EXIF said it.

    What XMP says of orientation is removed: it repeats what the boxes say, or is wrong.
    """
    with _damage_told("AVIF", name):
        image = AvifImagePlugin.AvifImageFile(io.BytesIO(data))
        _check_size(image.size[::-1], name)
        if boxes.has_holes(data):
            raise _damaged("AVIF", name)
    image.info.pop("xmp", None)
    if colours := boxes.coded_colours(data):
        primaries, curve = colours
        image.info["nclx_profile"] = {
            "color_primaries": primaries,
            "transfer_characteristics": curve,
        }
    return image


def _rgb(image: Image.Image, kind: str, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of an image as they are stored, without transparency."""
    with _damage_told(kind, name):
        if image.mode == "RGBa":  # colours that were multiplied by the transparency
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB"))


def _decode_jpeg_xl(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    with _damage_told("JPEG XL", name):
        _check_size(jpeg_xl.read_size(data), name)
        image = jpeg_xl.decode(data)
    if isinstance(image, bytes):
        return _decode(image, "JPEG", name)
    return in_srgb(_rgb(image, "JPEG XL", name), image, name)


@contextlib.contextmanager
def _open_raw(data: bytes, name: str) -> Iterator["rawpy.RawPy"]:
    """Opens a camera RAW, whose errors become ImageError within the block, too."""
    with _damage_told("camera RAW", name):
        import rawpy

        try:
            raw = rawpy.imread(io.BytesIO(data))
        except rawpy.LibRawFileUnsupportedError as error:
            raise ImageError(f"{name}: no camera RAW that LibRaw knows; use {READ}") from error
        with raw:
            _check_size(_raw_size(raw), name)
            yield raw


def _raw_size(raw: "rawpy.RawPy") -> tuple[int, int]:
    """Returns the (height, width) of an opened RAW after it is developed."""
    sizes = raw.sizes
    turned = _TURNS_OF_RAW.get(sizes.flip) in TURNED_BY_A_QUARTER
    return (sizes.iwidth, sizes.iheight) if turned else (sizes.iheight, sizes.iwidth)


def _developed(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Develops a camera RAW with the camera's white balance, and turns it upright."""
    with _open_raw(data, name) as raw:
        # The curve of sRGB, instead of that of television.
        pixels = raw.postprocess(use_camera_wb=True, gamma=(2.4, 12.92))
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, 2)
