"""MaSSFormer: encoder, pixel decoder, transformer decoder, and the class scores of an image.

Source: Xie et al., "MaSS13K: A Matting-level Semantic Segmentation Benchmark" (CVPR 2025), and the
released `MaSSFormerHead`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from massformer_jax.models.layers import torch_uniform
from massformer_jax.models.pixel_decoder import PixelDecoder, reduced
from massformer_jax.models.resnet import ResNet
from massformer_jax.models.transformer_decoder import Prediction, TransformerDecoder
from massformer_jax.ops.precision import widened
from massformer_jax.ops.resize import doubled, interleaved
from massformer_jax.ops.rows import Rows, around, doubled_rows, take_rows, take_rows_or_last
from massformer_jax.parallel import spatial

STRIDE = 256  # sides of an input are multiples of this: windows of 16 on the map at 1/16

# RGB in 0..255: what the ImageNet encoders were trained with, and the release after them.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def normalize(images: Real[Array, "*b 3"], dtype: DTypeLike | None = None) -> Float[Array, "*b 3"]:
    """Returns the network's input, float32 or `dtype`, from RGB in 0..255."""
    images = images.astype(jnp.result_type(float))  # float64 under jax_enable_x64
    shape = (1,) * (images.ndim - 1) + (3,)
    mean = jnp.array(MEAN, images.dtype).reshape(shape)
    return ((images - mean) / jnp.array(STD, images.dtype).reshape(shape)).astype(dtype)


class Outputs(NamedTuple):
    """What the network returns for training.

    Mask logits are never formed for all queries and heads: those of head i are the product of
    `mask_embeds[i]` and a map of mask features. For the last head that map is `mask_features` (at
    1/2), for all others its bilinear half (at 1/4).
    """

    class_logits: Float[Array, "heads b q k1"]  # heads = layers + 1; the last class is "no object"
    mask_embeds: Float[Array, "heads b q e"]
    mask_features: Float[Array, "b h2 w2 e"]  # at 1/2
    edge_logits: Float[Array, "b h2 w2 1"]  # at 1/2


class Proposals(NamedTuple):
    """What the network says of an image before any mask is formed: see `MaSSFormer.scores`."""

    class_logits: Float[Array, "b q k1"]  # of the last head
    mask_embeds: Float[Array, "b q e"]  # likewise
    fused: Float[Array, "b h2 w2 d"]  # at 1/2; mask features are a projection of it


class MaSSFormer(nnx.Module):
    """The network: encoder, pixel decoder, transformer decoder, heads.

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
        """Returns what the losses need.

        Args:
            images: normalised, see `normalize`.

        Raises:
            ValueError: a side is no multiple of 256 (at a lower level).
        """
        decoded = self.pixel_decoder(images, self.backbone(images))
        features = decoded.mask_features
        predictions = self._predictions(decoded.memories, reduced(features, (16, 8, 4)))
        class_logits, mask_embeds = (jnp.stack(x) for x in zip(*predictions, strict=True))
        return Outputs(class_logits, mask_embeds, features, decoded.edge_logits)

    def in_strips(self, images: Float[Array, "b h w 3"], count: int) -> Proposals:
        """Returns what `scores` needs; inference only.

        Args:
            images: normalised.
            count: rows of a strip; maps at 1/2 are computed in strips. The answers are those of
                `__call__`, whatever `count` is.
        """
        images = spatial.by_rows(images)
        maps = [spatial.by_rows(x) for x in self.backbone(images)]
        fused, levels, memories = self.pixel_decoder.in_strips(images, maps, count)
        return Proposals(*self._predictions(memories, levels)[-1], fused)

    def scores(self, proposals: Proposals, rows: Rows) -> Float[Array, "b i j k"]:
        """Returns class scores of some rows: Σ_q softmax(class)[q, c] · sigmoid(mask)[q].

        Scores are float32 (or wider), at least 0, and not normalised over the classes. The masks of
        all queries, 5 GB at 12 megapixels, exist for these rows only.

        Args:
            proposals: of `in_strips`.
            rows: of `proposals.fused`, at 1/2; the scores have twice as many.
        """
        # One row on either side makes bilinear doubling exact.
        window = around(rows, 1, proposals.fused.shape[1])
        features = self.pixel_decoder.mask_features(take_rows(proposals.fused, window))
        dtype = widened(features.dtype)
        logits = jnp.einsum(
            "bhwe,bqe->bhwq", features, proposals.mask_embeds, preferred_element_type=dtype
        )
        # In the dtype of the features: at 12 megapixels this is what most bytes go through.
        classes = jax.nn.softmax(proposals.class_logits.astype(dtype), -1)[..., :-1]
        classes = classes.astype(features.dtype)

        def class_scores(logits):
            masks = jax.nn.sigmoid(logits).astype(features.dtype)
            return jnp.einsum("bhwq,bqk->bhwk", masks, classes, preferred_element_type=dtype)

        asked = Rows(rows.start - window.start - 1, rows.count + 2)

        def scores_by_row(columns):
            return [class_scores(x) for x in doubled_rows(take_rows_or_last(columns, asked))]

        # The logits at twice the size, 100 for each pixel, never lie side by side: each of their
        # four phases becomes class scores, and these are put together. Columns are doubled first:
        # with rows first a CPU takes twice as long. Odd columns wait for the even ones: what a TPU
        # would share between them costs it more than it saves (docs/performance.md, docs/pods.md).
        even = scores_by_row(doubled(logits, 2)[0])
        logits, even = jax.lax.optimization_barrier((logits, even))
        odd = scores_by_row(doubled(logits, 2)[1])
        scores = jnp.stack([interleaved(*row) for row in zip(even, odd, strict=True)], 2)
        b, h, _, w, k = scores.shape
        return scores.reshape(b, 2 * h, w, k)

    def _predictions(
        self,
        memories: tuple[Float[Array, "b _ _ d"], ...],
        mask_features: tuple[Float[Array, "b _ _ d"], ...],
    ) -> list[Prediction]:
        return self.transformer_decoder(
            memories,
            mask_features,
            queries=self.query_feat.embedding[...],
            positions=self.query_embed.embedding[...],
            level_embeds=self.level_embed.embedding[...],
            predict=self._predict,
        )

    def _predict(self, queries: Float[Array, "b q d"]) -> Prediction:
        first, second, third = self.mask_embed
        mask_embeds = third(jax.nn.relu(second(jax.nn.relu(first(queries)))))
        return Prediction(self.cls_embed(queries), mask_embeds)
