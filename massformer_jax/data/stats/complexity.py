"""How intricate masks are: the isoperimetric quotient (IPQ), whose mean the paper calls mIPQ."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

# Masks of fewer pixels are left out, since their perimeter says nothing about their shape.
LEAST_AREA = 100


def quotients(
    mask: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"], least_area: int = LEAST_AREA
) -> Float[np.ndarray, " masks"]:
    """Computes P² / 4πA for each connected part of a mask.

    This quotient is 1 for a disc, 4/π for a square, and larger for fringes. A is the number of the
    part's pixels, without its holes. P is the length of the closed lines through the centres of its
    border pixels, around the outside and around every hole, in steps of 1 and √2 (`cv2.arcLength`
    of `cv2.findContours`). Such lines are longer than a circle, so that a large disc of pixels has
    1.11; a square of n x n pixels has 16 (n - 1)² / 4πn². Pixels that touch at a corner are
    connected.

    Source: the paper's mIPQ is the mean of these quotients over all masks. It does not say how a
    perimeter is digitised.

    Args:
        mask: pixels that are not 0 belong to it.
        least_area: parts of fewer pixels are left out.
    """
    mask = np.ascontiguousarray(mask, np.uint8)
    count, parts, table, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = table[:, cv2.CC_STAT_AREA].astype(np.float64)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    part = [parts[contour[0, 0, 1], contour[0, 0, 0]] for contour in contours]
    lengths = [cv2.arcLength(contour, True) for contour in contours]
    perimeters = np.bincount(np.int64(part), np.float64(lengths), minlength=count)
    kept = areas >= least_area
    kept[0] = False  # part 0 is everything outside the mask
    return perimeters[kept] ** 2 / (4 * np.pi * areas[kept])
