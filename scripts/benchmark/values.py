"""Made-up values for weights and images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

OFFSET_PIXELS = 2.0  # standard deviation of the offsets of the deformable convolutions


def placed(tree: Any, where: jax.sharding.Sharding) -> Any:
    """Returns a tree of ShapeDtypeStructs that all have this sharding."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)


def make_values(tree: Any) -> Any:
    """Returns arrays for a tree of ShapeDtypeStructs: weights of the usual scale, noise for images.

    A fresh network predicts offsets of zero, and would read its maps in order. Here the biases that
    predict the offsets are normally distributed, so that every tap reads at another place.
    """
    rng = np.random.default_rng(0)

    def make(path, like):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jax.device_put(_values(rng, name, like.shape, like.dtype), like.sharding)

    return jax.tree_util.tree_map_with_path(make, tree)


def _values(rng: np.random.Generator, path: str, shape: tuple[int, ...], dtype) -> np.ndarray:
    name = path.rsplit("/", 1)[-1]
    if dtype == np.uint8:
        # Labels are constant in blocks, so that every image has every class and edges.
        if name == "label":
            blocks = rng.integers(0, 7, (shape[0], 1 + shape[1] // 64, 1 + shape[2] // 64))
            return blocks.repeat(64, 1).repeat(64, 2)[:, : shape[1], : shape[2]].astype(dtype)
        return rng.integers(0, 256, shape, dtype)
    if "opt_state" in path or not jnp.issubdtype(dtype, jnp.floating):
        return np.zeros(shape, dtype)
    if path.endswith("dcn_offset/bias") or name == "offsets":
        return (OFFSET_PIXELS * rng.standard_normal(shape, np.float32)).astype(dtype)
    if name in ("x", "cotangent"):
        return rng.standard_normal(shape, np.float32).astype(dtype)
    if name == "modulation":
        return rng.random(shape, np.float32).astype(dtype)
    if name in ("scale", "var"):
        return np.ones(shape, dtype)
    if name in ("kernel", "embedding"):
        fan_in = np.prod(shape[:-1]) if name == "kernel" else 1
        return (fan_in**-0.5 * rng.standard_normal(shape, np.float32)).astype(dtype)
    return np.zeros(shape, dtype)
