"""Outputs of a network that does not exist, for losses."""

import jax.numpy as jnp
import numpy as np

from massformer_jax.models.massformer import Outputs


def random_outputs(
    g: np.random.Generator, heads: int, batch: int, queries: int, classes: int, width: int
) -> Outputs:
    """Returns normally distributed float32 outputs, with maps of 16x16 positions."""

    def normal(*shape):
        return jnp.asarray(g.normal(size=shape), jnp.float32)

    return Outputs(
        normal(heads, batch, queries, classes + 1),
        normal(heads, batch, queries, width),
        normal(batch, 16, 16, width),
        normal(batch, 16, 16, 1),
    )
