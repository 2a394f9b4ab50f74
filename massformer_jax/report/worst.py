"""Which images are worth looking at: the worst of each class and score."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from massformer_jax.metrics.published import BF1

WORST = 4  # number of images that are shown for each score and class
MOST = 120  # images that are shown at most; with more than nine classes not all have their four


def ranked_scores(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the scores that images are ranked by: IoU, BIoU and one BF1.

    It is the BF1 that stands beside the published results, or the last one in the summary if that
    is missing. There may be none.

    Args:
        summary: what `scores.summarize` returns.
    """
    contours = [name for name in summary if name.startswith("BF1@")]
    last = [BF1[1:]] if BF1[1:] in contours else contours[-1:]
    return ("IoU", "BIoU", *last)


def score_table(
    images: Mapping[str, Mapping[str, Any]], columns: Sequence[str], classes: int
) -> Float[np.ndarray, "n c k1"]:
    """Returns scores 0..1 of each image, for each column the mean and then each class.

    A score that does not exist is NaN.

    Args:
        images: scores of each image by its name, as `scores.image_scores` returns them or as JSON
            holds them.
        columns: names of scores, for instance "BIoU"; its mean is read from "mBIoU".
        classes: number of classes.
    """
    rows = [[[image[f"m{c}"], *image[c]] for c in columns] for image in images.values()]
    return np.array(rows, np.float64).reshape(len(rows), len(columns), 1 + classes)


def worst(table: Float[np.ndarray, "n ..."], count: int = WORST) -> list[int]:
    """Returns the rows of the `count` lowest numbers of each column.

    The lowest of each column come first, then the second lowest of each, and so on. Equal numbers
    are taken in their order. NaN is never taken. There are `MOST` rows at most.
    """
    flat = table.reshape(len(table), math.prod(table.shape[1:]))
    order = np.argsort(flat, axis=0, kind="stable")[:count]
    exists = ~np.isnan(np.take_along_axis(flat, order, axis=0))
    return list(dict.fromkeys(order[exists].tolist()))[:MOST]
