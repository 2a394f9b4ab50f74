"""Label maps of all kinds that the release may hold, as PNG files whose grey values are labels.

Only a reader that asks for indices gets the labels of a palette PNG: `tf.io.decode_png`, OpenCV and
others return its colours. Grey values are the same for every reader.
"""

import functools
import io
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from jaxtyping import UInt, UInt8
from PIL import Image

from massformer_jax.classes import IGNORE, MASS13K, Class, palette_of
from massformer_jax.classes import RGB as Colour
from massformer_jax.data.images import ImageError
from massformer_jax.data.orientation import UPRIGHT
from massformer_jax.data.png import GREY, PALETTED, RGB, SIGNATURE, Header, open_png, read_header

_STRIP = 64  # number of rows whose colours are looked up at once: a megabyte of codes
_NO_LABEL = 254  # of a colour that is no class's; where 254 is a class, it is
_NO_LABEL_OF_ALL = 256
_IGNORED_COLOUR = (255, 255, 255)
# How Pillow calls the transposition that an EXIF orientation asks for.
_TRANSPOSE = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def grey_label_map(
    data: bytes, turn: int = UPRIGHT, classes: Sequence[Class] = MASS13K
) -> tuple[bytes, list[int]]:
    """Turns a label map into a PNG file whose grey values are the labels, and counts them.

    An 8-bit grey PNG is returned as it is. Only the header of an 8-bit palette PNG changes, since
    both kinds pack their pixels in the same way. Everything else is encoded anew.

    Args:
        data: a grey or palette PNG file, or an RGB one in the colours of the classes, where white
            stands for 255, unless it is a class's.
        turn: the EXIF orientation by which the label map is turned: 1 for none, or 5 to 8, which
            turn by a quarter.
        classes: of the dataset.

    Returns:
        An 8-bit grey PNG file, and the number of pixels for each of the 256 labels.

    Raises:
        ImageError: the file is damaged, or holds a colour that belongs to no class.
    """
    try:
        header = read_header(io.BytesIO(data))
        if header.colour == RGB:
            thread = _colour_thread()
            return thread.submit(_grey_label_map, data, header, turn, classes).result()
        return _grey_label_map(data, header, turn, classes)
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


def _grey_label_map(
    data: bytes, header: Header, turn: int, classes: Sequence[Class]
) -> tuple[bytes, list[int]]:
    """Does the work of `grey_label_map` in whichever thread calls it."""
    colour, depth = header.colour, header.depth
    image = open_png(data)
    image.load()
    if colour == RGB:
        image = Image.fromarray(_labels_of_colours(image, palette_of(classes)))
    image = turned(image, turn)
    if colour == GREY and turn == UPRIGHT:
        grey = data
    elif colour == PALETTED and depth == 8 and turn == UPRIGHT:
        grey = _without_palette(data)
    else:
        grey = encode_label_map(np.asarray(image))
    return grey, image.histogram()


def relabelled(
    data: bytes, histogram: Sequence[int], values: Sequence[int]
) -> tuple[bytes, list[int]]:
    """Gives the pixels of a label map other labels, and counts these.

    Args:
        data: an 8-bit grey PNG file.
        histogram: the number of pixels for each of its 256 values.
        values: for each of the 256 values the label that it stands for, 0..255. Of a value that
            no pixel has it may be anything.

    Returns:
        As `grey_label_map` does.
    """
    table = np.clip(np.array(values), 0, IGNORE).astype(np.uint8)
    counts = np.bincount(table, weights=histogram, minlength=256).astype(int).tolist()
    return encode_label_map(table[np.asarray(open_png(data))]), counts


def turned(image: Image.Image, turn: int) -> Image.Image:
    """Returns an image turned as an EXIF orientation asks for: 1 for not at all, or 5 to 8."""
    return image if turn == UPRIGHT else image.transpose(_TRANSPOSE[turn])


def is_coloured(data: bytes) -> bool:
    """Tells whether a label map shows classes by RGB, and not by numbers."""
    return read_header(io.BytesIO(data)).colour == RGB


@functools.lru_cache(maxsize=8)
def ignored_label_map(height: int, width: int) -> bytes:
    """Returns an 8-bit grey PNG file of this size, in pixels, that holds 255 everywhere."""
    return encode_label_map(np.full((height, width), IGNORE, np.uint8))


def encode_label_map(labels: UInt8[np.ndarray, "h w"]) -> bytes:
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


def _labels_of_colours(image: Image.Image, palette: tuple[Colour, ...]) -> UInt8[np.ndarray, "h w"]:
    """Looks up the labels of an RGB label map, and raises ImageError if a colour has none."""
    table = _label_of_code(palette)
    none = _no_label(palette)
    labels = np.empty((image.height, image.width), np.uint8)
    for top in range(0, image.height, _STRIP):
        box = (0, top, image.width, min(top + _STRIP, image.height))
        strip = np.asarray(image.crop(box)).astype(np.uint32)
        codes = strip[..., 0] << 16 | strip[..., 1] << 8 | strip[..., 2]
        found = table[codes]
        if (found == none).any():
            unknown = np.unique(codes[found == none])[:3]
            colours = ", ".join(str(tuple(int(c).to_bytes(3, "big"))) for c in unknown)
            raise ImageError(
                f"the label map holds colours that are no class's, such as RGB {colours}; "
                "export it without smoothing, in the dataset's colours"
            )
        labels[top : top + _STRIP] = found
    return labels


@functools.lru_cache(maxsize=1)
def _label_of_code(
    palette: tuple[Colour, ...] = palette_of(MASS13K),
) -> UInt[np.ndarray, " n"]:
    """Makes the table that holds the label of a colour at red << 16 | green << 8 | blue."""
    none = _no_label(palette)
    table = np.full(1 << 24, none, np.min_scalar_type(none))
    for label, (red, green, blue) in [(IGNORE, _IGNORED_COLOUR), *enumerate(palette)]:
        table[red << 16 | green << 8 | blue] = label
    return table


def _no_label(palette: tuple[Colour, ...]) -> int:
    """Returns what the table holds for a colour that belongs to none of so many classes."""
    return _NO_LABEL if len(palette) <= _NO_LABEL else _NO_LABEL_OF_ALL
