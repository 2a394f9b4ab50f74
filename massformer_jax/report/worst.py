"""Which images are worth looking at: the worst, class by class and score by score."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from massformer_jax.published import BF1

WORST = 4  # images shown by score and class


def ranked_scores(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The scores that images are ranked by: IoU, BIoU and the BF1 shown beside published ones.

    Args:
      settings: a summary (`scores.summarize`). Without that BF1 its last one is taken; there may
        be none.
    """
    contours = [name for name in settings if name.startswith("BF1@")]
    last = [BF1[1:]] if BF1[1:] in contours else contours[-1:]
    return ("IoU", "BIoU", *last)


def score_table(
    images: Mapping[str, Mapping[str, Any]], columns: Sequence[str], classes: int
) -> Float[np.ndarray, "n c k1"]:
    """Scores 0..1 by image, column and [mean, classes…]; NaN where one does not exist.

    Args:
      images: scores of each image, as `scores.image_scores` gives them or JSON holds them.
      columns: say "BIoU"; its mean is read from "mBIoU".
      classes: how many there are.
    """
    rows = [[[image[f"m{c}"], *image[c]] for c in columns] for image in images.values()]
    return np.array(rows, np.float64).reshape(len(rows), len(columns), 1 + classes)


def worst(table: Float[np.ndarray, "n ..."], count: int = WORST) -> list[int]:
    """The `count` lowest in each column: their rows, the lowest of all columns first.

    Equal ones are taken in their order; NaN never.
    """
    flat = table.reshape(len(table), math.prod(table.shape[1:]))
    order = np.argsort(flat, axis=0, kind="stable")[:count]
    exists = ~np.isnan(np.take_along_axis(flat, order, axis=0))
    return list(dict.fromkeys(order[exists].tolist()))
