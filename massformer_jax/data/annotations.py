"""Which classes were annotated in which photographs of a dataset."""

import dataclasses
import logging
import re
import threading

import numpy as np
from jaxtyping import Bool

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The classes that were annotated in each photograph, by the photograph's name.

    Attributes:
        count: number of classes.
        missing: (regular expression, labels): in photographs in whose file names it is found, the
            classes of these labels were not annotated; they may be there all the same.
    """

    count: int
    missing: tuple[tuple[str, tuple[int, ...]], ...]

    def of(self, file_name: str) -> Bool[np.ndarray, " k"]:
        """Returns for each class whether it was annotated in a photograph."""
        annotated = np.ones(self.count, bool)
        for pattern, labels in self.missing:
            if re.search(pattern, file_name):
                annotated[list(labels)] = False
        return annotated


class WatchedAnnotations:
    """Annotations that log, after a pass, which regular expressions no photograph has matched."""

    def __init__(self, annotations: Annotations, total: int):
        """Begins before the first photograph.

        Args:
            annotations: what was annotated where.
            total: number of photographs to wait for, those of the split.
        """
        self._annotations = annotations
        self._patterns = {pattern for pattern, _ in annotations.missing}
        self._total, self._seen = total, 0
        self._lock = threading.Lock()  # the threads of the pipeline share this object

    def of(self, file_name: str) -> Bool[np.ndarray, " k"]:
        """Does what `Annotations.of` does, and warns with the last photograph of a pass."""
        self._see(file_name)
        return self._annotations.of(file_name)

    def _see(self, file_name: str) -> None:
        with self._lock:
            if self._seen >= self._total:
                return
            self._seen += 1
            self._patterns = {x for x in self._patterns if not re.search(x, file_name)}
            ended = self._seen == self._total
        if ended and self._patterns:
            patterns = ", ".join(sorted(map(repr, self._patterns)))
            _log.warning(
                "labels.unannotated: %s is found in none of the %d file names that were read; "
                "classes that these photographs lack are learned as absent",
                patterns,
                self._total,
            )
