"""The weights as they are stored: most of them perhaps in half the bits.

The network computes in float32 (or what `--dtype` says) all the same.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def stored(
    weights: Mapping[str, Float[np.ndarray, "..."]], dtype: str
) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns weights by name as they are stored.

    Kernels and embeddings have the dtype. What has one axis stays float32: biases, and the factors
    and statistics of norms, which are few and of any size. So does what the dtype cannot hold.

    Args:
        weights: by name, float32.
        dtype: "float32" or "float16".
    """
    return {name: _rounded(leaf, dtype) for name, leaf in weights.items()}


def restored(leaf: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns a stored array as the network takes it, float32."""
    return leaf.astype(jnp.float32)


def _rounded(leaf, dtype):
    if leaf.ndim < 2 or np.abs(leaf).max(initial=0) > np.finfo(dtype).max:
        return leaf
    return leaf.astype(dtype)
