"""Classes: a name and a colour each, those of MaSS13K, and the label that belongs to none.

Which classes there are is told by the dataset (`data.records.dataset_classes`), and beside weights
by their checkpoint. The label of a class is its place among them.
"""

import colorsys
import dataclasses
import difflib
import numbers
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from massformer_jax.errors import InputError

# Release: the dataset's page calls class 0 "others", the released code `background`; checkpoints
# carry the latter, so it is the name used here.
CLASSES = ("background", "person", "building", "tree", "ground", "sky", "water")

# RGB of each class, from the released dataset definition (mmseg/datasets/mass13k.py).
PALETTE = np.array(
    [
        [0, 0, 0],
        [255, 0, 0],
        [64, 34, 64],
        [0, 255, 0],
        [93, 64, 0],
        [0, 0, 255],
        [0, 255, 255],
    ],
    np.uint8,
)

# The label of pixels that belong to no class: they are never a target and never counted.
IGNORE = 255
MOST_CLASSES = IGNORE  # labels 0..254

RGB = tuple[int, int, int]
_LONGEST_NAME = 80  # letters


@dataclasses.dataclass(frozen=True)
class Class:
    """A class of a dataset.

    Attributes:
        name: what it is called in tables and reports.
        colour: RGB, 0..255, in label maps and pictures.
    """

    name: str
    colour: RGB


def class_names(count: int) -> tuple[str, ...]:
    """Returns names for `count` classes: those of MaSS13K if there are seven, else numbers."""
    return CLASSES if count == len(CLASSES) else tuple(f"class {i}" for i in range(count))


def class_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """Returns RGB for `count` classes: those of MaSS13K if there are seven, else all hues."""
    if count == len(CLASSES):
        return tuple(tuple(int(value) for value in rgb) for rgb in PALETTE)
    hues = (colorsys.hsv_to_rgb(i / count, 1, 1) for i in range(count))
    return tuple(tuple(round(255 * value) for value in rgb) for rgb in hues)


def named_classes(names: Iterable[str], palette: Iterable[Sequence[int]] = ()) -> tuple[Class, ...]:
    """Returns classes of these names.

    Args:
        names: in the order of the labels.
        palette: RGB of each class. If it is empty, `class_palette` gives the colours.
    """
    names = tuple(names)
    palette = tuple(palette) or class_palette(len(names))
    return tuple(
        Class(str(name), tuple(int(value) for value in rgb))
        for name, rgb in zip(names, palette, strict=True)
    )


MASS13K = named_classes(CLASSES)


def names_of(classes: Iterable[Class]) -> tuple[str, ...]:
    """Returns the names of classes."""
    return tuple(one.name for one in classes)


def palette_of(classes: Iterable[Class]) -> tuple[RGB, ...]:
    """Returns the colours of classes."""
    return tuple(one.colour for one in classes)


def check_classes(classes: Sequence[Class], source: str) -> None:
    """Checks that classes can be told apart by name, by colour and by a label in a byte.

    Args:
        classes: what was read.
        source: where they are from, for the message.

    Raises:
        InputError: they cannot.
    """
    if not 1 <= len(classes) <= MOST_CLASSES:
        raise InputError(
            f"{source}: {len(classes)} classes; a label map can hold 1 to {MOST_CLASSES}"
        )
    for one in classes:
        if not one.name or not one.name.isprintable() or len(one.name) > _LONGEST_NAME:
            raise InputError(
                f"{source}: {one.name[:_LONGEST_NAME]!r} is no name of a class; use 1 to "
                f"{_LONGEST_NAME} letters that can be printed"
            )
        if len(one.colour) != 3 or not all(0 <= value <= 255 for value in one.colour):
            raise InputError(f"{source}: the colour of {one.name} is no RGB of 0 to 255")
    name, count = Counter(names_of(classes)).most_common(1)[0]
    if count > 1:
        raise InputError(f"{source}: the class {name} is there {count} times; name it once")
    colour, count = Counter(palette_of(classes)).most_common(1)[0]
    if count > 1:
        twins = [one.name for one in classes if one.colour == colour]
        raise InputError(
            f"{source}: {twins[0]} and {twins[1]} have the same colour, RGB {colour}; give each "
            "class its own"
        )


def are_numbered(names: Sequence[str]) -> bool:
    """Tells whether these names say nothing: they were made up for weights that have none."""
    return tuple(names) == tuple(f"class {i}" for i in range(len(names)))


def label_of(name: str, classes: Sequence[str]) -> int:
    """Returns the label of a class, which may also be named by its label, such as "5".

    Raises:
        InputError: the name is no class.
    """
    if name in classes:
        return list(classes).index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    close = difflib.get_close_matches(name, classes, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    raise InputError(f"there is no class {name!r}{meant} (classes: {', '.join(classes)})")


def labels_of_union(union: Any, classes: Sequence[str]) -> tuple[int, ...]:
    """Returns the labels of one class, or of several that count as one, each once.

    Args:
        union: a label, a name, names with plus signs between them, such as "person+tree", or a
            sequence of all these.
        classes: the names of all classes.

    Raises:
        InputError: something there is no class, or nothing is there.
    """
    if isinstance(union, str):
        # A name may hold a plus itself.
        names = [union] if union in classes else [part.strip() for part in union.split("+")]
        found = [label_of(name, classes) for name in names]
    elif isinstance(union, numbers.Integral):
        if not 0 <= union < len(classes):
            raise InputError(f"there is no class {union}; labels are 0 to {len(classes) - 1}")
        found = [int(union)]
    elif isinstance(union, Sequence | set | frozenset | np.ndarray):
        found = [label for part in union for label in labels_of_union(part, classes)]
    else:
        raise InputError(f"classes is {union!r}; pass names or labels, for instance 'person+tree'")
    if not found:
        raise InputError("classes is empty; name one at least, for instance 'person+tree'")
    return tuple(dict.fromkeys(found))
