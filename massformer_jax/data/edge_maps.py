"""Edge maps of the dataset's label maps, in NumPy, for pipelines outside the training step.

Training makes its edge maps on the device (`massformer_jax.ops.edges`); these are the same.
"""

import dataclasses
from typing import Any

import grain
import numpy as np
from jaxtyping import Bool, UInt8

from massformer_jax.data.classes import IGNORE


def edge_map(labels: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels on the edge between two classes, two pixels wide.

    Defined as `massformer_jax.ops.edges.edge_map`: a pixel is marked if its label differs from the
    one above it, to its right, at its lower right or at its lower left, where neither is 255; a
    marked pixel marks those to its right, below it and at its lower right.
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
    """Adds 'edge_map', bool [h w], of the label map [h w] or [h w 1] under `key`."""

    key: str = "segmentation_mask"

    def map(self, element: dict[str, Any]) -> dict[str, Any]:
        labels = element[self.key]
        return {**element, "edge_map": edge_map(labels[..., 0] if labels.ndim == 3 else labels)}


def _inside(shift: int) -> slice:
    """Where an axis and itself moved by -1, 0 or 1 overlap, in the moved one's positions."""
    return slice(max(shift, 0), shift if shift < 0 else None)
