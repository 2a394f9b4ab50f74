"""Which images are worth looking at: the worst, class by class and score by score."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from massformer_jax.published import BF1
from massformer_jax.report.pictures import Picture

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
    flat = table.reshape(len(table), -1)
    order = np.argsort(flat, axis=0, kind="stable")[:count]
    exists = ~np.isnan(np.take_along_axis(flat, order, axis=0))
    return list(dict.fromkeys(order[exists].tolist()))


class Gallery:
    """Pictures of the worst of the images seen so far; those of others are dropped.

    So that no image is kept, and few are drawn: of n images seen one after the other, each is
    among the worst at its time less and less often.
    """

    def __init__(self, columns: Sequence[str], classes: int):
        self._columns, self._classes = tuple(columns), classes
        self._scores: dict[str, Mapping[str, Any]] = {}
        self.pictures: dict[str, Picture] = {}

    def offer(self, name: str, scores: Mapping[str, Any], draw: Callable[[], Picture]) -> None:
        """Draws the image if it is among the worst, of which there may then be one too many.

        Args:
          name: of the image, a new one.
          scores: of `scores.image_scores`.
          draw: gives its picture.
        """
        candidates = {**self._scores, name: scores}
        table = score_table(candidates, self._columns, self._classes)
        names = list(candidates)
        kept = {names[i] for i in worst(table)}
        if name in kept:
            self.pictures[name] = draw()
        self._scores = {key: candidates[key] for key in names if key in kept}
        self.pictures = {key: self.pictures[key] for key in self._scores}
