"""Attention and feed-forward network, both with residual."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from massformer_jax.ops.points import widened

# Up to so many keys are attended to at once, and their logits are kept for the backward pass.
KEPT_KEYS = 4096
# More are attended to in blocks. At 12 megapixels the finest memory holds 196,608 of them: all
# logits at once would be 0.6 GB, projected keys and values 0.4 GB. Small blocks cost launches.
KEYS = 16384


class Attention(nnx.Module):
    """Multi-head attention with residual: residual + out(attend(...)).

    The three input projections are one matrix, as in torch's `MultiheadAttention`.
    """

    def __init__(self, features: int, heads: int, *, kernel_init: nnx.Initializer, rngs: nnx.Rngs):
        if features % heads:
            raise ValueError(f"{features} features do not divide into {heads} heads")
        self.heads = heads
        self.in_proj = nnx.Linear(features, 3 * features, kernel_init=kernel_init, rngs=rngs)
        self.out_proj = nnx.Linear(features, features, kernel_init=kernel_init, rngs=rngs)

    def __call__(
        self,
        queries: Float[Array, "*b q d"],
        keys: Float[Array, "*b n d"],
        values: Float[Array, "*b n d"],
        *,
        residual: Float[Array, "*b q d"],
        closed: Bool[Array, "*b q n"] | None = None,
        axis: str | None = None,
    ) -> Float[Array, "*b q d"]:
        """Positions, where there are any, are in `queries` and `keys` and not in the others.

        `closed` marks the keys that a query must not see; it may not be all of them. `axis` is that
        of the mesh, inside `jax.shard_map`, whose devices hold different keys.
        """
        kernels = jnp.split(self.in_proj.kernel[...], 3, -1)
        biases = jnp.split(self.in_proj.bias[...], 3)

        def projected(i, x):
            y = x @ kernels[i] + biases[i].reshape((1,) * (x.ndim - 1) + (-1,))
            return y.reshape(*x.shape[:-1], self.heads, -1)

        q = projected(0, queries)
        q = q * q.shape[-1] ** -0.5

        def block(keys, values, closed):
            """Logits of these keys and their projected values."""
            logits = jnp.einsum(
                "...qhd,...nhd->...hqn",
                q,
                projected(1, keys),
                preferred_element_type=widened(q.dtype),
            )
            if closed is not None:
                logits = jnp.where(closed[..., None, :, :], -jnp.inf, logits)
            return logits, projected(2, values)

        n = keys.shape[-2]
        size = next(size for size in range(min(KEYS, n), 0, -1) if n % size == 0)
        if n <= min(KEPT_KEYS, KEYS) and axis is None:
            logits, v = block(keys, values, closed)
            weights = jax.nn.softmax(logits, -1).astype(v.dtype)
            attended = jnp.einsum("...hqn,...nhd->...qhd", weights, v)
        else:
            blocks = (_blocks(keys, -2, size), _blocks(values, -2, size))
            blocks += (None if closed is None else _blocks(closed, -1, size),)
            attended = _attend_in_blocks(q, block, blocks, axis).astype(residual.dtype)
        return residual + self.out_proj(attended.reshape(residual.shape))


def _blocks(x: Array, axis: int, size: int) -> Array:
    """Cuts an axis, counted from the end, into blocks along a new first axis."""
    axis += x.ndim
    x = x.reshape(*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)


def _attend_in_blocks(
    q: Float[Array, "*b q h d"], block, blocks, axis: str | None
) -> Float[Array, "*b q h d"]:
    """Softmax attention over blocks of keys, one after the other, in float32.

    Sums are kept relative to the largest logit so far (Milakov and Gimelshein, "Online normalizer
    calculation for softmax", 2018). The backward pass computes each block again.
    """

    @jax.checkpoint
    def step(carry, inputs):
        peak, total, attended = carry
        logits, v = block(*inputs)
        higher = jnp.maximum(peak, jax.lax.stop_gradient(logits.max(-1)))
        weights = jnp.exp(logits - higher[..., None])
        shrunk = jnp.exp(peak - higher)
        total = total * shrunk + weights.sum(-1)
        part = jnp.einsum(
            "...hqn,...nhd->...hqd", weights.astype(v.dtype), v, preferred_element_type=total.dtype
        )
        return (higher, total, attended * shrunk[..., None] + part), None

    q = jnp.swapaxes(q, -3, -2)
    # Finite: a block that is closed as a whole must not subtract infinities.
    peak = jnp.full(q.shape[:-1], -1e30, widened(q.dtype))
    start = (peak, jnp.zeros_like(peak), jnp.zeros(q.shape, peak.dtype))
    (peak, total, attended), _ = jax.lax.scan(step, start, blocks)
    if axis is not None:
        # The devices' sums, brought to the largest logit of all.
        shrunk = jnp.exp(peak - jax.lax.pmax(peak, axis))
        total, attended = jax.lax.psum((total * shrunk, attended * shrunk[..., None]), axis)
    return jnp.swapaxes(attended / total[..., None], -3, -2)


class FFN(nnx.Module):
    """Two linear layers with residual: x + linear2(activation(linear1(x)))."""

    def __init__(
        self,
        features: int,
        hidden: int,
        activation,
        *,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.linear1 = nnx.Linear(features, hidden, kernel_init=kernel_init, rngs=rngs)
        self.linear2 = nnx.Linear(hidden, features, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, x: Float[Array, "*b n d"]) -> Float[Array, "*b n d"]:
        return x + self.linear2(self.activation(self.linear1(x)))
