"""MaSSFormer: encoder, pixel decoder, transformer decoder, and the class scores of an image.

Source: Xie et al., "MaSS13K: A Matting-level Semantic Segmentation Benchmark" (CVPR 2025), and the
released `MaSSFormerHead`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from massformer_jax.models.layers import torch_uniform
from massformer_jax.models.pixel_decoder import PixelDecoder
from massformer_jax.models.resnet import ResNet
from massformer_jax.models.transformer_decoder import TransformerDecoder
from massformer_jax.ops.positions import sine_positions
from massformer_jax.ops.resize import resize_bilinear

STRIDE = 256  # sides of an input are multiples of this: windows of 16 on the map at 1/16

# RGB in 0..255: what the ImageNet encoders were trained with, and the release after them.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def normalize(images: UInt8[Array, "*b 3"]) -> Float[Array, "*b 3"]:
    """RGB in 0..255 to the network's input."""
    images = images.astype(jnp.result_type(float))  # float64 under jax_enable_x64
    shape = (1,) * (images.ndim - 1) + (3,)
    mean = jnp.array(MEAN, images.dtype).reshape(shape)
    return (images - mean) / jnp.array(STD, images.dtype).reshape(shape)


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
        _, h, w, d = features.shape
        quarter = resize_bilinear(features, (h // 2, w // 2))

        memories, positions, level_features = [], [], []
        levels = zip(decoded.memories, self.level_embed.embedding[...], strict=True)
        for memory, level in levels:
            b, i, j, _ = memory.shape
            memories.append(memory.reshape(b, i * j, d) + level.reshape(1, 1, d))
            positions.append(sine_positions(i, j, d, memory.dtype).reshape(1, i * j, d))
            # Mask logits are linear in the features: resizing these once replaces resizing the
            # mask logits of all queries before each layer.
            level_features.append(resize_bilinear(quarter, (i, j)).reshape(b, i * j, d))

        query_positions = self.query_embed.embedding[...][None]
        queries = self.query_feat.embedding[...][None]
        queries = jnp.broadcast_to(queries, (images.shape[0], *queries.shape[1:]))
        heads = [self._head(queries)]
        for i, layer in enumerate(self.transformer_decoder.layers):
            level = i % len(memories)
            queries = layer(
                queries,
                memories[level],
                query_positions=query_positions,
                key_positions=positions[level],
                closed=_closed(heads[-1][1], level_features[level]),
            )
            heads.append(self._head(queries))
        class_logits, mask_embeds = (jnp.stack(x) for x in zip(*heads, strict=True))
        return Outputs(class_logits, mask_embeds, features, decoded.edge_logits)

    def _head(
        self, queries: Float[Array, "b q d"]
    ) -> tuple[Float[Array, "b q k1"], Float[Array, "b q e"]]:
        """Class logits and mask embedding of every query."""
        x = self.transformer_decoder.post_norm(queries)
        first, second, third = self.mask_embed
        return self.cls_embed(x), third(jax.nn.relu(second(jax.nn.relu(first(x)))))


def _closed(
    mask_embeds: Float[Array, "b q e"], features: Float[Array, "b n e"]
) -> Bool[Array, "b q n"]:
    """The positions each query must not attend to: outside its mask so far.

    A query whose mask is empty attends everywhere. No gradient flows through it.
    """
    logits = jax.lax.stop_gradient(jnp.einsum("bqe,bne->bqn", mask_embeds, features))
    closed = logits < 0
    return closed & ~closed.all(-1, keepdims=True)


def mask_logits(outputs: Outputs, head: int) -> Float[Array, "b h w q"]:
    """Mask logits of one head for every query: at 1/2 for the last head, at 1/4 for the others."""
    features = outputs.mask_features
    if head % len(outputs.mask_embeds) != len(outputs.mask_embeds) - 1:
        features = resize_bilinear(features, (features.shape[1] // 2, features.shape[2] // 2))
    return jnp.einsum("bhwe,bqe->bhwq", features, outputs.mask_embeds[head])


def class_scores(outputs: Outputs, *, rows: int = 64) -> Float[Array, "b h w k"]:
    """Class scores at the size of the input: Σ_q softmax(class)[q, c] · sigmoid(mask)[q].

    Computed in strips of `rows` rows of mask features (2 · rows of the image), so that the masks of
    all queries, 5 GB at 12 megapixels, never exist at once.
    """
    features = outputs.mask_features
    b, h, w, _ = features.shape
    rows = next(r for r in range(min(rows, h), 0, -1) if h % r == 0)
    classes = jax.nn.softmax(outputs.class_logits[-1], -1)[..., :-1]
    embeds = outputs.mask_embeds[-1]
    # One row of context on either side makes bilinear doubling of a strip exact; at the border of
    # the map the repeated row does what the clamped coordinate does.
    padded = jnp.pad(features, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")

    def strip(start):
        part = jax.lax.dynamic_slice_in_dim(padded, start, rows + 2, 1)
        logits = jnp.einsum("bhwe,bqe->bhwq", part, embeds)
        logits = resize_bilinear(logits, (2 * (rows + 2), 2 * w))[:, 2:-2]
        return jnp.einsum("bhwq,bqk->bhwk", jax.nn.sigmoid(logits), classes)

    strips = jax.lax.map(strip, jnp.arange(0, h, rows))
    return jnp.moveaxis(strips, 0, 1).reshape(b, 2 * h, 2 * w, -1)
