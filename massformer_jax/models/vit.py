"""Vision transformers that see a whole photograph: DINOv2 with registers, and DINOv3.

Sources: Darcet et al., "Vision Transformers Need Registers" (ICLR 2024), whose weights are those of
DINOv2 with registers; Siméoni et al., "DINOv3" (2025). Both are in `transformers`, with which
tests/models/vit_test.py compares every block.
"""

import operator
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from massformer_jax.models.recomputation import recomputed
from massformer_jax.models.transformer_decoder import LayerNorm
from massformer_jax.ops.attention import attend
from massformer_jax.ops.precision import widened

_SMALL = {"features": 384, "heads": 6, "hidden": 1536}
_BASE = {"features": 768, "heads": 12, "hidden": 3072}
_DINOV2 = {"patch": 14, "blocks": 12, "gated": False, "grid": 37}  # trained at 518x518 pixels
_DINOV3 = {"patch": 16, "blocks": 12, "gated": False, "grid": None}

# Keyword arguments of `ViT`.
ENCODERS = {
    "dinov2_s14": {**_DINOV2, **_SMALL},
    "dinov2_b14": {**_DINOV2, **_BASE},
    "dinov3_s16": {**_DINOV3, **_SMALL},
    "dinov3_splus16": {**_DINOV3, **_SMALL, "gated": True},
    "dinov3_b16": {**_DINOV3, **_BASE},
}

_trunc_normal = jax.nn.initializers.truncated_normal(0.02)


class ViT(nnx.Module):
    """The encoder: tokens of patches, which attend to each other in a stack of blocks.

    One class token and the registers stand before the tokens of the patches; they are seen by the
    patches and not returned.

    Args:
        patch: side of a patch in pixels, 14 or 16.
        features: width of a token.
        blocks: how many, at least 4.
        heads: of attention; they divide `features`.
        hidden: width between the layers of the feed-forward networks.
        gated: whether these are SwiGLU, as in DINOv3 S+, or have GELU.
        grid: side of the learned map of positions (DINOv2), which is resized to the input's; None
            for rotary positions (DINOv3), whose keys have no bias.
        registers: how many.
    """

    def __init__(
        self,
        *,
        patch: int,
        features: int,
        blocks: int,
        heads: int,
        hidden: int,
        gated: bool,
        grid: int | None,
        registers: int = 4,
        rngs: nnx.Rngs,
    ):
        self.patch, self.features, self.grid = patch, features, grid
        self.widths = (features,) * 4  # of the maps that it returns
        self.head_features = features // heads
        learned = grid is not None
        epsilon = 1e-6 if learned else 1e-5
        self.patch_embeddings = PatchEmbedding(patch, features, rngs=rngs)
        self.cls_token = nnx.Param(_trunc_normal(rngs.params(), (1, 1, features)))
        self.register_tokens = nnx.Param(_trunc_normal(rngs.params(), (1, registers, features)))
        self.position_embeddings = (
            nnx.Param(_trunc_normal(rngs.params(), (1, 1 + grid * grid, features)))
            if learned
            else None
        )
        self.layer = nnx.List(
            [
                Block(
                    features,
                    heads,
                    hidden,
                    gated=gated,
                    key_bias=learned,
                    epsilon=epsilon,
                    rngs=rngs,
                )
                for _ in range(blocks)
            ]
        )
        self.norm = LayerNorm(features, epsilon=epsilon, rngs=rngs)

    def __call__(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b i j c"]]:
        """Returns four maps of tokens, one for each patch, from evenly spaced blocks.

        Of 12 blocks they are those after blocks 3, 6, 9 and 12.

        Args:
            images: normalised, see `massformer.normalize`.

        Raises:
            ValueError: a side is no multiple of the patch.
        """
        count = len(self.layer)
        after = [count * (i + 1) // 4 for i in range(4)]
        size = images.shape[1] // self.patch, images.shape[2] // self.patch
        maps = []
        for i, tokens in enumerate(self.steps(images)):
            if i + 1 in after:
                # Paper: whether tokens are normalised is not said. They are here, all by the last
                # norm, as the authors of the encoders do it where they return several blocks.
                patches = self.norm(tokens)[:, tokens.shape[1] - size[0] * size[1] :]
                maps.append(patches.reshape(len(images), *size, self.features))
        return maps

    def steps(self, images: Float[Array, "b h w 3"]) -> Iterator[Float[Array, "b n c"]]:
        """Yields all tokens after each block: class token, registers, patches row by row."""
        _, height, width, _ = images.shape
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"an image of {width}x{height} pixels has no whole patches of {self.patch}"
            )
        size = height // self.patch, width // self.patch
        tokens = self._embedded(images, size)
        turns = None if self.grid is not None else _turns(size, self.head_features)
        for block in self.layer:
            tokens = recomputed(operator.call, block, tokens, turns)
            yield tokens

    def _embedded(self, images: Array, size: tuple[int, int]) -> Array:
        """Returns the tokens before the first block."""
        tokens = self.patch_embeddings(images)
        b, _, c = tokens.shape
        first = self.cls_token[...]
        if self.position_embeddings is not None:
            positions = self.position_embeddings[...]
            of_first, of_patches = positions[:, :1], positions[:, 1:]
            if size != (self.grid, self.grid):
                of_patches = of_patches.reshape(1, self.grid, self.grid, c)
                # torch's antialiased bicubic interpolation has the same kernel.
                wide = of_patches.astype(widened(of_patches.dtype))
                wide = jax.image.resize(wide, (1, *size, c), "bicubic", antialias=True)
                of_patches = wide.astype(of_patches.dtype).reshape(1, size[0] * size[1], c)
            first, tokens = first + of_first, tokens + of_patches
        before = jnp.concatenate([first, self.register_tokens[...]], 1)
        return jnp.concatenate([jnp.broadcast_to(before, (b, *before.shape[1:])), tokens], 1)


class PatchEmbedding(nnx.Module):
    """A linear map of each patch, whose kernel is that of a convolution [p p 3 c]."""

    def __init__(self, patch: int, features: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_trunc_normal(rngs.params(), (patch, patch, 3, features)))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        kernel = self.kernel[...]
        p, _, _, features = kernel.shape
        b, h, w, _ = images.shape
        patches = images.reshape(b, h // p, p, w // p, p, 3).swapaxes(2, 3)
        patches = patches.reshape(b, (h // p) * (w // p), p * p * 3)
        return patches @ kernel.reshape(-1, features) + self.bias[...].reshape(1, 1, -1)


class Block(nnx.Module):
    """Attention and a feed-forward network, each after a norm, scaled and with a residual.

    Args:
        features: width of a token.
        heads: of attention.
        hidden: width between the layers of the feed-forward network.
        gated: whether that is SwiGLU.
        key_bias: whether the projection of keys has a bias.
        epsilon: of the norms.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        hidden: int,
        *,
        gated: bool,
        key_bias: bool,
        epsilon: float,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(features, epsilon=epsilon, rngs=rngs)
        self.attention = SelfAttention(features, heads, key_bias=key_bias, rngs=rngs)
        # Paper: what an encoder from scratch begins with is not said. DINOv2 and DINOv3 began with
        # 1e-5, which belongs to far longer training; weights that are read replace this 1.
        self.layer_scale1 = nnx.Param(jnp.ones(features))
        self.norm2 = LayerNorm(features, epsilon=epsilon, rngs=rngs)
        self.mlp = MLP(features, hidden, gated=gated, rngs=rngs)
        self.layer_scale2 = nnx.Param(jnp.ones(features))

    def __call__(
        self, x: Float[Array, "b n c"], turns: tuple[Array, Array] | None
    ) -> Float[Array, "b n c"]:
        """Returns the tokens after the block; `turns` as in `SelfAttention`."""
        x = x + self.attention(self.norm1(x), turns) * self.layer_scale1[...].reshape(1, 1, -1)
        return x + self.mlp(self.norm2(x)) * self.layer_scale2[...].reshape(1, 1, -1)


class SelfAttention(nnx.Module):
    """Multi-head attention of tokens to each other."""

    def __init__(self, features: int, heads: int, *, key_bias: bool, rngs: nnx.Rngs):
        if features % heads:
            raise ValueError(f"{features} features do not divide into {heads} heads")
        self.heads = heads
        self.q_proj = _linear(features, features, rngs=rngs)
        self.k_proj = _linear(features, features, bias=key_bias, rngs=rngs)
        self.v_proj = _linear(features, features, rngs=rngs)
        self.o_proj = _linear(features, features, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n c"], turns: tuple[Array, Array] | None
    ) -> Float[Array, "b n c"]:
        """Returns what each token finds.

        Args:
            x: the tokens.
            turns: cosines and sines [p e] by which the last p tokens are turned, or None.
        """
        q, k, v = (
            project(x).reshape(*x.shape[:-1], self.heads, -1)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if turns is not None:
            q, k = _turned(q, turns), _turned(k, turns)
        return self.o_proj(attend(q, k, v).reshape(x.shape))


class MLP(nnx.Module):
    """The feed-forward network: GELU between two layers, or SwiGLU."""

    def __init__(self, features: int, hidden: int, *, gated: bool, rngs: nnx.Rngs):
        self.up_proj = _linear(features, hidden, rngs=rngs)
        self.gate_proj = _linear(features, hidden, rngs=rngs) if gated else None
        self.down_proj = _linear(hidden, features, rngs=rngs)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        up = self.up_proj(x)
        if self.gate_proj is None:
            return self.down_proj(jax.nn.gelu(up, approximate=False))
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * up)


def _linear(features_in: int, features_out: int, *, bias: bool = True, rngs: nnx.Rngs):
    return nnx.Linear(
        features_in, features_out, use_bias=bias, kernel_init=_trunc_normal, rngs=rngs
    )


def _turns(size: tuple[int, int], features: int) -> tuple[Array, Array]:
    """Returns cosines and sines [h·w e] of the rotary positions of a map, float32.

    Centres of patches run from -1 to 1 along both sides, whatever their lengths. The first quarter
    of the features is turned by the row, the second by the column, and the other half likewise.
    """
    frequency = 2 * np.pi / 100.0 ** (np.arange(features // 4) * 4 / features)

    def angles(n: int) -> Array:
        centres = (2 * np.arange(n) + 1) / n - 1
        return jnp.asarray(centres[:, None] * frequency, jnp.float32)

    # Two small tables and a broadcast: the map itself is never a constant of the program.
    h, w = size
    shape = (h, w, frequency.size)
    rows = jnp.broadcast_to(angles(h)[:, None], shape)
    columns = jnp.broadcast_to(angles(w)[None], shape)
    angle = jnp.concatenate([rows, columns] * 2, -1).reshape(h * w, 4 * frequency.size)
    return jnp.cos(angle), jnp.sin(angle)


def _turned(x: Float[Array, "b n h e"], turns: tuple[Array, Array]) -> Float[Array, "b n h e"]:
    """Turns the last tokens, those of the patches, by their positions."""
    dtype = widened(x.dtype)
    cos, sin = (turn.astype(dtype)[None, :, None] for turn in turns)
    first = x.shape[1] - cos.shape[1]
    patches = x[:, first:].astype(dtype)
    near, far = jnp.split(patches, 2, -1)
    turned = patches * cos + jnp.concatenate([-far, near], -1) * sin
    return jnp.concatenate([x[:, :first], turned.astype(x.dtype)], 1)
