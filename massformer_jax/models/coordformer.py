"""CoordFormer: an encoder that sees the whole photograph, and the coordinate decoder.

The encoder is a vision transformer, as published, or the part of a MaSSFormer up to its map at 1/8
or 1/4, which is ours.

Source: Curti, Zama Ramirez, Petrelli and Di Stefano, "CoordFormer: Give Me Any Coordinates and I
Will Give You Labels" (arXiv 2609.08660).
"""

import operator
from collections.abc import Mapping
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from massformer_jax.models.coordinate_decoder import CoordinateDecoder, Memory
from massformer_jax.models.pixel_decoder import CoarseDecoder
from massformer_jax.models.recomputation import recomputed
from massformer_jax.models.resnet import ResNet
from massformer_jax.models.vit import ViT

SIDE = 2048  # of the square to which photographs are squeezed; for patches of 14 it is 2044


MAPS = ("d3", "body")  # that `CoarseMaps` can return


def has_coarse_maps(encoder: Mapping[str, Any]) -> bool:
    """Tells whether keyword arguments of an encoder are those of `CoarseMaps`, and not of `ViT`."""
    return "encoder_depth" in encoder


class CoarseMaps(nnx.Module):
    """The part of a MaSSFormer that looks at the whole image, under its names, as an encoder.

    The first of the projections and the last of the SEBs are there and not used, since a
    MaSSFormer has them; and if the map is d3, what upsamples it.

    Args:
        encoder_depth: 18 or 50, the ResNet.
        decoder_width: D.
        map: "d3", at 1/8 of the image, or "body", at 1/4.
    """

    def __init__(self, *, encoder_depth: int, decoder_width: int, map: str, rngs: nnx.Rngs):
        self.backbone = ResNet(encoder_depth, rngs=rngs)
        self.pixel_decoder = CoarseDecoder(self.backbone.features, decoder_width, rngs=rngs)
        self.map = map
        self.widths = (decoder_width,)

    def __call__(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b i j d"]]:
        """Returns the map alone.

        Args:
            images: normalised; their sides are multiples of 256.
        """
        return [getattr(self.pixel_decoder.coarse(self.backbone(images)), self.map)]


class CoordFormer(nnx.Module):
    """The network.

    Args:
        encoder: keyword arguments of `ViT` or of `CoarseMaps`.
        decoder_width: of the decoder (384 for S encoders, 768 for B).
        heads: of its attention; they divide the width.
        head_width: between the two layers of the head (256; 512).
        classes: K.
        side: of the square to which photographs are squeezed, a multiple of the encoder's patch.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        decoder_width: int,
        heads: int,
        head_width: int,
        classes: int,
        side: int = SIDE,
        rngs: nnx.Rngs,
    ):
        self.side = side
        self.backbone = (CoarseMaps if has_coarse_maps(encoder) else ViT)(**encoder, rngs=rngs)
        self.decoder = CoordinateDecoder(
            self.backbone.widths,
            features=decoder_width,
            heads=heads,
            hidden=head_width,
            classes=classes,
            rngs=rngs,
        )

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        patches: Float[Array, "b p 8 8 3"],
        places: Float[Array, "b p 2"],
    ) -> Float[Array, "b p k"]:
        """Returns class logits at coordinates, for training: see `CoordinateDecoder`.

        Args:
            images: whole photographs, squeezed to squares of `side` and normalised.
            patches: of the photographs themselves, normalised.
            places: of the coordinates.
        """
        return recomputed(operator.call, self.decoder, self.memory(images), patches, places)

    def memory(self, images: Float[Array, "b h w 3"]) -> Memory:
        """Returns what is asked later: see `CoordinateDecoder.memory`."""
        return self.decoder.memory(self.backbone(images))
