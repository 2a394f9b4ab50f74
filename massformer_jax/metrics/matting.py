"""Errors of alpha mattes: how far a coverage of pixels is from the true one.

The four that papers on matting report, over whole pictures. Their sources are Rhemann et al., "A
Perceptually Motivated Online Benchmark for Image Matting", CVPR 2009, for the definitions, and the
code that Xu et al. published with "Deep Image Matting", CVPR 2017, for the constants.

Everything is float32 maps of the picture's size, of which at most about six exist at a time: 300 MB
for 12 megapixels.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float

SIGMA = 1.4  # pixels, of the Gaussian in the gradient
STEP = 0.1  # between the thresholds of the connectivity
SLIGHT = 0.15  # a pixel that is less than this above its connected level counts as connected


class Errors(NamedTuple):
    """Errors of a matte; 0 is best.

    Attributes:
        sad: the sum of absolute differences, in thousands of pixels.
        mse: the mean squared difference, in 0..1.
        gradient: the sum of squared differences of the gradients' lengths, in thousands.
        connectivity: the sum of differences of the degrees to which pixels are connected to what is
            wholly in front, in thousands of pixels.
    """

    sad: float
    mse: float
    gradient: float
    connectivity: float


def errors(alpha: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "h w"]) -> Errors:
    """Returns all four errors of the coverage `alpha`; both are float32 in 0..1."""
    difference = alpha - truth
    sad = np.abs(difference).sum(dtype=np.float64) / 1000
    mse = np.square(difference).mean(dtype=np.float64)
    return Errors(
        float(sad), float(mse), gradient_error(alpha, truth), connectivity_error(alpha, truth)
    )


def gradient_error(alpha: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "h w"]) -> float:
    """Returns the gradient error, in thousands: how wrong the sharpness of edges is.

    Gradients are those of a Gaussian of 1.4 pixels; beyond its border a picture goes on with the
    values at the border.
    """
    difference = _gradient(alpha) - _gradient(truth)
    return float(np.square(difference).sum(dtype=np.float64) / 1000)


def connectivity_error(alpha: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "h w"]) -> float:
    """Returns the connectivity error, in thousands of pixels: parts that are lost, or float.

    The source is the largest region in which both are at least a threshold, with pixels connected
    by their sides. A pixel's level is the highest threshold in steps of 0.1 up to which it belongs
    to the source; it is disconnected by as much as it is above its level, if that is 0.15 or more.
    """
    level = np.full(truth.shape, -1, np.float32)
    lowest = np.minimum(alpha, truth)
    steps = round(1 / STEP)
    for step in range(1, steps + 1):
        # In float32, as the maps: 0.1 of a map would else be below a threshold of 0.1.
        outside = ~_largest_region(lowest >= np.float32(step / steps))
        level[outside & (level < 0)] = (step - 1) / steps
    level[level < 0] = 1
    difference = _connected(alpha, level) - _connected(truth, level)
    return float(np.abs(difference).sum(dtype=np.float64) / 1000)


def gaussian_taps() -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Returns the Gaussian, and its derivative, of which the gradient consists; norm 1 each.

    They end where the Gaussian falls below 0.01.
    """
    half = math.ceil(SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * SIGMA * 0.01)))
    x = np.arange(-half, half + 1)
    smooth = np.exp(-(x**2) / (2 * SIGMA**2))
    slope = -x * smooth
    return smooth / np.linalg.norm(smooth), slope / np.linalg.norm(slope)


def _gradient(alpha: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    smooth, slope = gaussian_taps()
    along, down = (
        cv2.sepFilter2D(alpha, cv2.CV_32F, *taps, borderType=cv2.BORDER_REPLICATE)
        for taps in ((slope, smooth), (smooth, slope))
    )
    return cv2.magnitude(along, down)


def _largest_region(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the largest region of a mask, or nothing if the mask is empty."""
    count, regions, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=4
    )
    if count == 1:
        return mask
    return regions == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])


def _connected(
    alpha: Float[np.ndarray, "h w"], level: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """Returns the degree, in 0..1, to which each pixel is connected to the source."""
    above = alpha - level
    return 1 - above * (above >= SLIGHT)
