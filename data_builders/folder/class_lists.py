"""Lists of classes in files of several kinds: names, and perhaps colours."""

import json
import pathlib
import re
import xml.etree.ElementTree
from collections.abc import Callable, Sequence
from typing import Any

from PIL import ImageColor

from massformer_jax.classes import Class, check_classes, class_palette, named_classes
from massformer_jax.data.png import PALETTED, PngError, read_header
from massformer_jax.errors import InputError

_MOST_BYTES = 2**20
Named = tuple[str, tuple[int, int, int] | None]  # a name, and RGB if it is told

# `sky:0,0,255::` of CVAT; `sky 0 0 255` and `sky 0,0,255`; `sky #0000ff`.
_CVAT = re.compile(r"([^:]+):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:[^:]*:[^:]*")
_RGB = re.compile(r"(.+?)[\s,:]+(\d+)[\s,]+(\d+)[\s,]+(\d+)")
_HEX = re.compile(r"(.+?)[\s,:]+(#[0-9a-fA-F]{6})")


def read_classes(
    path: pathlib.Path, palette: pathlib.Path | None = None, first_label: int = 0
) -> tuple[tuple[Class, ...], bool]:
    """Reads a list of classes.

    Args:
        path: a text file with a class on each line, also CVAT's labelmap.txt and LabelMe's
            class_names.txt; JSON, a list of names, or of objects with a name and a colour, or an
            object of colours by name; or XML, a labelling configuration of Label Studio.
        palette: a palette PNG file, whose colours the classes get. None for those of the list.
        first_label: the index of the first class in that palette.

    Returns:
        The classes; and whether their colours are told, and not made up.

    Raises:
        InputError: a file cannot be read, or lists no classes, or too many for the palette, or a
            name or a colour twice, or colours of some classes only.
    """
    named = _READERS.get(path.suffix.lower(), _text)(_content(path), path)
    if not named:
        raise InputError(f"{path}: no class is listed; write one name on each line")
    names = [name for name, _ in named]
    colours = [colour for _, colour in named if colour is not None]
    if palette is not None:
        colours = _colours_of(palette)[first_label:][: len(names)]
        if len(colours) < len(names):
            raise InputError(
                f"{path} lists {len(names)} classes, and the palette of {palette} has only "
                f"{len(colours)} colours for them; shorten the list, or name another --palette"
            )
    elif colours and len(colours) < len(names):
        missing = next(name for name, colour in named if colour is None)
        raise InputError(f"{path}: {missing} has no colour, and other classes do; give all one")
    # More than there can be are refused below, whatever their colours.
    made_up = class_palette(len(names)) if not colours else ()
    classes = named_classes(names, colours or made_up)
    check_classes(classes, str(path))
    return classes, bool(colours)


def _content(path: pathlib.Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; name a list of classes") from error
    if len(content) > _MOST_BYTES:
        raise InputError(f"{path}: larger than a list of classes can be; name another file")
    return content


def _text(content: bytes, path: pathlib.Path) -> list[Named]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text in UTF-8; name a list of classes") from error
    return [_of_line(line.strip()) for line in lines if line.strip() and line.strip()[0] != "#"]


def _of_line(line: str) -> Named:
    for pattern in (_CVAT, _RGB):
        if match := pattern.fullmatch(line):
            return match[1].strip(), tuple(int(match[i]) for i in (2, 3, 4))
    if match := _HEX.fullmatch(line):
        return match[1].strip(), ImageColor.getrgb(match[2])
    return line, None


def _json(content: bytes, path: pathlib.Path) -> list[Named]:
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if isinstance(tree, dict) and isinstance(tree.get("classes"), list):
        tree = tree["classes"]
    if isinstance(tree, dict):
        tree = [{"name": name, "colour": colour} for name, colour in tree.items()]
    if not isinstance(tree, list):
        raise InputError(f'{path}: no list of classes; write [{{"name": …, "colour": …}}, …]')
    return [_of_entry(entry, path) for entry in tree]


def _of_entry(entry: Any, path: pathlib.Path) -> Named:
    if isinstance(entry, str):
        return entry, None
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{path}: {str(entry)[:40]!r} is no class; it needs a name")
    colour = next((entry[key] for key in ("colour", "color", "rgb") if key in entry), None)
    return name, _rgb(colour, f"{path}: the colour of {name}")


def _xml(content: bytes, path: pathlib.Path) -> list[Named]:
    try:
        tree = xml.etree.ElementTree.fromstring(content)
    except xml.etree.ElementTree.ParseError as error:
        raise InputError(f"{path} is no XML: {error}") from error
    labels = [element for element in tree.iter("Label") if element.get("value")]
    told = [(element.get("value"), element.get("background")) for element in labels]
    # Label Studio makes up the colours of labels without one, which its masks do not show anyway.
    if not all(colour for _, colour in told):
        told = [(name, None) for name, _ in told]
    return [(name, _rgb(colour, f"{path}: the colour of {name}")) for name, colour in told]


def _rgb(colour: Any, what: str) -> tuple[int, int, int] | None:
    """Returns RGB of a list of three numbers, or of a name or code as CSS has them."""
    if colour is None:
        return None
    try:
        if isinstance(colour, str):
            return ImageColor.getrgb(colour)[:3]
        red, green, blue = (int(value) for value in colour)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is {str(colour)[:40]!r}; write [R, G, B], 0 to 255") from error
    return red, green, blue


def _colours_of(path: pathlib.Path) -> Sequence[tuple[int, int, int]]:
    """Returns the colours of a palette PNG."""
    try:
        with open(path, "rb") as file:
            header = read_header(file)
    except (OSError, PngError) as error:
        raise InputError(f"{path}: {error}; --palette names a palette PNG") from error
    if header.colour != PALETTED:
        raise InputError(f"{path}: has no palette; --palette names a palette PNG")
    values = header.palette
    return [tuple(values[i : i + 3]) for i in range(0, len(values) - 2, 3)]


_READERS: dict[str, Callable[[bytes, pathlib.Path], list[Named]]] = {".json": _json, ".xml": _xml}
