"""The modules of the pixel decoder, by their names in the paper's figure of it (section 4.2).

s2..s5 are the projected encoder maps at 1/4..1/32; d5, d4, d3 the decoded ones at 1/32, 1/16, 1/8.
`features` of a constructor is D, the decoder's width.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from massformer_jax.models.attention import FFN, Attention
from massformer_jax.models.layers import (
    BatchNorm,
    Conv,
    ConvBNReLU,
    DeformLayer,
    UpsamplingDeformLayer,
    torch_uniform,
)
from massformer_jax.models.recomputation import kept
from massformer_jax.ops.deform_conv import SampledMap
from massformer_jax.ops.positions import sine_positions
from massformer_jax.ops.resize import resize_bilinear
from massformer_jax.ops.rows import Rows, take_rows
from massformer_jax.ops.shifted_conv import shifted_conv
from massformer_jax.ops.windows import from_windows, to_windows
from massformer_jax.parallel import spatial

WINDOW = 16  # positions of the 1/16 map: 256 pixels of the image


class SEB(nnx.Module):
    """Squeeze Excitation Block: x + x * weight(mean of x)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.reduce = Conv(features, features // 2, 1, rngs=rngs)
        self.norm = BatchNorm(features // 2, rngs=rngs)
        self.expand = Conv(features // 2, features, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        pooled = x.mean((1, 2), keepdims=True)
        weight = self.expand(jax.nn.relu(self.norm(self.reduce(pooled))))
        # Release: the sigmoid is applied twice (probes `SEB.*.0` of
        # tests/models/inference_parity_test.py).
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
        x, memory = (spatial.by_rows(to_windows(x, WINDOW)) for x in (query, memory))
        x = self.cross_attn(x + positions, memory + positions, memory, residual=x)
        x = self.ffn1(x)
        x = self.self_attn(x + positions, x + positions, x, residual=x)
        return spatial.by_rows(from_windows(self.ffn2(x), h, w, WINDOW))


class CST(nnx.Module):
    """Cross Semantic Transition: deformable layers with windowed attention between them.

    Context passes from 1/32 to 1/16; each of the two layers also upsamples."""

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
    """Receptive Field Broaden: deformable layers of 1x1, 3x3, 5x5 and 7x7, merged."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.deformaspp = nnx.List(
            [DeformLayer(features, features // 4, size, rngs=rngs) for size in (1, 3, 5, 7)]
        )
        self.conv1 = Conv(features, features, 1, bias=True, rngs=rngs)
        self.bn = BatchNorm(features, rngs=rngs)
        self.upconv = Conv(features, features, 3, bias=True, rngs=rngs)
        self.bn2 = BatchNorm(features, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w d"]
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b 2*h 2*w d"]]:
        """Returns d3 and d3 upsampled to 1/4."""
        fields = jnp.concatenate([layer(SampledMap((x,))) for layer in self.deformaspp], -1)
        d3 = jax.nn.relu(self.bn(self.conv1(fields)))
        up = resize_bilinear(d3, (2 * x.shape[1], 2 * x.shape[2]))
        return d3, jax.nn.relu(self.bn2(kept(self.upconv(up))))


class LSE(nnx.Module):
    """Low-level Structure Extraction: detail at 1/2, from the image and the encoder's first map."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        half = features // 2
        self.cbn1 = ConvBNReLU(half + 3, half, rngs=rngs)
        self.dcn3 = DeformLayer(half + 3, half, 3, rngs=rngs)
        self.conv1 = Conv(2, 1, 7, bias=True, rngs=rngs)
        self.conv2 = Conv(2, 1, 7, bias=True, rngs=rngs)
        self.cbn2 = ConvBNReLU(features, features, rngs=rngs)

    # Rows at a window's border that its neighbours would change: one by the offsets' convolution or
    # by resizing, three more by the 7x7 convolution.
    margin = 4

    def __call__(
        self, guide: SampledMap, shallow: Float[Array, "b r w _"], rows: Rows
    ) -> Float[Array, "b r w d"]:
        """Returns the detail of some rows.

        Args:
            guide: of `Sources`.
            shallow: of `Sources`, these rows of it at twice its size.
            rows: at 1/2.
        """
        image = jax.lax.slice_in_dim(take_rows(guide.pixels, rows), 0, 3, axis=-1)
        x1 = self.cbn1(jnp.concatenate([image, shallow], -1))
        x2 = self.dcn3(guide, rows)
        x1 = x1 + x1 * _spatial_weight(self.conv1, x1)
        x2 = x2 + x2 * _spatial_weight(self.conv2, x2)
        return self.cbn2(jnp.concatenate([x1, x2], -1))


def _spatial_weight(conv7: Conv, x: Float[Array, "b h w d"]) -> Float[Array, "b h w 1"]:
    """Returns one weight per position, from the mean and the maximum over the channels."""
    pooled = jax.nn.sigmoid(jnp.stack([x.mean(-1), _channel_max(x)]))
    weight = shifted_conv(pooled, conv7.kernel[...][..., 0]) + conv7.bias[...].reshape(1, 1, 1)
    return weight[..., None]


@jax.custom_jvp
def _channel_max(x: Float[Array, "b h w d"]) -> Float[Array, "b h w"]:
    """Returns the maximum over the channels; its gradient goes to the first of the largest.

    JAX's own gradient divides by the number of channels that equal the maximum. Where the compiler
    computes x again for the gradient, and rounds it otherwise, no channel does, and that is 0 / 0.
    """
    return x.max(-1)


@_channel_max.defjvp
def _channel_max_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    largest = jax.nn.one_hot(x.argmax(-1), x.shape[-1], dtype=x.dtype)
    return _channel_max(x), (largest * tangent).sum(-1)


class EGF(nnx.Module):
    """Edge Guided Fusion: what the detail adds to the body (`ERM` in the release)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.conv1 = Conv(features, features // 2, 1, bias=True, rngs=rngs)
        self.dcn = DeformLayer(features // 2, features // 2, 3, rngs=rngs)
        self.conv2 = Conv(features // 2, features, 1, bias=True, rngs=rngs)
        self.norm = BatchNorm(features, rngs=rngs)

    margin = 1  # as in `LSE`

    def gate(
        self, detail: Float[Array, "b r w d"], body: Float[Array, "b r w d"]
    ) -> Float[Array, "b r w e"]:
        """Returns what the deformable layer samples from.

        It may sample from any row, so all rows of this come before any row of the rest.
        """
        return self.conv1(jax.nn.sigmoid(detail) * body)

    def __call__(
        self, gated: SampledMap, body: Float[Array, "b r w d"], rows: Rows
    ) -> Float[Array, "b r w d"]:
        """Returns the fused map of some rows.

        Args:
            gated: of what `gate` returns, all rows.
            body: these rows.
            rows: at 1/2.
        """
        return self.norm(self.conv2(self.dcn(gated, rows))) + body
