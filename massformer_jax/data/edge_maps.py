"""Edge maps of the dataset's label maps, in NumPy, for pipelines outside the training step.

Training makes the same edge maps on the device (`massformer_jax.ops.edges`).
"""

import dataclasses
from typing import Any

import grain
import numpy as np
from jaxtyping import Bool, UInt8

from massformer_jax.classes import IGNORE


def edge_map(labels: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Marks the edges between classes, two pixels wide, as `massformer_jax.ops.edges` does.

    A pixel is marked if its label differs from the label above it, to its right, at its lower right
    or at its lower left, and neither of the two is 255. Then each marked pixel marks the pixels to
    its right, below it and at its lower right.
    """
    marked = np.zeros(labels.shape, bool)
    for dy, dx in ((-1, 0), (0, 1), (1, 1), (1, -1)):
        here = (_inside(-dy), _inside(-dx))
        there = (_inside(dy), _inside(dx))
        a, b = labels[here], labels[there]
        marked[here] |= (a != b) & (a != IGNORE) & (b != IGNORE)
    edges = marked.copy()
    edges[1:] |= marked[:-1]
    edges[:, 1:] |= marked[:, :-1]
    edges[1:, 1:] |= marked[:-1, :-1]
    return edges


@dataclasses.dataclass(frozen=True)
class AddEdgeMap(grain.transforms.Map):
    """The transform that adds an edge map to an element with a label map.

    Attributes:
        key: where the element has its label map, [h w] or [h w 1].
    """

    key: str = "segmentation_mask"

    def map(self, element: dict[str, Any]) -> dict[str, Any]:
        """Returns the element with 'edge_map', bool [h w]."""
        labels = element[self.key]
        return {**element, "edge_map": edge_map(labels[..., 0] if labels.ndim == 3 else labels)}


def _inside(shift: int) -> slice:
    """Returns the positions i of an axis for which i - shift lies on it, too.

    Args:
        shift: -1, 0 or 1.
    """
    return slice(max(shift, 0), shift if shift < 0 else None)
