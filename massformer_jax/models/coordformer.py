"""CoordFormer: a vision transformer that sees the whole photograph, and the coordinate decoder.

Source: Curti, Zama Ramirez, Petrelli and Di Stefano, "CoordFormer: Give Me Any Coordinates and I
Will Give You Labels" (arXiv 2609.08660).
"""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from massformer_jax.models.coordinate_decoder import CoordinateDecoder, Memory
from massformer_jax.models.vit import ViT

SIDE = 2048  # of the square to which photographs are squeezed; for patches of 14 it is 2044


class CoordFormer(nnx.Module):
    """The network.

    Args:
        encoder: keyword arguments of `ViT`.
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
        self.backbone = ViT(**encoder, rngs=rngs)
        self.decoder = CoordinateDecoder(
            [self.backbone.features] * 4,
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
        return self.decoder(self.memory(images), patches, places)

    def memory(self, images: Float[Array, "b h w 3"]) -> Memory:
        """Returns what is asked later: see `CoordinateDecoder.memory`."""
        return self.decoder.memory(self.backbone(images))
