"""Label maps of all kinds that the release may hold, as PNG files whose grey values are labels.

Only a reader that asks for indices gets the labels of a palette PNG: `tf.io.decode_png`, OpenCV and
others return its colours. Grey values are the same for every reader.
"""

import functools
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from massformer_jax.classes import IGNORE, PALETTE
from massformer_jax.data.images import ImageError
from massformer_jax.data.orientation import UPRIGHT
from massformer_jax.data.png import GREY, PALETTED, RGB, SIGNATURE, Header, open_png, read_header

_STRIP = 64  # number of rows whose colours are looked up at once: a megabyte of codes
_NO_LABEL = 254
_IGNORED_COLOUR = (255, 255, 255)
# How Pillow calls the transposition that an EXIF orientation asks for.
_TRANSPOSE = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def grey_label_map(data: bytes, turn: int = UPRIGHT) -> tuple[bytes, list[int]]:
    """Turns a label map into a PNG file whose grey values are the labels, and counts them.

    An 8-bit grey PNG is returned as it is. Only the header of an 8-bit palette PNG changes, since
    both kinds pack their pixels in the same way. Everything else is encoded anew.

    Args:
        data: a grey or palette PNG file, or an RGB one in the colours of `PALETTE`, where white
            stands for 255.
        turn: the EXIF orientation by which the label map is turned: 1 for none, or 5 to 8, which
            turn by a quarter.

    Returns:
        An 8-bit grey PNG file, and the number of pixels for each of the 256 labels.

    Raises:
        ImageError: the file is damaged, or holds a colour that belongs to no class.
    """
    try:
        header = read_header(io.BytesIO(data))
        if header.colour == RGB:
            return _colour_thread().submit(_grey_label_map, data, header, turn).result()
        return _grey_label_map(data, header, turn)
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError("the label map is damaged; copy or download it again") from error


@functools.cache
def _colour_thread() -> ThreadPoolExecutor:
    """Makes the one thread that decodes RGB label maps, each of which takes 66 MB meanwhile.

    A lock would not save memory, since the allocator keeps what each thread has once used.
    """
    return ThreadPoolExecutor(1)


def _grey_label_map(data: bytes, header: Header, turn: int) -> tuple[bytes, list[int]]:
    """Does the work of `grey_label_map` in whichever thread calls it."""
    colour, depth = header.colour, header.depth
    image = open_png(data)
    image.load()
    if colour == RGB:
        image = Image.fromarray(_labels_of_colours(image))
    if turn != UPRIGHT:
        image = image.transpose(_TRANSPOSE[turn])
    if colour == GREY and turn == UPRIGHT:
        grey = data
    elif colour == PALETTED and depth == 8 and turn == UPRIGHT:
        grey = _without_palette(data)
    else:
        grey = _encode(np.asarray(image))
    return grey, image.histogram()


@functools.lru_cache(maxsize=8)
def ignored_label_map(height: int, width: int) -> bytes:
    """Returns an 8-bit grey PNG file of this size, in pixels, that holds 255 everywhere."""
    return _encode(np.full((height, width), IGNORE, np.uint8))


def _encode(labels: UInt8[np.ndarray, "h w"]) -> bytes:
    """Encodes a label map as an 8-bit grey PNG file."""
    # Without row filters a file is read in 2 ms instead of 30 to 45 (massformer_jax.data.png).
    unfiltered = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    return cv2.imencode(".png", labels, unfiltered)[1].tobytes()


def _without_palette(data: bytes) -> bytes:
    """Turns an 8-bit palette PNG into a grey one, without touching its compressed pixels."""
    parts = [SIGNATURE]
    position = len(SIGNATURE)
    while position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        chunk = data[position : position + length + 12]
        if name == b"IHDR":
            body = bytearray(chunk[4:-4])
            body[4 + 9] = GREY
            chunk = chunk[:4] + body + struct.pack(">I", zlib.crc32(body))
        if name in (b"IHDR", b"IDAT", b"IEND"):  # all others describe colours, or are text
            parts.append(chunk)
        if name == b"IEND":  # some editors append something
            break
        position += length + 12
    return b"".join(parts)


def _labels_of_colours(image: Image.Image) -> UInt8[np.ndarray, "h w"]:
    """Looks up the labels of an RGB label map, and raises ImageError if a colour has none."""
    table = _label_of_code()
    labels = np.empty((image.height, image.width), np.uint8)
    for top in range(0, image.height, _STRIP):
        box = (0, top, image.width, min(top + _STRIP, image.height))
        strip = np.asarray(image.crop(box)).astype(np.uint32)
        codes = strip[..., 0] << 16 | strip[..., 1] << 8 | strip[..., 2]
        found = table[codes]
        if (found == _NO_LABEL).any():
            unknown = np.unique(codes[found == _NO_LABEL])[:3]
            colours = ", ".join(str(tuple(int(c).to_bytes(3, "big"))) for c in unknown)
            raise ImageError(
                f"the label map holds colours that are no class's, such as RGB {colours}; "
                "export it without smoothing, in the dataset's colours"
            )
        labels[top : top + _STRIP] = found
    return labels


@functools.cache
def _label_of_code() -> UInt8[np.ndarray, " n"]:
    """Makes the table that holds the label of a colour at red << 16 | green << 8 | blue."""
    table = np.full(1 << 24, _NO_LABEL, np.uint8)
    for label, (red, green, blue) in [*enumerate(PALETTE.tolist()), (IGNORE, _IGNORED_COLOUR)]:
        table[red << 16 | green << 8 | blue] = label
    return table
