"""The seven classes of MaSS13K, their colours, and the label that belongs to none."""

import colorsys

import numpy as np

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
