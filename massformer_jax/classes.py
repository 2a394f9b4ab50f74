"""The seven classes of MaSS13K, their colours, and the label that belongs to none."""

import colorsys
import difflib
import numbers
from collections.abc import Sequence
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


def class_names(count: int) -> tuple[str, ...]:
    """Returns names for `count` classes: those of MaSS13K if there are seven, else numbers."""
    return CLASSES if count == len(CLASSES) else tuple(f"class {i}" for i in range(count))


def class_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """Returns RGB for `count` classes: those of MaSS13K if there are seven, else all hues."""
    if count == len(CLASSES):
        return tuple(tuple(int(value) for value in rgb) for rgb in PALETTE)
    hues = (colorsys.hsv_to_rgb(i / count, 1, 1) for i in range(count))
    return tuple(tuple(round(255 * value) for value in rgb) for rgb in hues)


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
