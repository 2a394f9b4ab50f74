"""How intricate masks are: the isoperimetric quotient of the paper's mIPQ."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

# Smaller masks are left out: of a few pixels, the perimeter says nothing about a shape.
LEAST_AREA = 100


def quotients(
    mask: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"], least_area: int = LEAST_AREA
) -> Float[np.ndarray, " masks"]:
    """P² / 4πA of each connected part of a mask: 1 for a disc, 4/π for a square, more for fringes.

    A is the number of pixels of the part, without its holes. P is the length of the closed lines
    through the centres of its border pixels, around the outside and around every hole, in steps of
    1 and √2 (`cv2.arcLength` of `cv2.findContours`). A large digital disc comes to 1.11, since such
    steps are longer than the circle, a square of n x n pixels to 16 (n - 1)² / 4πn². Pixels that
    touch at a corner are connected.

    Source: the paper's mIPQ is the mean of these over all masks. How a perimeter is digitised it
    does not say.

    Args:
      mask: what is not 0 belongs to it.
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
    kept[0] = False  # what is not the mask
    return perimeters[kept] ** 2 / (4 * np.pi * areas[kept])
