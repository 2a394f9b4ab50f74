"""The coordinate decoder: the class of any pixel, from its surroundings and four tokens.

Source: Curti, Zama Ramirez, Petrelli and Di Stefano, "CoordFormer: Give Me Any Coordinates and I
Will Give You Labels" (arXiv 2609.08660). Where the paper leaves something open, `# Paper:` says
what was chosen here. The choices give 29.92 million parameters with DINOv3 S+ and 90.38 million
with DINOv3 B, as published. As the paper computes it, a coordinate takes 1.96 million
multiplications, of which it says 0.002 G. 1.18 million of those are the keys and values of four
samples. Here the keys and values of all tokens are computed once, and samples are mixtures of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from massformer_jax.models.layers import BatchNorm, torch_uniform
from massformer_jax.models.transformer_decoder import LayerNorm
from massformer_jax.ops.local_attention import fourier_features, local_attention

PATCH = 8  # side of the surroundings that a coordinate sees in full resolution
FREQUENCIES = 10  # of each of x and y


class Memory(NamedTuple):
    """What is kept of an image: the keys and values of its tokens, for each head."""

    keys: Float[Array, "b h w n e"]
    values: Float[Array, "b h w n e"]


class CoordinateDecoder(nnx.Module):
    """Answers for coordinates of images whose maps are given.

    Args:
        maps: widths of the maps that describe an image: of a ViT four times the width of a token.
        features: width of the decoder; the maps' number divides it.
        heads: of the attention; they divide `features`.
        hidden: width between the two layers of the head.
        classes: K.
    """

    def __init__(
        self,
        maps: Sequence[int],
        *,
        features: int,
        heads: int,
        hidden: int,
        classes: int,
        rngs: nnx.Rngs,
    ):
        if features % len(maps) or features % heads:
            raise ValueError(
                f"{features} features do not divide into {len(maps)} maps and {heads} heads"
            )
        self.heads = heads
        of_map = features // len(maps)
        self.token_proj = nnx.List([_linear(width, of_map, rngs) for width in maps])
        self.patch_embed = _linear(PATCH * PATCH * 3, features, rngs)
        # Paper: it has "linear and ReLU layers", of no number: two.
        self.query_proj = nnx.List(
            [
                _linear(features + 4 * FREQUENCIES, features, rngs),
                _linear(features, features, rngs),
            ]
        )
        # Paper: norms are not mentioned. These three make the published number of parameters, with
        # both encoders, and tokens of any encoder alike.
        self.token_norm = LayerNorm(features, rngs=rngs)
        self.query_norm = LayerNorm(features, rngs=rngs)
        self.head_norm = LayerNorm(features, rngs=rngs)
        self.q_proj = _linear(features, features, rngs)
        self.k_proj = _linear(features, features, rngs)
        self.v_proj = _linear(features, features, rngs)
        self.o_proj = _linear(features, features, rngs)
        # Paper: the head is "a small MLP with BatchNorm". One hidden layer, of two thirds of the
        # width, fits the published number.
        self.hidden = _linear(features, hidden, rngs)
        self.bn = BatchNorm(hidden, rngs=rngs)
        self.classify = _linear(hidden, classes, rngs)

    def memory(self, maps: Sequence[Float[Array, "b h w _"]]) -> Memory:
        """Returns what answers need of an image.

        Args:
            maps: of one size, of the widths that the decoder was made for.
        """
        parts = [project(x) for project, x in zip(self.token_proj, maps, strict=True)]
        tokens = self.token_norm(jnp.concatenate(parts, -1))
        split = (*tokens.shape[:-1], self.heads, tokens.shape[-1] // self.heads)
        return Memory(self.k_proj(tokens).reshape(split), self.v_proj(tokens).reshape(split))

    def __call__(
        self,
        memory: Memory,
        patches: Float[Array, "b p 8 8 3"],
        places: Float[Array, "b p 2"],
    ) -> Float[Array, "b p k"]:
        """Returns class logits of coordinates.

        Args:
            memory: of the images.
            patches: the pixels whose upper left is the coordinate, see
                `massformer_jax.data.coordinates.patches`, normalised.
            places: (x, y) of the coordinates in 0..1, float32 or wider, see
                `massformer_jax.data.coordinates.places`.
        """
        b, p = patches.shape[:2]
        seen = self.patch_embed(patches.reshape(b, p, -1))
        # In the places' own dtype: the highest frequency turns 256 times across the image.
        where = fourier_features(places, FREQUENCIES).astype(seen.dtype)
        x = jnp.concatenate([seen, where], -1)
        for layer in self.query_proj:
            x = jax.nn.relu(layer(x))
        queries = self.q_proj(self.query_norm(x)).reshape(b, p, self.heads, -1)
        found = local_attention(queries, *memory, places).reshape(b, p, -1)
        # Paper: a residual is not mentioned. Without one the surroundings would only choose among
        # four tokens.
        x = self.head_norm(x + self.o_proj(found))
        x = self.bn(self.hidden(x)[:, :, None])[:, :, 0]
        return self.classify(jax.nn.relu(x))


def _linear(features_in: int, features_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(features_in, features_out, kernel_init=torch_uniform, rngs=rngs)
