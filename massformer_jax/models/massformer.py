"""MaSSFormer: encoder, pixel decoder, transformer decoder, and the class scores of an image.

Source: Xie et al., "MaSS13K: A Matting-level Semantic Segmentation Benchmark" (CVPR 2025), and the
released `MaSSFormerHead`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8

from massformer_jax.models.layers import torch_uniform
from massformer_jax.models.pixel_decoder import PixelDecoder, reduced
from massformer_jax.models.resnet import ResNet
from massformer_jax.models.transformer_decoder import TransformerDecoder
from massformer_jax.ops import split
from massformer_jax.ops.points import widened
from massformer_jax.ops.positions import add_sine_positions
from massformer_jax.ops.resize import resize_bilinear
from massformer_jax.ops.rows import Rows, around, take_rows

STRIDE = 256  # sides of an input are multiples of this: windows of 16 on the map at 1/16

# RGB in 0..255: what the ImageNet encoders were trained with, and the release after them.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def normalize(images: UInt8[Array, "*b 3"], dtype: DTypeLike | None = None) -> Float[Array, "*b 3"]:
    """RGB in 0..255 to the network's input, float32 or `dtype`."""
    images = images.astype(jnp.result_type(float))  # float64 under jax_enable_x64
    shape = (1,) * (images.ndim - 1) + (3,)
    mean = jnp.array(MEAN, images.dtype).reshape(shape)
    return ((images - mean) / jnp.array(STD, images.dtype).reshape(shape)).astype(dtype)


class Outputs(NamedTuple):
    """What the network returns.

    Mask logits are never formed for all queries and heads: those of head i are the product of
    `mask_embeds[i]` and a map of mask features, which are `mask_features` themselves (at 1/2) for
    the last head and their bilinear halves (at 1/4) for all others.
    """

    class_logits: Float[Array, "heads b q k1"]  # heads = layers + 1; the last class is "no object"
    mask_embeds: Float[Array, "heads b q e"]
    mask_features: Float[Array, "b h2 w2 e"]  # at 1/2
    edge_logits: Float[Array, "b h2 w2 1"]  # at 1/2


class Masks(NamedTuple):
    """What the network returns in strips: see `MaSSFormer.scores`."""

    class_logits: Float[Array, "b q k1"]  # of the last head
    mask_embeds: Float[Array, "b q e"]
    fused: Float[Array, "b h2 w2 d"]  # at 1/2; mask features are a projection of it


class MaSSFormer(nnx.Module):
    """The whole network.

    Args:
        encoder_depth: 18 or 50, the ResNet.
        decoder_width: D, the width of the pixel decoder (released 128; Lite 64). Queries, memories
            and mask features have 2D channels.
        ffn_width: hidden width of the transformer's feed-forward networks (2048; Lite 1024).
        layers: transformer decoder layers (6).
        queries: mask proposals (100).
        classes: K, real classes (7).
    """

    def __init__(
        self,
        *,
        encoder_depth: int,
        decoder_width: int,
        ffn_width: int,
        layers: int,
        queries: int,
        classes: int,
        rngs: nnx.Rngs,
    ):
        width = 2 * decoder_width
        unit_normal = jax.nn.initializers.normal(1.0)
        self.backbone = ResNet(encoder_depth, rngs=rngs)
        self.pixel_decoder = PixelDecoder(self.backbone.features, decoder_width, rngs=rngs)
        self.transformer_decoder = TransformerDecoder(width, ffn_width, layers, rngs=rngs)
        self.query_embed = nnx.Embed(queries, width, embedding_init=unit_normal, rngs=rngs)
        self.query_feat = nnx.Embed(queries, width, embedding_init=unit_normal, rngs=rngs)
        self.level_embed = nnx.Embed(3, width, embedding_init=unit_normal, rngs=rngs)
        self.cls_embed = nnx.Linear(width, classes + 1, kernel_init=torch_uniform, rngs=rngs)
        self.mask_embed = nnx.List(
            [nnx.Linear(width, width, kernel_init=torch_uniform, rngs=rngs) for _ in range(3)]
        )

    def __call__(self, images: Float[Array, "b h w 3"]) -> Outputs:
        """`images` are normalised (see `normalize`).

        Raises:
            ValueError: a side is no multiple of 256 (at a lower level).
        """
        decoded = self.pixel_decoder(images, self.backbone(images))
        features = decoded.mask_features
        heads = self._heads(decoded.memories, reduced(features, (16, 8, 4)))
        class_logits, mask_embeds = (jnp.stack(x) for x in zip(*heads, strict=True))
        return Outputs(class_logits, mask_embeds, features, decoded.edge_logits)

    def in_strips(self, images: Float[Array, "b h w 3"], count: int) -> Masks:
        """What `scores` needs, with maps at 1/2 computed in strips of `count` rows; inference only.

        The answers are those of `__call__`, whatever `count` is.
        """
        images = split.by_rows(images)
        maps = [split.by_rows(x) for x in self.backbone(images)]
        fused, levels, memories = self.pixel_decoder.in_strips(images, maps, count)
        return Masks(*self._heads(memories, levels)[-1], fused)

    def scores(self, masks: Masks, rows: Rows) -> Float[Array, "b r w k"]:
        """Class scores of some rows (at 1/2): Σ_q softmax(class)[q, c] · sigmoid(mask)[q].

        Float32, at least 0, not normalised over the classes. The masks of all queries, 5 GB at 12
        megapixels, exist for these rows only.
        """
        # One row of context makes bilinear doubling exact.
        window = around(rows, 1, masks.fused.shape[1])
        features = self.pixel_decoder.mask_features(take_rows(masks.fused, window))
        dtype = widened(features.dtype)
        logits = jnp.einsum(
            "bhwe,bqe->bhwq", features, masks.mask_embeds, preferred_element_type=dtype
        )
        _, h, w, _ = logits.shape
        logits = resize_bilinear(logits, (2 * h, 2 * w))
        logits = take_rows(logits, Rows(2 * (rows.start - window.start), 2 * rows.count))
        classes = jax.nn.softmax(masks.class_logits.astype(dtype), -1)[..., :-1]
        # In the dtype of the features: at 12 megapixels this is what most bytes go through.
        masks, classes = (
            jax.nn.sigmoid(logits).astype(features.dtype),
            classes.astype(features.dtype),
        )
        return jnp.einsum("bhwq,bqk->bhwk", masks, classes, preferred_element_type=dtype)

    def _heads(
        self,
        memories: tuple[Float[Array, "b _ _ e"], ...],
        levels: tuple[Float[Array, "b _ _ e"], ...],
    ) -> list[tuple[Float[Array, "b q k1"], Float[Array, "b q e"]]]:
        """Class logits and mask embeddings before the first layer and after each.

        `levels` are the mask features at the sizes of the memories.
        """
        keys, values, level_features = [], [], []
        embeddings = self.level_embed.embedding[...]
        for memory, features, level in zip(memories, levels, embeddings, strict=True):
            b, i, j, d = memory.shape
            memory = memory + level.reshape(1, 1, 1, d)
            values.append(memory.reshape(b, i * j, d))
            keys.append(add_sine_positions(memory).reshape(b, i * j, d))
            level_features.append(features.reshape(b, i * j, d))

        if split.parts() == 1:
            return self._layers(keys, values, level_features)
        return split.each_part(
            functools.partial(self._layers, axis=split.SPATIAL),
            *(keys, values, level_features),
            in_specs=(split.ROWS,) * 3,
            out_specs=split.WHOLE,
        )

    def _layers(
        self,
        keys: list[Float[Array, "b _ e"]],
        values: list[Float[Array, "b _ e"]],
        features: list[Float[Array, "b _ e"]],
        axis: str | None = None,
    ) -> list[tuple[Float[Array, "b q k1"], Float[Array, "b q e"]]]:
        """See `_heads`; `axis` is that of the mesh whose devices hold different positions."""
        positions = self.query_embed.embedding[...][None]
        queries = self.query_feat.embedding[...][None]
        queries = jnp.broadcast_to(queries, (keys[0].shape[0], *queries.shape[1:]))
        heads = [self._head(queries)]
        for i, layer in enumerate(self.transformer_decoder.layers):
            level = i % len(keys)
            closed = _closed(heads[-1][1], features[level], axis)
            queries = layer(
                *(queries, keys[level], values[level]),
                positions=positions,
                closed=closed,
                axis=axis,
            )
            heads.append(self._head(queries))
        return heads

    def _head(
        self, queries: Float[Array, "b q d"]
    ) -> tuple[Float[Array, "b q k1"], Float[Array, "b q e"]]:
        """Class logits and mask embedding of every query."""
        x = self.transformer_decoder.post_norm(queries)
        first, second, third = self.mask_embed
        return self.cls_embed(x), third(jax.nn.relu(second(jax.nn.relu(first(x)))))


def _closed(
    mask_embeds: Float[Array, "b q e"], features: Float[Array, "b n e"], axis: str | None
) -> Bool[Array, "b q n"]:
    """The positions each query must not attend to: outside its mask so far.

    A query whose mask is empty attends everywhere. No gradient flows through it.
    """
    mask_embeds, features = jax.lax.stop_gradient((mask_embeds, features))
    logits = jnp.einsum(
        "bqe,bne->bqn", mask_embeds, features, preferred_element_type=widened(features.dtype)
    )
    closed = logits < 0
    empty = closed.all(-1, keepdims=True)
    if axis is not None:
        empty = jax.lax.pmin(empty.astype(jnp.int32), axis) > 0
    return closed & ~empty
