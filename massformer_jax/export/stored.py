"""The weights as they are stored: most of them perhaps in half or a quarter of the bits.

The network computes in float32 (or what `--dtype` says) all the same.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

DTYPES = ("float32", "float16", "int8")
_STEP = ".step"  # ends the name of what one of the steps of an int8 array is worth


def stored(
    weights: Mapping[str, Float[np.ndarray, "..."]], dtype: str
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Returns weights by name as they are stored.

    Kernels and embeddings have the dtype. What has one axis stays float32: biases, and the factors
    and statistics of norms, which are few and of any size. So does what the dtype cannot hold.

    Args:
        weights: by name, float32.
        dtype: one of `DTYPES`. An array of int8 has a second one beside it, `NAME.step`: float32,
            one number for each place on the last axis, the outputs, by which it is multiplied.
    """
    found: dict[str, np.ndarray] = {}
    for name, leaf in weights.items():
        largest = np.abs(leaf).max(tuple(range(leaf.ndim - 1)), initial=0)
        if dtype == "float32" or leaf.ndim < 2:
            found[name] = leaf
        elif dtype == "int8":
            step = np.where(largest > 0, largest / 127, 1).astype(np.float32)
            found[name] = np.rint(leaf / step).astype(np.int8)
            found[name + _STEP] = step
        else:
            holds = largest.max(initial=0) <= np.finfo(dtype).max
            found[name] = leaf.astype(dtype) if holds else leaf
    return found


def restored(tensors: Mapping[str, Shaped[Array, "..."]]) -> dict[str, Float[Array, "..."]]:
    """Returns weights by name as the network takes them, float32, of what `stored` returned."""
    found = {}
    for name, leaf in tensors.items():
        if name.endswith(_STEP):
            continue
        leaf = leaf.astype(jnp.float32)
        step = tensors.get(name + _STEP)
        found[name] = leaf if step is None else leaf * jnp.broadcast_to(step, leaf.shape)
    return found
