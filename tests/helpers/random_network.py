"""Networks with random numbers in all of their arrays, made without a compiler."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def random_network(make, *, seed=0, dtype=np.float32):
    """Returns what `make()` builds, with random numbers: scales and variances are around 1."""
    graph, state = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        numbers = 0.3 * rng.standard_normal(leaf.shape)
        if any(name in jax.tree_util.keystr(path) for name in ("scale", "var")):
            numbers = 1 + 0.3 * rng.random(leaf.shape)
        return jnp.asarray(numbers.astype(dtype))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state))
