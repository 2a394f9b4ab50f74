"""Pictures of the worst images, collected while nobody knows yet which those will be."""

import base64
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from massformer_jax import distributed
from massformer_jax.data.classes import class_palette
from massformer_jax.metrics import Counts
from massformer_jax.report.pictures import Level, Picture, draw
from massformer_jax.report.worst import ranked_scores, score_table, worst
from massformer_jax.scores import image_scores


class Gallery:
    """Pictures of the worst of the images seen so far; those of others are dropped.

    So that no image is kept, and few are drawn: of n images seen one after the other, each is
    among the worst at its time less and less often.
    """

    def __init__(self, classes: int, boundary_ratio: float):
        self._classes, self._ratio = classes, boundary_ratio
        self._seen = 0
        self._scores: dict[str, Mapping[str, Any]] = {}
        self._pictures: dict[str, Picture] = {}
        self._lock = threading.Lock()

    def choose(self, names: Sequence[str], pool: Counts) -> list[int]:
        """Which of the images since the last call are among the worst so far: 0 is the first.

        Args:
          names: of all images so far, each once.
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
        """Draws a chosen image (see `pictures.draw`), if it still is; in any thread."""
        if name not in self._scores:
            return
        palette = class_palette(self._classes)
        picture = draw(image, truth, {"": labels}, boundary_ratio=self._ratio, palette=palette)
        with self._lock:
            if name in self._scores:
                self._pictures[name] = picture

    def pictures(self, summary: Mapping[str, Any]) -> dict[str, Picture]:
        """Those of the worst of all images, of all processes; each of them has to call it.

        Args:
          summary: of all images, as `evaluate_files.report_of` gives it.
        """
        names = list(summary["images"])
        chosen = worst(score_table(summary["images"], ranked_scores(summary), self._classes))
        wanted = [names[i] for i in chosen]
        mine = {name: self._pictures[name] for name in wanted if name in self._pictures}
        found = {}
        for share in distributed.gather_bytes(packed(mine)):
            found |= unpacked(share)
        return {name: found[name] for name in wanted if name in found}


def packed(pictures: Mapping[str, Picture]) -> bytes:
    """Pictures for another process to unpack."""
    return json.dumps(pictures, default=lambda data: base64.b64encode(data).decode()).encode()


def unpacked(data: bytes) -> dict[str, Picture]:
    """What was packed."""

    def level(*values):
        *place, layers = values
        return Level(*place, {name: base64.b64decode(text) for name, text in layers.items()})

    return {
        name: Picture(width, height, tuple(level(*x) for x in levels), tuple(map(tuple, parts)))
        for name, (width, height, levels, parts) in json.loads(data).items()
    }
