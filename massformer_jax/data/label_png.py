"""Which files are label maps: the judgement of the builder and of all commands that read them.

The labels of a file are its grey values, or the indices of its palette, never its colours.
"""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from massformer_jax.classes import CLASSES, MASS13K, Class, names_of, palette_of
from massformer_jax.data.png import (
    GREY,
    PALETTED,
    PIXELS_SETTING,
    RGB,
    Header,
    PngError,
    most_pixels,
    open_png,
    read_header,
    read_labels,
)

DAMAGED = "the label map is truncated, corrupt or no PNG; copy or download it again"
_COLOUR_TYPES = {GREY: "grey", RGB: "RGB", PALETTED: "palette", 4: "grey+alpha", 6: "RGBA"}
_NEARLY = 8  # a colour of a palette is taken for a class's if no channel differs by more


class LabelMapError(ValueError):
    """The error of a file that is no label map.

    Attributes:
        kind: the name of all errors of this sort, by which they are counted.
    """

    def __init__(self, kind: str, message: str):
        """Makes an error.

        Args:
            kind: see above.
            message: what is wrong with the file, and what to do.
        """
        super().__init__(message)
        self.kind = kind


def check_label_map(
    file: io.BufferedIOBase,
    *,
    colours: bool = False,
    classes: int | Sequence[Class] | None = None,
) -> Header:
    """Checks by its header that a file is a label map, and returns the header.

    It is an 8-bit grey PNG, or a palette PNG of any depth whose palette does not contradict its
    indices.

    Args:
        file: the file, which may be at any position.
        colours: whether it may also be an RGB PNG, whose colours somebody will look up.
        classes: those of the dataset, in whose colours the palette has to be; or their number,
            seven of which are taken for MaSS13K's; or None for no check of the palette.

    Raises:
        LabelMapError: it is something else.
    """
    try:
        header = read_header(file)
    except PngError as error:
        raise _something_else(file) from error
    allowed = (GREY, PALETTED, *(RGB,) * colours)
    if header.colour not in allowed or (header.depth != 8 and header.colour != PALETTED):
        kind = f"{header.depth}-bit {_COLOUR_TYPES.get(header.colour, 'other')}"
        wanted = (
            ", a palette PNG, or RGB in the dataset's colours" if colours else " or a palette PNG"
        )
        raise LabelMapError(
            "label map of other pixels",
            f"the label map holds {kind} pixels; save it as an 8-bit grey PNG{wanted}",
        )
    if header.height * header.width > most_pixels():
        size = f"{header.width}x{header.height} pixels, more than {most_pixels():,}"
        message = f"the header says {size}; if this is right, set {PIXELS_SETTING} higher"
        raise LabelMapError("absurd size", message)
    known = MASS13K if classes == len(CLASSES) else classes
    checked = header.colour == PALETTED and known is not None and not isinstance(known, int)
    if checked and (swapped := _swapped(header.palette, known)) is not None:
        label, name = swapped
        message = f"its palette shows label {label} in the colour of {name}: are its indices "
        message += "labels? Save it as an 8-bit grey PNG of labels"
        raise LabelMapError("other palette", message)
    return header


def decode_labels(
    file: io.BufferedIOBase, *, classes: int | Sequence[Class] | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Decodes a label map, after the check by `check_label_map`.

    Args:
        file: see `check_label_map`.
        classes: see `check_label_map`.

    Returns:
        The labels. The array may be read-only, and a view of a larger one.

    Raises:
        LabelMapError: this is no label map, or a damaged one.
    """
    check_label_map(file, classes=classes)
    file.seek(0)
    data = file.read()
    labels = read_labels(data)
    if labels is not None:
        return labels
    try:
        return np.array(open_png(data))
    except (OSError, SyntaxError, ValueError) as error:
        raise LabelMapError("damaged label map", DAMAGED) from error


def _something_else(file: io.BufferedIOBase) -> LabelMapError:
    """Returns the error of a file that has not the header of a PNG."""
    file.seek(0)
    try:
        with Image.open(file) as image:
            found = image.format
    except Exception:  # of many types, all undocumented, if the header is damaged
        found = None
    if found in (None, "PNG"):
        return LabelMapError("unreadable label map", DAMAGED)
    message = f"is a {found}, whatever its name; export the label map as PNG"
    return LabelMapError("label map of another format", message)


def _swapped(palette: bytes, classes: Sequence[Class]) -> tuple[int, str] | None:
    """Returns a label that the palette shows in the colour of another class, and that class.

    Colours that are not the dataset's tell nothing, and neither does black, with which unused
    entries are filled.
    """
    entries = np.frombuffer(palette[: 3 * len(classes)], np.uint8)
    colours = entries[: len(entries) // 3 * 3].reshape(-1, 3).astype(np.int16)
    ours = np.array(palette_of(classes), np.int16)
    for label, colour in enumerate(colours):
        distances = np.abs(ours - colour).max(1)
        nearest = distances.argmin()
        if distances[nearest] <= _NEARLY < min(distances[label], colour.max()):
            return label, names_of(classes)[nearest]
    return None
