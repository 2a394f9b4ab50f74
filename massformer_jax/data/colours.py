"""Colours of photographs in sRGB, which the network was trained with.

A file says by an ICC profile, by code points of ITU-T H.273, or by EXIF what its numbers mean.
LittleCMS converts them. Photographs in sRGB keep their numbers exactly.
"""

import io
import re
import struct

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageCms

from massformer_jax.errors import InputError

_GREY = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # modes of Pillow
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of Pillow, by the name in a profile
_CONVERSION = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
_MEND = "save it as sRGB, or without its profile if it is sRGB"
# Code points of H.273. Those of television have the curve of sRGB for whoever shows a photograph.
_SRGB_CURVES = (1, 2, 6, 13, 14, 15)  # 2: unspecified
_HDR_CURVES = {16: "PQ", 18: "HLG"}
_SRGB_PRIMARIES = (1, 2)
_D65 = (0.3127, 0.3290)
_PRIMARIES = {  # x and y of red, green, blue and white
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),  # television in Europe
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),  # and in America
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),  # BT.2020
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),  # Display P3
}
_ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65)
# Parameters of curves as an ICC profile stores them: the exponent, and what follows near black.
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_ADOBE_RGB_CURVE = (563 / 256,)
# The white of all profiles, and the cone responses in which one white is adapted to another.
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


class ProfileError(InputError):
    """The error of a photograph of which nobody knows what its colours are."""


def in_srgb(
    pixels: UInt8[np.ndarray, "h w 3"], image: Image.Image, name: str
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Converts the pixels of a photograph to sRGB, as its file says that they have to be.

    Colours that sRGB does not have become the nearest that it has. Pixels are returned as they are
    if the file says nothing, or if no colour would change by more than one of 255 steps.

    Args:
        pixels: RGB, 0..255. A photograph in CMYK is converted from the pixels of `image` instead,
            which may have yet to be turned upright.
        image: what Pillow has opened; `info` holds the profile.
        name: what an error calls the photograph.

    Raises:
        ProfileError: a profile that is damaged or of another kind of colours, or HDR.
        OSError: a photograph in CMYK cannot be loaded.
    """
    profile = _profile(image, name)
    if profile is None:
        return pixels
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        kind = source.profile.xcolor_space.strip()
    except (ImageCms.PyCMSError, OSError, UnicodeError) as error:
        raise _damaged(name) from error
    mode = _MODES.get(kind)
    has = "L" if image.mode in _GREY else "CMYK" if image.mode == "CMYK" else "RGB"
    if mode != has and (mode, has) != ("RGB", "L"):  # of a photograph that was made grey
        raise ProfileError(f"{name}: its colours are {has}, but its profile is for {kind}; {_MEND}")
    try:
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", _CONVERSION[0], _CONVERSION[1]
        )
    except ImageCms.PyCMSError as error:
        raise _damaged(name) from error
    if mode == "CMYK":
        return np.asarray(ImageCms.applyTransform(_loaded(image, name), transform))
    if _keeps_colours(transform, mode):
        return pixels
    before = Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if mode == "L" else pixels)
    return np.asarray(ImageCms.applyTransform(before, transform))


def _loaded(image: Image.Image, name: str) -> Image.Image:
    """Loads the pixels of an image; if they are damaged, there is an OSError."""
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise ProfileError(
            f"{name}: too large to be converted from CMYK; save it as sRGB"
        ) from error
    except (SyntaxError, ValueError) as error:
        raise OSError(str(error)) from error
    return image


def _damaged(name: str) -> ProfileError:
    return ProfileError(f"{name}: its colour profile is damaged; {_MEND}")


def _keeps_colours(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tells whether a transform changes no colour by more than one step: it is of sRGB to sRGB."""
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    if mode == "L":
        tried = np.arange(256, dtype=np.uint8)[None]
        expected = np.repeat(tried[..., None], 3, axis=2)
    else:
        tried = expected = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(18, -1, 3)
    found = np.asarray(ImageCms.applyTransform(Image.fromarray(tried), transform))
    return bool(np.abs(found.astype(int) - expected).max() <= 1)


def _profile(image: Image.Image, name: str) -> bytes | None:
    """Returns the ICC profile that says what the colours of a file are, or None if nothing does.

    Raises:
        ProfileError: see `in_srgb`.
    """
    profile = image.info.get("icc_profile")
    # Pillow puts None there if it finds a profile that it cannot put together.
    if profile is None and "icc_profile" in image.info:
        raise _damaged(name)
    coded = image.info.get("nclx_profile")
    if coded:
        primaries, curve = coded["color_primaries"], coded["transfer_characteristics"]
        _check_not_hdr(curve, name)
        return profile or _coded_profile(primaries, curve, name)
    if profile:
        if code := re.search(rb"cicp\0{4}.(.)", profile, re.DOTALL):
            _check_not_hdr(code[1][0], name)
        return profile
    return matrix_profile(_ADOBE_RGB, _ADOBE_RGB_CURVE) if _is_adobe_rgb(image) else None


def _check_not_hdr(curve: int, name: str) -> None:
    if curve in _HDR_CURVES:
        raise ProfileError(
            f"{name}: an HDR photograph ({_HDR_CURVES[curve]}), brighter than sRGB can be; "
            "export it without HDR"
        )


def _coded_profile(primaries: int, curve: int, name: str) -> bytes | None:
    """Returns a profile for code points of H.273, or None for those of sRGB.

    Raises:
        ProfileError: code points that no photograph has.
    """
    if curve not in _SRGB_CURVES or primaries not in (*_SRGB_PRIMARIES, *_PRIMARIES):
        raise ProfileError(
            f"{name}: its colours have primaries {primaries} and transfer {curve} of H.273, which "
            "are not known here; save it as sRGB"
        )
    return (
        None if primaries in _SRGB_PRIMARIES else matrix_profile(_PRIMARIES[primaries], _SRGB_CURVE)
    )


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Tells whether EXIF says that a photograph is in Adobe RGB; cameras store no profile then."""
    if image.format not in ("JPEG", "MPO"):  # MPO: a JPEG that further ones follow
        return False
    try:
        # Option R03 of DCF 2.0.
        index = image.getexif().get_ifd(ExifTags.IFD.Interop).get(1)
    except Exception:  # of many types, all undocumented, if the block is malformed
        return False
    return isinstance(index, str) and index.startswith("R03")


def matrix_profile(primaries: tuple[tuple[float, float], ...], curve: tuple[float, ...]) -> bytes:
    """Makes an ICC profile, of version 4, of colours that are sums of three primaries.

    Args:
        primaries: x and y of red, green, blue and white.
        curve: the parameters of the curve that makes light of numbers: the exponent g, or g, a, b,
            c, d of (a·x + b)^g from x = d on, and c·x below.
    """
    names, columns = (b"rXYZ", b"gXYZ", b"bXYZ"), _adapted(primaries).T
    tags = {name: b"XYZ \0\0\0\0" + _fixed(*xyz) for name, xyz in zip(names, columns, strict=True)}
    function = {1: 0, 5: 3}[len(curve)]
    light = b"para\0\0\0\0" + struct.pack(">HH", function, 0) + _fixed(*curve)
    tags |= {
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50),
        b"rTRC": light,
        b"gTRC": light,
        b"bTRC": light,
    }
    position, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">LL", position + len(body), len(content))
        body += content.ljust(-(-len(content) // 4) * 4, b"\0")
    header = struct.pack(">L4xL", position + len(body), 0x04300000) + b"mntrRGB XYZ "
    header = header.ljust(36, b"\0") + b"acsp" + bytes(28) + _fixed(*_D50)
    return header.ljust(128, b"\0") + struct.pack(">L", len(tags)) + table + body


def _fixed(*values: float) -> bytes:
    """Returns numbers as ICC profiles store them, with sixteen bits behind the point."""
    return struct.pack(f">{len(values)}l", *(round(value * 65536) for value in values))


def _adapted(primaries: tuple[tuple[float, float], ...]) -> Float[np.ndarray, "3 3"]:
    """Returns the XYZ of red, green and blue in columns, after their white was adapted to D50."""
    x, y = np.array(primaries).T
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    mixed = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ xyz[:, 3])
    return np.linalg.inv(_BRADFORD) @ (cones[:, None] * (_BRADFORD @ mixed))
