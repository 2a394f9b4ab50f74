"""How a photograph has to be turned to be upright: the one place that reads and obeys it.

Cameras store how they were held in the EXIF block, and some editors store it in XMP alone. Pillow
and OpenCV differ in which of these they read. So everything that decodes or measures photographs
asks this module, and OpenCV is told to turn nothing.
"""

import re
import warnings

import cv2
import numpy as np
from jaxtyping import Shaped
from PIL import ExifTags, Image

UPRIGHT = 1  # the orientation of a photograph that is stored as it is seen
TURNED_BY_A_QUARTER = (5, 6, 7, 8)  # the orientations that exchange height and width

_ORIENTATIONS = range(1, 9)  # as EXIF numbers them; decoders ignore any other value
# What is wrong with all the other tags of a block matters to nobody here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\s*[\"'<]")


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1..8, by which a decoded photograph has yet to be turned.

    EXIF goes before XMP. What cannot be understood says nothing: then the photograph is upright.

    Args:
        image: what Pillow has opened; its pixels need not be loaded.
    """
    if image.format == "TIFF":  # the decoders of this format turn it themselves
        return UPRIGHT
    return stored_orientation(image)


def stored_orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1..8, by which the pixels of a file have to be turned.

    It is that of the file, and not of what a decoder made of it, see `orientation`.

    Args:
        image: what Pillow has opened, whose pixels are not loaded.
    """
    # The decoders of TIFF know its own tag alone.
    xmp = None if image.format == "TIFF" else _xmp_orientation(image)
    return _exif_orientation(image) or xmp or UPRIGHT


def upright(
    pixels: Shaped[np.ndarray, "h w *c"], orientation: int
) -> Shaped[np.ndarray, "h2 w2 *c"]:
    """Turns pixels as they are stored, so that they are seen upright.

    Args:
        pixels: a photograph, a label map or alpha, of a type that OpenCV can turn.
        orientation: what `orientation` returned.
    """
    if orientation in TURNED_BY_A_QUARTER:
        pixels = cv2.transpose(pixels)
    # 5 only exchanges rows and columns. The others also mirror left and right, or top and bottom.
    if orientation in (2, 3, 6, 7):
        pixels = cv2.flip(pixels, 1)
    if orientation in (3, 4, 7, 8):
        pixels = cv2.flip(pixels, 0)
    return pixels


def _exif_orientation(image: Image.Image) -> int | None:
    """Returns the orientation of the EXIF block, or None if it says nothing that is one."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # of many types, all undocumented, if the block is malformed
        return None
    # The tag is one number of two bytes. Some writers store four bytes, one byte, or a list.
    if isinstance(value, (bytes, tuple)) and value:
        value = value[0]
    return value if isinstance(value, int) and value in _ORIENTATIONS else None


def _xmp_orientation(image: Image.Image) -> int | None:
    """Returns the orientation in the XMP packet, or None if there is none."""
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    found = _XMP_ORIENTATION.search(packet.encode() if isinstance(packet, str) else packet)
    return int(found[1]) if found else None
