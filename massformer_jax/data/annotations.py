"""Which classes were annotated in which photographs of a dataset."""

import dataclasses
import re

import numpy as np
from jaxtyping import Bool


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
