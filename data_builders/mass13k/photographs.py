"""Photographs that are no JPEG files, as JPEG files, which is what records hold."""

import io
from pathlib import Path

from PIL import Image, ImageOps

# Suffixes in lower case of what is taken besides JPEG where a layout allows it, with the names that
# Pillow has for their formats.
OTHER_FORMATS = {
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
OTHER_MODES = ("RGB", "L", "P", "RGBA")  # transparency is left out
QUALITY = 98  # with colours at full resolution, hardly anything of a photograph is lost


def as_jpeg(path: Path) -> bytes:
    """Encodes a photograph as a JPEG file; it is turned upright, and keeps its colour profile.

    Raises:
        OSError: it cannot be read.
    """
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
        buffer = io.BytesIO()
        profile = image.info.get("icc_profile")
        upright.save(buffer, "JPEG", quality=QUALITY, subsampling=0, icc_profile=profile)
    return buffer.getvalue()
