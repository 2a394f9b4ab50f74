"""The high-resolution pixel decoder (paper, section 4.2; released mass_decoder.py).

s2..s5 are the projected encoder maps at 1/4..1/32; d5, d4, d3 the decoded ones at 1/32, 1/16, 1/8.
D is the decoder's width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from massformer_jax.models.layers import (
    FFN,
    Attention,
    BatchNorm,
    ConvBNReLU,
    DeformLayer,
    UpsamplingDeformLayer,
    conv,
    torch_uniform,
)
from massformer_jax.ops.positions import sine_positions
from massformer_jax.ops.resize import resize_bilinear
from massformer_jax.ops.windows import from_windows, to_windows

WINDOW = 16  # positions of the 1/16 map: 256 pixels of the image


class Decoded(NamedTuple):
    """What the pixel decoder returns."""

    mask_features: Float[Array, "b h2 w2 e"]  # at 1/2
    edge_logits: Float[Array, "b h2 w2 1"]  # at 1/2
    memories: tuple[Float[Array, "b _ _ e"], ...]  # at 1/32, 1/16, 1/8


class SEB(nnx.Module):
    """Squeeze and excitation: x + x * weight(mean of x)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.reduce = conv(features, features // 2, 1, rngs=rngs)
        self.norm = BatchNorm(features // 2, rngs=rngs)
        self.expand = conv(features // 2, features, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        pooled = x.mean((1, 2), keepdims=True)
        weight = self.expand(jax.nn.relu(self.norm(self.reduce(pooled))))
        # Release: the sigmoid is applied twice (probes `SEB.*.0` of inference_parity_test.py).
        return x + x * jax.nn.sigmoid(jax.nn.sigmoid(weight))


class CrossSelfAttention(nnx.Module):
    """Cross, then self attention within windows of 16x16 positions, each with an FFN; no norms."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        xavier = jax.nn.initializers.xavier_uniform()
        self.cross_attn = Attention(features, 8, kernel_init=xavier, rngs=rngs)
        self.self_attn = Attention(features, 8, kernel_init=xavier, rngs=rngs)
        self.ffn1 = FFN(features, 1024, jax.nn.relu, kernel_init=torch_uniform, rngs=rngs)
        self.ffn2 = FFN(features, 1024, jax.nn.relu, kernel_init=torch_uniform, rngs=rngs)

    def __call__(
        self, query: Float[Array, "b h w d"], memory: Float[Array, "b h w d"]
    ) -> Float[Array, "b h w d"]:
        _, h, w, d = query.shape
        # The window's own coordinates: every window sees the same positions.
        positions = sine_positions(WINDOW, WINDOW, d, query.dtype).reshape(1, 1, WINDOW**2, d)
        x, memory = to_windows(query, WINDOW), to_windows(memory, WINDOW)
        x = self.cross_attn(x, memory, query_positions=positions, key_positions=positions)
        x = self.ffn1(x)
        x = self.self_attn(x, x, query_positions=positions, key_positions=positions)
        return from_windows(self.ffn2(x), h, w, WINDOW)


class CST(nnx.Module):
    """Context: two upsampling deformable layers with windowed attention between them."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.dcn1 = UpsamplingDeformLayer(features, features, 3, rngs=rngs)
        self.dcn2 = UpsamplingDeformLayer(features, features, 3, rngs=rngs)
        self.cross_self_attn = CrossSelfAttention(features, rngs=rngs)

    def __call__(
        self,
        context: Float[Array, "b 1 1 d"],
        s5: Float[Array, "b h w d"],
        s4: Float[Array, "b 2*h 2*w d"],
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b 2*h 2*w d"], Float[Array, "b 4*h 4*w d"]]:
        """Returns d5, d4 and d4 upsampled to 1/8."""
        d5, up = self.dcn1(s5 + context)
        d4, up = self.dcn2(self.cross_self_attn(up, s4))
        return d5, d4, up


class RFB(nnx.Module):
    """Receptive fields of 1, 3, 5 and 7 by deformable layers, merged."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.deformaspp = nnx.List(
            [DeformLayer(features, features // 4, size, rngs=rngs) for size in (1, 3, 5, 7)]
        )
        self.conv1 = conv(features, features, 1, bias=True, rngs=rngs)
        self.bn = BatchNorm(features, rngs=rngs)
        self.upconv = conv(features, features, 3, bias=True, rngs=rngs)
        self.bn2 = BatchNorm(features, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w d"]
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b 2*h 2*w d"]]:
        """Returns d3 and d3 upsampled to 1/4."""
        fields = jnp.concatenate([layer(x) for layer in self.deformaspp], -1)
        d3 = jax.nn.relu(self.bn(self.conv1(fields)))
        up = resize_bilinear(d3, (2 * x.shape[1], 2 * x.shape[2]))
        return d3, jax.nn.relu(self.bn2(self.upconv(up)))


class LSE(nnx.Module):
    """Low-level detail at 1/2, from the image and the encoder's first map."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        half = features // 2
        self.cbn1 = ConvBNReLU(half + 3, half, rngs=rngs)
        self.dcn3 = DeformLayer(half + 3, half, 3, rngs=rngs)
        self.conv1 = conv(2, 1, 7, bias=True, rngs=rngs)
        self.conv2 = conv(2, 1, 7, bias=True, rngs=rngs)
        self.cbn2 = ConvBNReLU(features, features, rngs=rngs)

    def __call__(
        self, images: Float[Array, "b h w 3"], s2: Float[Array, "b i j d"]
    ) -> Float[Array, "b h//2 w//2 d"]:
        size = (images.shape[1] // 2, images.shape[2] // 2)
        images = resize_bilinear(images, size)
        first, second = jnp.split(resize_bilinear(s2, size), 2, -1)
        x1 = self.cbn1(jnp.concatenate([images, first], -1))
        x2 = self.dcn3(jnp.concatenate([images, second], -1))
        x1 = x1 + x1 * _spatial_weight(self.conv1, x1)
        x2 = x2 + x2 * _spatial_weight(self.conv2, x2)
        return self.cbn2(jnp.concatenate([x1, x2], -1))


def _spatial_weight(conv7: nnx.Conv, x: Float[Array, "b h w d"]) -> Float[Array, "b h w 1"]:
    """One weight a position, from the mean and the maximum over the channels."""
    pooled = jnp.concatenate([x.mean(-1, keepdims=True), x.max(-1, keepdims=True)], -1)
    return conv7(jax.nn.sigmoid(pooled))


class EGF(nnx.Module):
    """Edge-guided fusion: what the detail adds to the body (released as `ERM`)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.conv1 = conv(features, features // 2, 1, bias=True, rngs=rngs)
        self.dcn = DeformLayer(features // 2, features // 2, 3, rngs=rngs)
        self.conv2 = conv(features // 2, features, 1, bias=True, rngs=rngs)
        self.norm = BatchNorm(features, rngs=rngs)

    def __call__(
        self, detail: Float[Array, "b h w d"], body: Float[Array, "b h w d"]
    ) -> Float[Array, "b h w d"]:
        gated = jax.nn.sigmoid(detail) * body
        return self.norm(self.conv2(self.dcn(self.conv1(gated)))) + body


class PixelDecoder(nnx.Module):
    """Encoder maps to mask features at 1/2, edge logits, and memories for the transformer.

    Args:
        encoder_features: channels of c2..c5.
        features: D, the decoder's width; mask features and memories have 2D channels.
    """

    def __init__(self, encoder_features: tuple[int, ...], features: int, *, rngs: nnx.Rngs):
        self.in_projections = nnx.List(
            [ConvBNReLU(channels, features, rngs=rngs) for channels in encoder_features]
        )
        self.SEB = nnx.List([SEB(features, rngs=rngs) for _ in range(4)])
        self.conv_avg = ConvBNReLU(encoder_features[-1], features, rngs=rngs)
        self.CST = CST(features, rngs=rngs)
        self.RFB = RFB(features, rngs=rngs)
        self.LSE = LSE(features, rngs=rngs)
        self.edge_conv = nnx.List(
            [ConvBNReLU(features, 16, rngs=rngs), conv(16, 1, 1, bias=True, rngs=rngs)]
        )
        self.edge_rec = EGF(features, rngs=rngs)
        self.out = nnx.List([ConvBNReLU(features, 2 * features, rngs=rngs) for _ in range(4)])

    def __call__(
        self, images: Float[Array, "b h w 3"], maps: list[Float[Array, "b _ _ _"]]
    ) -> Decoded:
        """`images` are normalised; `maps` are c2..c5."""
        projected = [project(x) for project, x in zip(self.in_projections, maps, strict=True)]
        # Release: the SEBs are numbered from the coarsest map, the projections from the finest
        # (probes `SEB.*.0` of inference_parity_test.py).
        s5, s4, s3, s2 = (seb(x) for seb, x in zip(self.SEB, projected[::-1], strict=True))
        context = self.conv_avg(maps[-1].mean((1, 2), keepdims=True))

        d5, d4, up = self.CST(context, s5, s4)
        d3, d3_up = self.RFB(up + s3)
        detail = self.LSE(images, s2)
        body = resize_bilinear(d3_up, detail.shape[1:3])

        edge_features, edge_logits = self.edge_conv
        mask_features = self.out[0](self.edge_rec(detail, body))
        memories = tuple(out(d) for out, d in zip(list(self.out)[1:], (d5, d4, d3), strict=True))
        return Decoded(mask_features, edge_logits(edge_features(body + detail)), memories)
