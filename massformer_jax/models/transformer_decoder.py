"""Mask2Former's transformer decoder: masked cross attention, self attention, feed-forward.

Source: Cheng et al., "Masked-attention Mask Transformer" (CVPR 2022); mmdet's
`Mask2FormerTransformerDecoder` and `Mask2FormerHead.forward`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from massformer_jax.models.attention import FFN, Attention, MaskedAttention
from massformer_jax.models.recomputation import recomputed
from massformer_jax.ops.positions import add_sine_positions
from massformer_jax.ops.precision import widened
from massformer_jax.parallel import spatial


class Prediction(NamedTuple):
    """What a head says of every query."""

    class_logits: Float[Array, "b q k1"]  # the last class is "no object"
    mask_embeds: Float[Array, "b q e"]


class DecoderLayer(nnx.Module):
    """One layer: every step is residual and followed by LayerNorm.

    Args:
        features: width of queries, keys and values.
        hidden: width of the feed-forward network.
    """

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs):
        xavier = jax.nn.initializers.xavier_normal()
        gelu = functools.partial(jax.nn.gelu, approximate=False)
        self.cross_attn = MaskedAttention(features, 8, kernel_init=xavier, rngs=rngs)
        self.self_attn = Attention(features, 8, kernel_init=xavier, rngs=rngs)
        self.ffn = FFN(features, hidden, gelu, kernel_init=xavier, rngs=rngs)
        self.norms = nnx.List([LayerNorm(features, rngs=rngs) for _ in range(3)])

    def __call__(
        self,
        queries: Float[Array, "b q d"],
        keys: Float[Array, "b n d"],
        values: Float[Array, "b n d"],
        *,
        positions: Float[Array, "1 q d"],
        blocked: Bool[Array, "b q n"],
    ) -> Float[Array, "b q d"]:
        """Returns the queries after they have attended to a memory and to each other.

        Args:
            queries: without their positions.
            keys: the memory, with positions of its own.
            values: the memory without positions.
            positions: of the queries.
            blocked: the keys outside of a query's mask so far.
        """
        after_cross, after_self, after_ffn = self.norms
        crossed = self.cross_attn(
            queries + positions, keys, values, residual=queries, blocked=blocked
        )
        queries = after_cross(crossed)
        placed = queries + positions
        queries = after_self(self.self_attn(placed, placed, queries, residual=queries))
        return after_ffn(self.ffn(queries))


class TransformerDecoder(nnx.Module):
    """A stack of layers, with a prediction for every query before the first and after each.

    What queries begin as, the embeddings and the heads belong to `MaSSFormer`, as the release has
    it, and are passed in.

    Args:
        features: width of queries and memories.
        hidden: width of the feed-forward networks.
        layers: how many.
    """

    def __init__(self, features: int, hidden: int, layers: int, *, rngs: nnx.Rngs):
        self.layers = nnx.List([DecoderLayer(features, hidden, rngs=rngs) for _ in range(layers)])
        self.post_norm = LayerNorm(features, rngs=rngs)

    def __call__(
        self,
        memories: tuple[Float[Array, "b _ _ d"], ...],
        mask_features: tuple[Float[Array, "b _ _ d"], ...],
        *,
        queries: Float[Array, "q d"],
        positions: Float[Array, "q d"],
        level_embeds: Float[Array, "levels d"],
        predict: Callable[[Float[Array, "b q d"]], Prediction],
    ) -> list[Prediction]:
        """Returns the predictions of all heads, one more than there are layers.

        Args:
            memories: maps to attend to, one per level; the layers take them in turn.
            mask_features: of the sizes of the memories.
            queries: what every image's queries begin as.
            positions: what is added to queries that attend.
            level_embeds: what is added to each memory.
            predict: the head, called with normalised queries.
        """
        keys, values, features = [], [], []
        for memory, masks, level in zip(memories, mask_features, level_embeds, strict=True):
            b, i, j, d = memory.shape
            memory = memory + level.reshape(1, 1, 1, d)
            values.append(memory.reshape(b, i * j, d))
            keys.append(add_sine_positions(memory).reshape(b, i * j, d))
            features.append(masks.reshape(b, i * j, d))

        def attended(layer, x, keys, values, positions, blocked):
            return layer(x, keys, values, positions=positions, blocked=blocked)

        def run(keys, values, features):
            at = positions[None]
            x = jnp.broadcast_to(queries[None], (keys[0].shape[0], *queries.shape))
            predictions = [predict(self.post_norm(x))]
            for i, layer in enumerate(self.layers):
                level = i % len(keys)
                blocked = _blocked(predictions[-1].mask_embeds, features[level])
                x = recomputed(attended, layer, x, keys[level], values[level], at, blocked)
                predictions.append(predict(self.post_norm(x)))
            return predictions

        if spatial.parts() == 1:
            return run(keys, values, features)
        # Each device holds the positions of its own rows, and all queries.
        return spatial.each_part(
            run,
            *(keys, values, features),
            in_specs=(spatial.ROWS,) * 3,
            out_specs=spatial.ALL_ROWS,
        )


def _blocked(
    mask_embeds: Float[Array, "b q d"], features: Float[Array, "b n d"]
) -> Bool[Array, "b q n"]:
    """Returns True where a query must not attend: at positions outside of its mask so far.

    A query whose mask is empty attends everywhere. No gradient flows through this.
    """
    mask_embeds, features = jax.lax.stop_gradient((mask_embeds, features))
    logits = jnp.einsum(
        "bqe,bne->bqn", mask_embeds, features, preferred_element_type=widened(features.dtype)
    )
    blocked = logits < 0
    empty = spatial.all_over_parts(blocked.all(-1, keepdims=True))
    return blocked & ~empty


class LayerNorm(nnx.LayerNorm):
    """torch's LayerNorm, in float32 and returned in the dtype of its input."""

    def __init__(self, features: int, *, epsilon: float = 1e-5, rngs: nnx.Rngs):
        # The fast variance, E[x²] - E[x]², would lose digits to cancellation.
        super().__init__(features, epsilon=epsilon, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return super().__call__(x).astype(x.dtype)
