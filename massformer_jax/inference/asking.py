"""Which pixels are worth an answer of their own, by the answers at some of them.

The rule of the paper "CoordFormer" (arXiv 2609.08660) is called SEFI: pixels near a boundary of
the coarse answers *and* on an edge of the photograph. The other rule here, by entropy, asks where
coarse answers are unsure or disagree, on strong edges of the photograph rather than on weak ones,
and goes from coarse to fine. It joins ideas of Liu et al., "SparseRefine" (ECCV 2024), which asks
by entropy, Kirillov et al., "PointRend" (CVPR 2020), which subdivides, and of SEFI.

All of it is done on the host; what is as large as the photograph is computed in strips of rows.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8, UInt16

from massformer_jax.inference.coordinates import probabilities

_STRIP = 512  # rows at a time


def enlarged(
    coarse: Shaped[np.ndarray, "i j *_"], stride: int, size: tuple[int, int]
) -> Shaped[np.ndarray, "h w *_"]:
    """Returns a map of a photograph's height and width from one value for each square of pixels."""
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
    found = np.empty(photograph.shape[:2], bool)
    for strip, lengths in _gradients(photograph):
        found[strip] = lengths > threshold
    return found


def edge_weights(photograph: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """Returns how much the uncertainty of each pixel counts: 16 where nothing changes, up to 255.

    It is the root of the gradient that `image_edges` compares, so that a weak edge still counts.
    """
    found = np.empty(photograph.shape[:2], np.uint8)
    for strip, lengths in _gradients(photograph):
        found[strip] = np.round(255 * np.sqrt((lengths + 1 / 255).clip(0, 1)))
    return found


def strongest(weights: UInt8[np.ndarray, "h w"], stride: int) -> UInt8[np.ndarray, "i j"]:
    """Returns the largest weight around every `stride`-th pixel of every `stride`-th row."""
    if stride == 1:
        return weights
    return cv2.dilate(weights, np.ones((stride, stride), np.uint8))[::stride, ::stride]


def _gradients(
    photograph: UInt8[np.ndarray, "h w 3"],
) -> Iterator[tuple[slice, Float32[np.ndarray, "_ w"]]]:
    """Yields strips of rows and the lengths of the gradient there, see `image_edges`."""
    height = len(photograph)
    for start in range(0, height, _STRIP):
        stop = min(start + _STRIP, height)
        first, last = max(start - 1, 0), min(stop + 1, height)
        strip = photograph[first:last].astype(np.float32) / 255
        grey = strip @ np.array([0.299, 0.587, 0.114], np.float32)
        along_x, along_y = (
            cv2.Sobel(grey, cv2.CV_32F, *order, scale=0.25, borderType=cv2.BORDER_REPLICATE)
            for order in ((1, 0), (0, 1))
        )
        lengths = np.sqrt(along_x * along_x + along_y * along_y)
        yield slice(start, stop), lengths[start - first : stop - first]


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


def between(
    logits: Float[np.ndarray, "i j k"],
    stride: int,
    rows: Int[np.ndarray, " r"],
    columns: Int[np.ndarray, " c"],
) -> Float[np.ndarray, "r c k"]:
    """Returns logits of pixels of which every `stride`-th of every `stride`-th row was asked.

    These have their own logits. The others have the logarithms of probabilities that are
    interpolated bilinearly; beyond the last row and column that was asked these are repeated.

    Args:
        logits: of the pixels that were asked.
        stride: between them.
        rows: the ys, one after the other.
        columns: the xs.
    """
    first, last = rows[0] // stride, -(-rows[-1] // stride)
    shares = probabilities(logits[first : last + 1])
    shares = _interpolated(shares, rows - stride * first, stride)
    shares = _interpolated(shares.swapaxes(0, 1), columns, stride).swapaxes(0, 1)
    found = np.log(np.maximum(shares, 1e-30))
    own_rows, own_columns = rows % stride == 0, columns % stride == 0
    own = np.ix_(rows[own_rows] // stride, columns[own_columns] // stride)
    found[np.ix_(own_rows, own_columns)] = logits[own]
    return found


def _interpolated(
    coarse: Float[np.ndarray, "i j k"], rows: Int[np.ndarray, " r"], stride: int
) -> Float[np.ndarray, "r j k"]:
    """Returns rows of a map, every `stride`-th of which is given."""
    above, part = np.divmod(rows, stride)
    weight = (part / stride).astype(coarse.dtype)[:, None, None]
    below = np.minimum(above + 1, len(coarse) - 1)
    return (1 - weight) * coarse[above] + weight * coarse[below]


def unsure(
    logits: Float[np.ndarray, "i j k"], weights: UInt8[np.ndarray, "i j"]
) -> UInt16[np.ndarray, "i j"]:
    """Returns the weighted entropies of the probabilities.

    They are 0, up to 65,535 for a draw among all classes on an edge of weight 255. Between two
    pixels that are sure, but not of the same, `between` has a large entropy, too.
    """
    logits = logits - logits.max(-1, keepdims=True)
    shares = np.exp(logits)
    total = shares.sum(-1)
    entropy = np.log(total) - (shares * logits).sum(-1) / total
    parts = (entropy / np.log(logits.shape[-1])).clip(0, 1)
    return np.round(257 * parts * weights).astype(np.uint16)


def least_certain(
    entropies: UInt16[np.ndarray, "i j"], among: Bool[np.ndarray, "i j"], count: int
) -> Bool[np.ndarray, "i j"]:
    """Returns the positions that are unsure most, at most so many; of equal ones the first."""
    numbers = np.zeros(1 << 16, np.int64)
    for start in range(0, len(entropies), _STRIP):
        strip = slice(start, start + _STRIP)
        numbers += np.bincount(entropies[strip][among[strip]], minlength=len(numbers))
    numbers[0] = 0  # what is sure is not asked
    at_least = numbers[::-1].cumsum()[::-1]
    if at_least[0] <= count:
        return among & (entropies > 0)
    threshold = np.flatnonzero(at_least > count)[-1]
    chosen = among & (entropies > threshold)
    equal = np.flatnonzero(among & (entropies == threshold))
    chosen.reshape(-1)[equal[: count - np.count_nonzero(chosen)]] = True
    return chosen
