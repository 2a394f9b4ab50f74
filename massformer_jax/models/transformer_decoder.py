"""Mask2Former's transformer decoder: masked cross attention, self attention, feed-forward.

Source: Cheng et al., "Masked-attention Mask Transformer" (CVPR 2022); mmdet's
`Mask2FormerTransformerDecoder`.
"""

import functools

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float

from massformer_jax.models.attention import FFN, Attention


class DecoderLayer(nnx.Module):
    """One layer: every step is residual and followed by LayerNorm."""

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs):
        xavier = jax.nn.initializers.xavier_normal()
        gelu = functools.partial(jax.nn.gelu, approximate=False)
        self.cross_attn = Attention(features, 8, kernel_init=xavier, rngs=rngs)
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
        closed: Bool[Array, "b q n"],
        axis: str | None = None,
    ) -> Float[Array, "b q d"]:
        """Queries with `positions` of their own attend to keys, which have theirs, and values.

        `closed` marks the keys outside a query's mask so far; `axis` is as in `Attention`.
        """
        after_cross, after_self, after_ffn = self.norms
        crossed = self.cross_attn(
            queries + positions, keys, values, residual=queries, closed=closed, axis=axis
        )
        queries = after_cross(crossed)
        placed = queries + positions
        queries = after_self(self.self_attn(placed, placed, queries, residual=queries))
        return after_ffn(self.ffn(queries))


class TransformerDecoder(nnx.Module):
    """The layers and the LayerNorm in front of every head.

    Args:
        features: width of queries and memories.
        hidden: width of the feed-forward networks.
        layers: how many.
    """

    def __init__(self, features: int, hidden: int, layers: int, *, rngs: nnx.Rngs):
        self.layers = nnx.List([DecoderLayer(features, hidden, rngs=rngs) for _ in range(layers)])
        self.post_norm = LayerNorm(features, rngs=rngs)


class LayerNorm(nnx.LayerNorm):
    """torch's LayerNorm, in float32 and returned in the dtype of its input."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        # The fast variance, E[x²] - E[x]², would lose digits to cancellation.
        super().__init__(features, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return super().__call__(x).astype(x.dtype)
