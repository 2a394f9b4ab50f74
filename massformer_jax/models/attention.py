"""Attention and feed-forward network, both with residual."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from massformer_jax.ops.open_sizes import known
from massformer_jax.ops.precision import widened
from massformer_jax.parallel import spatial

# Up to so many keys are attended to at once, and their logits are kept for the backward pass.
KEPT_KEYS = 4096
# More are attended to in blocks. At 12 megapixels the finest memory holds 196,608 of them: all
# logits at once would be 0.6 GB, projected keys and values 0.4 GB. Small blocks cost launches.
KEYS = 16384


class Attention(nnx.Module):
    """Multi-head attention with residual: residual + out(attend(...)).

    The three input projections are one matrix, as in torch's `MultiheadAttention`.

    Args:
        features: width of queries, keys, values and residual.
        heads: how many; they divide `features`.
        kernel_init: of all four projections.
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
    ) -> Float[Array, "*b q d"]:
        """Attends to all keys at once.

        Positions, where there are any, are in `queries` and `keys` and not in the others.
        """
        q, project_keys, project_values = self._projections(queries)
        attended = _attend(_logits(q, project_keys(keys)), project_values(values))
        return residual + self.out_proj(attended.reshape(residual.shape))

    def _projections(
        self, queries: Float[Array, "*b q d"]
    ) -> tuple[Float[Array, "*b q h e"], Callable[[Array], Array], Callable[[Array], Array]]:
        """Returns the scaled queries of each head, and what projects keys and what values."""
        kernels = jnp.split(self.in_proj.kernel[...], 3, -1)
        biases = jnp.split(self.in_proj.bias[...], 3)

        def project(i, x):
            y = x @ kernels[i] + biases[i].reshape((1,) * (x.ndim - 1) + (-1,))
            return y.reshape(*x.shape[:-1], self.heads, -1)

        q = project(0, queries)
        q = q * q.shape[-1] ** -0.5
        return q, functools.partial(project, 1), functools.partial(project, 2)


class MaskedAttention(Attention):
    """Attention of queries to positions of a map, some of which are blocked for each query.

    There may be too many positions for all of their logits at once. Inside of `spatial.each_part`
    each device holds positions of its own, and the queries attend to those of all devices.
    """

    def __call__(
        self,
        queries: Float[Array, "*b q d"],
        keys: Float[Array, "*b n d"],
        values: Float[Array, "*b n d"],
        *,
        residual: Float[Array, "*b q d"],
        blocked: Bool[Array, "*b q n"],
    ) -> Float[Array, "*b q d"]:
        """Attends to the keys that are not blocked.

        Args:
            queries: with their positions, where they have any.
            keys: likewise.
            values: without positions.
            residual: what the answer is added to.
            blocked: True where a query must not attend to a key; at least one key of each query
                is free.
        """
        q, project_keys, project_values = self._projections(queries)

        def block(keys, values, blocked):
            """Returns the logits of these keys, and their projected values."""
            logits = _logits(q, project_keys(keys))
            logits = jnp.where(blocked[..., None, :, :], -jnp.inf, logits)
            return logits, project_values(values)

        n = keys.shape[-2]
        if not known([n]) or (n <= min(KEPT_KEYS, KEYS) and not spatial.inside()):
            attended = _attend(*block(keys, values, blocked))
        else:
            size = next(size for size in range(min(KEYS, n), 0, -1) if n % size == 0)
            blocks = (_blocks(keys, -2, size), _blocks(values, -2, size))
            blocks += (_blocks(blocked, -1, size),)
            attended = _attend_in_blocks(q, block, blocks).astype(residual.dtype)
        return residual + self.out_proj(attended.reshape(residual.shape))


def _logits(q: Float[Array, "*b q h e"], k: Float[Array, "*b n h e"]) -> Float[Array, "*b h q n"]:
    return jnp.einsum("...qhd,...nhd->...hqn", q, k, preferred_element_type=widened(q.dtype))


def _attend(
    logits: Float[Array, "*b h q n"], v: Float[Array, "*b n h e"]
) -> Float[Array, "*b q h e"]:
    weights = jax.nn.softmax(logits, -1).astype(v.dtype)
    return jnp.einsum("...hqn,...nhd->...qhd", weights, v)


def _blocks(x: Array, axis: int, size: int) -> Array:
    """Cuts an axis, counted from the end, into blocks along a new first axis."""
    axis += x.ndim
    x = x.reshape(*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)


def _attend_in_blocks(
    q: Float[Array, "*b q h d"],
    block: Callable[..., tuple[Array, Array]],
    blocks: tuple[Array, ...],
) -> Float[Array, "*b q h d"]:
    """Attends to blocks of keys, one after the other, in float32.

    Sums are kept relative to the largest logit so far (Milakov and Gimelshein, "Online normalizer
    calculation for softmax", 2018). The backward pass computes each block again.

    Args:
        q: scaled and projected queries.
        block: from the arrays of one block to its logits [*b h q n] and its values [*b n h d].
        blocks: these arrays of all blocks, stacked along their first axis.
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
    # Finite: where all keys of a block are blocked, infinities must not be subtracted.
    peak = jnp.full(q.shape[:-1], -1e30, widened(q.dtype))
    start = (peak, jnp.zeros_like(peak), jnp.zeros(q.shape, peak.dtype))
    (peak, total, attended), _ = jax.lax.scan(step, start, blocks)
    if spatial.inside():
        # The devices' sums, brought to the largest logit of all.
        shrunk = jnp.exp(peak - spatial.max_over_parts(peak))
        total, attended = spatial.sum_over_parts(total * shrunk, attended * shrunk[..., None])
    return jnp.swapaxes(attended / total[..., None], -3, -2)


class FFN(nnx.Module):
    """Two linear layers with residual: x + linear2(activation(linear1(x))).

    Args:
        features: width of input and output.
        hidden: width between the layers.
        activation: a function of one array.
        kernel_init: of both layers.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        activation: Callable[[Array], Array],
        *,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.linear1 = nnx.Linear(features, hidden, kernel_init=kernel_init, rngs=rngs)
        self.linear2 = nnx.Linear(hidden, features, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, x: Float[Array, "*b n d"]) -> Float[Array, "*b n d"]:
        return x + self.linear2(self.activation(self.linear1(x)))
