"""Pictures of the worst images, collected while it is not yet known which those will be."""

import base64
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from massformer_jax.classes import RGB, class_palette
from massformer_jax.metrics.counts import Counts
from massformer_jax.metrics.scores import image_scores
from massformer_jax.parallel import processes
from massformer_jax.report.pictures import Level, Picture, draw
from massformer_jax.report.worst import ranked_scores, score_table, worst


class Gallery:
    """The pictures of the worst images so far; pictures of other images are dropped.

    So no photograph is kept. Few are drawn: the more images were seen, the more seldom a new one is
    among the worst.

    Args:
        classes: number of classes.
        boundary_ratio: see `metrics.counts.image_counts`.
        palette: colours of the classes; without any, those of `classes.class_palette`.
    """

    def __init__(self, classes: int, boundary_ratio: float, palette: Sequence[RGB] = ()):
        self._classes, self._ratio = classes, boundary_ratio
        self._palette = tuple(palette) or class_palette(classes)
        self._seen = 0
        self._scores: dict[str, Mapping[str, Any]] = {}
        self._pictures: dict[str, Picture] = {}
        self._lock = threading.Lock()

    def choose(self, names: Sequence[str], pool: Counts) -> list[int]:
        """Returns which of the images since the last call are among the worst so far, from 0.

        Args:
            names: names of all images so far; each occurs once.
            pool: their counts.
        """
        first, self._seen = self._seen, len(names)
        candidates = dict(self._scores)
        for i in range(first, len(names)):
            candidates[names[i]] = image_scores(pool, i)
        if not candidates:
            return []
        measures = ranked_scores(next(iter(candidates.values())))
        known = list(candidates)
        kept = sorted(worst(score_table(candidates, measures, self._classes)))
        with self._lock:
            self._scores = {known[i]: candidates[known[i]] for i in kept}
            self._pictures = {n: p for n, p in self._pictures.items() if n in self._scores}
        return [i - first for i in range(first, len(names)) if names[i] in self._scores]

    def draw(self, name: str, image: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> None:
        """Draws an image (see `pictures.draw`) if it is still among the worst.

        Any thread may call this.
        """
        if name not in self._scores:
            return
        picture = draw(
            image, truth, {"": labels}, boundary_ratio=self._ratio, palette=self._palette
        )
        with self._lock:
            if name in self._scores:
                self._pictures[name] = picture

    def pictures(self, summary: Mapping[str, Any]) -> dict[str, Picture]:
        """Returns the pictures of the worst of all images by name; each process has to call it.

        Args:
            summary: what `scores.evaluation_summary` returns for the images of all processes.
        """
        names = list(summary["images"])
        chosen = worst(score_table(summary["images"], ranked_scores(summary), self._classes))
        wanted = [names[i] for i in chosen]
        mine = {name: self._pictures[name] for name in wanted if name in self._pictures}
        found = {}
        for share in processes.gather_bytes(packed(mine)):
            found |= unpacked(share)
        return {name: found[name] for name in wanted if name in found}


def packed(pictures: Mapping[str, Picture]) -> bytes:
    """Returns pictures as bytes, which another process can unpack."""
    return json.dumps(pictures, default=lambda data: base64.b64encode(data).decode()).encode()


def unpacked(data: bytes) -> dict[str, Picture]:
    """Returns the pictures that were packed."""

    def level(*values):
        *place, layers = values
        return Level(*place, {name: base64.b64decode(text) for name, text in layers.items()})

    return {
        name: Picture(width, height, tuple(level(*x) for x in levels), tuple(map(tuple, parts)))
        for name, (width, height, levels, parts) in json.loads(data).items()
    }
