"""The seven classes of MaSS13K, their colours, and the label that belongs to none."""

import numpy as np

# Release: the dataset's page calls class 0 "others", the released code `background`; checkpoints
# carry the latter, so it is the name used here.
CLASSES = ("background", "person", "building", "tree", "ground", "sky", "water")

# RGB, from the released dataset definition (mmseg/datasets/mass13k.py).
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

IGNORE = 255  # label of pixels that belong to no class: never a target, never counted
