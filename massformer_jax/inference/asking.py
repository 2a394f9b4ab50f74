"""Which pixels are worth an answer of their own, by the answers at some of them.

The rule of the paper "CoordFormer" (arXiv 2609.08660) is called SEFI: pixels near a boundary of
the coarse answers *and* on an edge of the photograph. The other rule here, by entropy, asks where
coarse answers are unsure or disagree, whatever the photograph looks like; it follows an idea of Liu
et al., "SparseRefine" (ECCV 2024).

All of it is done on the host; what is as large as the photograph is computed in strips of rows.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

_STRIP = 512  # rows at a time


def enlarged(
    coarse: Shaped[np.ndarray, "i j *_"], stride: int, size: tuple[int, int]
) -> Shaped[np.ndarray, "h w *_"]:
    """Returns a map of a photograph's height and width from answers at every `stride`-th pixel.

    Each answer is that of the square of pixels whose upper left it was asked for, as the decoder
    itself looks to the right and below.
    """
    repeated = np.repeat(coarse, stride, 0)[: size[0]]
    return np.repeat(repeated, stride, 1)[:, : size[1]]


def boundaries(labels: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels with another label above, below, to the left or to the right."""
    found = np.zeros(labels.shape, bool)
    below = labels[1:] != labels[:-1]
    right = labels[:, 1:] != labels[:, :-1]
    found[1:] |= below
    found[:-1] |= below
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def dilated(mask: Bool[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels within `radius` rows and columns of one in the mask."""
    window = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), window).astype(bool)


def image_edges(
    photograph: UInt8[np.ndarray, "h w 3"], threshold: float
) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels where Sobel's gradient of the brightness is above a threshold.

    Paper: it says "Sobel" and 0.1, not of what. Here it is the length of the gradient of the
    brightness, 0.299 R + 0.587 G + 0.114 B in 0..1, by Sobel's kernels divided by 4: an edge from
    black to white has 1. The border is repeated.
    """
    height = len(photograph)
    found = np.empty(photograph.shape[:2], bool)
    for start in range(0, height, _STRIP):
        stop = min(start + _STRIP, height)
        first, last = max(start - 1, 0), min(stop + 1, height)
        strip = photograph[first:last].astype(np.float32) / 255
        grey = strip @ np.array([0.299, 0.587, 0.114], np.float32)
        along_x, along_y = (
            cv2.Sobel(grey, cv2.CV_32F, *order, scale=0.25, borderType=cv2.BORDER_REPLICATE)
            for order in ((1, 0), (0, 1))
        )
        length = np.sqrt(along_x * along_x + along_y * along_y)
        found[start:stop] = length[start - first : stop - first] > threshold
    return found


def sefi(
    coarse: UInt8[np.ndarray, "i j"],
    photograph: UInt8[np.ndarray, "h w 3"],
    *,
    stride: int = 8,
    dilation: int = 4,
    threshold: float = 0.1,
) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels that SEFI asks, from the labels at every `stride`-th pixel.

    Paper: the neighbours are not said: four here. Nor is the window of the dilation: a square.

    Args:
        coarse: labels at the pixels (stride · i, stride · j).
        photograph: RGB.
        stride: between the pixels that were asked.
        dilation: by how many coarse pixels the boundaries grow to all sides.
        threshold: of the photograph's edges, see `image_edges`.
    """
    near = dilated(boundaries(coarse), dilation)
    return enlarged(near, stride, photograph.shape[:2]) & image_edges(photograph, threshold)


def uncertainty(logits: Float[np.ndarray, "i j k"]) -> Float[np.ndarray, "i j"]:
    """Returns how unsure coarse answers are of the square of pixels to their right and below, 0..1.

    It is the entropy of the mean of the probabilities at the four corners of the square, over that
    of a draw among all classes. Where all are sure, but not of the same, it is large, too.
    """
    logits = logits - logits.max(-1, keepdims=True)
    shares = np.exp(logits)
    shares /= shares.sum(-1, keepdims=True)
    shares = np.pad(shares, ((0, 1), (0, 1), (0, 0)), mode="edge")
    mean = (shares[:-1, :-1] + shares[1:, :-1] + shares[:-1, 1:] + shares[1:, 1:]) / 4
    entropy = -(mean * np.log(np.maximum(mean, 1e-30))).sum(-1)
    return entropy / np.log(logits.shape[-1])


def most_uncertain(
    uncertainties: Float[np.ndarray, "i j"], stride: int, size: tuple[int, int], share: float
) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels of the least certain squares, at most this share of all squares.

    Args:
        uncertainties: of squares, see `uncertainty`.
        stride: side of the squares.
        size: height and width of the photograph.
        share: 0..1.
    """
    count = int(share * uncertainties.size)
    chosen = np.zeros(uncertainties.size, bool)
    if count:
        chosen[np.argpartition(uncertainties.reshape(-1), -count)[-count:]] = True
    return enlarged(chosen.reshape(uncertainties.shape), stride, size)
