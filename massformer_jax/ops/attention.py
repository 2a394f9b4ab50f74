"""Attention of many tokens to each other in memory that does not grow with their number squared."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from massformer_jax.ops.precision import widened

# Up to so many queries attend at once, and their weights are kept for the backward pass.
AT_ONCE = 4096
# More do so in blocks of this many. A photograph of 2048x2048 in patches of 16 has 16,389 tokens:
# all weights of six heads would be 6.4 GB, those of one block are 0.2 GB.
QUERIES = 512


def attend(
    q: Float[Array, "*b n h e"], k: Float[Array, "*b m h e"], v: Float[Array, "*b m h e"]
) -> Float[Array, "*b n h e"]:
    """Returns softmax(q kᵀ / √e) v of each head; the softmax is in float32 or wider.

    Blocks of queries go one after the other where there are many; each sees all keys, so that no
    sum is put together from parts. The backward pass computes the weights of each block again.
    """
    n = q.shape[-3]
    if n <= AT_ONCE:
        return _attend(q, k, v)
    # The last block is filled up with queries whose answers are dropped.
    padded = jnp.pad(q, [(0, 0)] * (q.ndim - 3) + [(0, -n % QUERIES), (0, 0), (0, 0)])
    blocks = padded.reshape(*q.shape[:-3], -1, QUERIES, *q.shape[-2:])
    blocks = jnp.moveaxis(blocks, q.ndim - 3, 0)
    answers = jax.lax.map(jax.checkpoint(lambda block: _attend(block, k, v)), blocks)
    return jnp.moveaxis(answers, 0, q.ndim - 3).reshape(padded.shape)[..., :n, :, :]


def _attend(q: Array, k: Array, v: Array) -> Array:
    q = q * q.shape[-1] ** -0.5
    logits = jnp.einsum("...qhe,...nhe->...hqn", q, k, preferred_element_type=widened(q.dtype))
    weights = jax.nn.softmax(logits, -1).astype(v.dtype)
    return jnp.einsum("...hqn,...nhe->...qhe", weights, v)
