"""The smallest CoordFormer: its architecture, random weights, and a checkpoint of them."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from massformer_jax.models.build import abstract_weights
from massformer_jax.models.weights import Weights, save_weights

CLASSES = ("sky", "tree", "rock")
TINY = {
    "encoder": {
        "patch": 16,
        "features": 16,
        "blocks": 4,
        "heads": 2,
        "hidden": 16,
        "gated": False,
        "grid": None,
    },
    "decoder_width": 16,
    "heads": 2,
    "head_width": 8,
    "classes": len(CLASSES),
    "side": 64,
}


def tiny_weights(seed: int = 3, architecture: Mapping[str, Any] = TINY) -> Weights:
    """Returns random weights; with the seed 3 no class is rare."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        numbers = 0.5 * rng.standard_normal(leaf.shape)
        if any(name in jax.tree_util.keystr(path) for name in ("scale", "var")):
            numbers = 1 + 0.3 * rng.random(leaf.shape)
        return numbers.astype(np.float32)

    params, batch_stats = jax.tree_util.tree_map_with_path(fill, abstract_weights(architecture))
    return Weights(
        7,
        architecture,
        CLASSES,
        params,
        batch_stats,
        palette=((0, 0, 255), (0, 128, 0), (99, 99, 99)),
    )


def save(folder) -> None:
    """Saves the weights as those that a command reads."""
    save_weights(folder, tiny_weights())
