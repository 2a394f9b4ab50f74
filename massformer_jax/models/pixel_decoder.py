"""The high-resolution pixel decoder (paper, section 4.2; released mass_decoder.py).

s2..s5 are the projected encoder maps at 1/4..1/32; d5, d4, d3 the decoded ones at 1/32, 1/16, 1/8.
D is the decoder's width.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from massformer_jax.models.attention import FFN, Attention
from massformer_jax.models.layers import (
    BatchNorm,
    Conv,
    ConvBNReLU,
    DeformLayer,
    UpsamplingDeformLayer,
    torch_uniform,
)
from massformer_jax.ops import split
from massformer_jax.ops.positions import sine_positions
from massformer_jax.ops.resize import resize_bilinear
from massformer_jax.ops.rows import Rows, all_rows, around, in_strips, take_doubled_rows, take_rows
from massformer_jax.ops.shifted_conv import shifted_conv
from massformer_jax.ops.windows import from_windows, to_windows

WINDOW = 16  # positions of the 1/16 map: 256 pixels of the image


class Decoded(NamedTuple):
    """What the pixel decoder returns."""

    mask_features: Float[Array, "b h2 w2 e"]  # at 1/2
    edge_logits: Float[Array, "b h2 w2 1"]  # at 1/2
    memories: tuple[Float[Array, "b _ _ e"], ...]  # at 1/32, 1/16, 1/8


class Fused(NamedTuple):
    """What the pixel decoder returns in strips."""

    fused: Float[Array, "b h2 w2 d"]  # at 1/2: `PixelDecoder.mask_features` makes mask features
    levels: tuple[Float[Array, "b _ _ e"], ...]  # mask features at the sizes of the memories
    memories: tuple[Float[Array, "b _ _ e"], ...]  # at 1/32, 1/16, 1/8


class Coarse(NamedTuple):
    """The maps that any row at 1/2 is computed from."""

    # At 1/2: the image and half of s2's channels, D/2 + 3, and zeros up to a multiple of 8, so that
    # each position's channels begin where they can be read in vectors.
    guide: Float[Array, "b h2 w2 c"]
    shallow: Float[Array, "b h4 w4 c"]  # at 1/4: the other half of s2's channels
    body: Float[Array, "b h4 w4 d"]  # at 1/4
    memories: tuple[Float[Array, "b _ _ e"], ...]
    # Where a device has its own rows, the row at 1/2 that `shallow` and `body` begin at; all rows
    # are sampled from, so `guide` is always whole.
    begin: int | Int[Array, ""] = 0

    def rows(self, rows: Rows) -> Rows:
        """These rows of the image, as rows of `shallow` and `body`."""
        return Rows(rows.start - self.begin, rows.count)


class SEB(nnx.Module):
    """Squeeze and excitation: x + x * weight(mean of x)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.reduce = Conv(features, features // 2, 1, rngs=rngs)
        self.norm = BatchNorm(features // 2, rngs=rngs)
        self.expand = Conv(features // 2, features, 1, rngs=rngs)

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
        x, memory = (split.by_rows(to_windows(x, WINDOW)) for x in (query, memory))
        x = self.cross_attn(x + positions, memory + positions, memory, residual=x)
        x = self.ffn1(x)
        x = self.self_attn(x + positions, x + positions, x, residual=x)
        return split.by_rows(from_windows(self.ffn2(x), h, w, WINDOW))


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
        self.conv1 = Conv(features, features, 1, bias=True, rngs=rngs)
        self.bn = BatchNorm(features, rngs=rngs)
        self.upconv = Conv(features, features, 3, bias=True, rngs=rngs)
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
        self.conv1 = Conv(2, 1, 7, bias=True, rngs=rngs)
        self.conv2 = Conv(2, 1, 7, bias=True, rngs=rngs)
        self.cbn2 = ConvBNReLU(features, features, rngs=rngs)

    # Rows at a window's border that its neighbours would change: one by the offsets' convolution or
    # by resizing, three more by the 7x7 convolution.
    margin = 4

    def __call__(
        self, guide: Float[Array, "b h w c"], shallow: Float[Array, "b r w _"], rows: Rows
    ) -> Float[Array, "b r w d"]:
        """Detail of some rows; see `Coarse`. `shallow` is doubled, and of these rows."""
        image = take_rows(guide, rows)[..., :3]
        x1 = self.cbn1(jnp.concatenate([image, shallow], -1))
        x2 = self.dcn3(guide, rows)
        x1 = x1 + x1 * _spatial_weight(self.conv1, x1)
        x2 = x2 + x2 * _spatial_weight(self.conv2, x2)
        return self.cbn2(jnp.concatenate([x1, x2], -1))


def _spatial_weight(conv7: Conv, x: Float[Array, "b h w d"]) -> Float[Array, "b h w 1"]:
    """One weight a position, from the mean and the maximum over the channels."""
    pooled = jax.nn.sigmoid(jnp.stack([x.mean(-1), x.max(-1)]))
    weight = shifted_conv(pooled, conv7.kernel[...][..., 0]) + conv7.bias[...].reshape(1, 1, 1)
    return weight[..., None]


class EGF(nnx.Module):
    """Edge-guided fusion: what the detail adds to the body (released as `ERM`)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.conv1 = Conv(features, features // 2, 1, bias=True, rngs=rngs)
        self.dcn = DeformLayer(features // 2, features // 2, 3, rngs=rngs)
        self.conv2 = Conv(features // 2, features, 1, bias=True, rngs=rngs)
        self.norm = BatchNorm(features, rngs=rngs)

    margin = 1  # as in `LSE`

    def gate(
        self, detail: Float[Array, "b r w d"], body: Float[Array, "b r w d"]
    ) -> Float[Array, "b r w e"]:
        """What the deformable layer samples from: its every row, before any row of the rest."""
        return self.conv1(jax.nn.sigmoid(detail) * body)

    def __call__(
        self, gated: Float[Array, "b h w e"], body: Float[Array, "b r w d"], rows: Rows
    ) -> Float[Array, "b r w d"]:
        """The fused map of some rows, whose `body` this is."""
        return self.norm(self.conv2(self.dcn(gated, rows))) + body


class PixelDecoder(nnx.Module):
    """Encoder maps to mask features at 1/2, edge logits, and memories for the transformer.

    Args:
        encoder_features: channels of c2..c5.
        features: D, the decoder's width; mask features and memories have 2D channels.
    """

    # Rows at 1/4 of a neighbour that a window around a device's own rows (at 1/2) may reach: 5.
    halo = 6

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
            [ConvBNReLU(features, 16, rngs=rngs), Conv(16, 1, 1, bias=True, rngs=rngs)]
        )
        self.edge_rec = EGF(features, rngs=rngs)
        self.out = nnx.List([ConvBNReLU(features, 2 * features, rngs=rngs) for _ in range(4)])

    def __call__(
        self, images: Float[Array, "b h w 3"], maps: list[Float[Array, "b _ _ _"]]
    ) -> Decoded:
        """`images` are normalised; `maps` are c2..c5."""
        coarse = self.coarse(images, maps)
        rows = all_rows(coarse.guide)
        detail, body = self._detail(coarse, rows)
        edge_features, edge_logits = self.edge_conv
        fused = self.edge_rec(self.edge_rec.gate(detail, body), body, rows)
        return Decoded(
            self.mask_features(fused), edge_logits(edge_features(body + detail)), coarse.memories
        )

    def in_strips(
        self, images: Float[Array, "b h w 3"], maps: list[Float[Array, "b _ _ _"]], count: int
    ) -> Fused:
        """The same without edge logits, `count` rows at 1/2 at a time; inference only.

        Mask features, of twice the width of the fused map, never exist at 1/2 as a whole. At 12
        megapixels, D = 128 and in float32 that leaves 0.8 GB of `guide`, then 0.8 GB of `gated` and
        1.6 GB of `fused`.
        """
        coarse = self.coarse(images, maps)
        parts, height = split.parts(), coarse.guide.shape[1]
        if parts == 1:
            return Fused(*self._fuse(coarse, Rows(0, height), count), coarse.memories)

        def own(guide, *maps):
            shallow, body = (split.with_halo(x, self.halo) for x in maps)
            rows = split.own_rows(height, parts)
            part = Coarse(guide, shallow, body, (), begin=rows.start - 2 * self.halo)
            return self._fuse(part, rows, count, split.gather_rows)

        fused, levels = split.each_part(
            own,
            *(split.by_rows(coarse.guide), coarse.shallow, coarse.body),
            in_specs=(split.WHOLE, split.ROWS, split.ROWS),
            out_specs=split.ROWS,
        )
        return Fused(fused, levels, coarse.memories)

    def _fuse(
        self, coarse: Coarse, own: Rows, count: int, gather: Callable[[Array], Array] | None = None
    ) -> tuple[Float[Array, "b r w d"], tuple[Float[Array, "b _ _ e"], ...]]:
        """Rows `own` of the fused map and of the levels; `gather` brings the rest of `gated`."""
        height = coarse.guide.shape[1]

        def gate(rows):
            window = around(rows, self.LSE.margin, height)
            gated = self.edge_rec.gate(*self._detail(coarse, window))
            return take_rows(gated, Rows(rows.start - window.start, rows.count))

        gated = in_strips(gate, own, count, after=coarse.body)
        gated = gated if gather is None else gather(gated)

        def fuse(rows):
            window = around(rows, self.edge_rec.margin, height)
            body = take_doubled_rows(coarse.body, coarse.rows(window))
            fused = self.edge_rec(gated, body, window)
            fused = take_rows(fused, Rows(rows.start - window.start, rows.count))
            return fused, reduced(self.mask_features(fused), (16, 8, 4))

        # Strips of whole positions at 1/32, which are 16 rows at 1/2.
        return in_strips(fuse, own, -(-count // 16) * 16, after=gated)

    def coarse(
        self, images: Float[Array, "b h w 3"], maps: list[Float[Array, "b _ _ _"]]
    ) -> Coarse:
        """Everything that looks at the whole image."""
        projected = [project(x) for project, x in zip(self.in_projections, maps, strict=True)]
        # Release: the SEBs are numbered from the coarsest map, the projections from the finest
        # (probes `SEB.*.0` of inference_parity_test.py).
        s5, s4, s3, s2 = (seb(x) for seb, x in zip(self.SEB, projected[::-1], strict=True))
        context = self.conv_avg(maps[-1].mean((1, 2), keepdims=True))

        d5, d4, up = self.CST(context, s5, s4)
        d3, body = self.RFB(up + s3)
        memories = tuple(out(d) for out, d in zip(list(self.out)[1:], (d5, d4, d3), strict=True))

        size = (images.shape[1] // 2, images.shape[2] // 2)
        shallow, second = jnp.split(s2, 2, -1)
        guide = [resize_bilinear(images, size), resize_bilinear(second, size)]
        guide.append(
            jnp.zeros((*guide[0].shape[:3], -sum(x.shape[-1] for x in guide) % 8), s2.dtype)
        )
        return Coarse(jnp.concatenate(guide, -1), shallow, body, memories)

    def mask_features(self, fused: Float[Array, "b h w d"]) -> Float[Array, "b h w e"]:
        """Mask features of fused rows."""
        return self.out[0](fused)

    def _detail(
        self, coarse: Coarse, rows: Rows
    ) -> tuple[Float[Array, "b r w d"], Float[Array, "b r w d"]]:
        """Detail and body of some rows."""
        shallow = take_doubled_rows(coarse.shallow, coarse.rows(rows))
        body = take_doubled_rows(coarse.body, coarse.rows(rows))
        return self.LSE(coarse.guide, shallow, rows), body


def reduced(
    features: Float[Array, "b h w e"], strides: tuple[int, ...]
) -> tuple[Float[Array, "b _ _ e"], ...]:
    """Mask features halved to 1/4, then resized to each of `strides` (relative to 1/2).

    Mask logits are linear in the features: resizing these once replaces resizing the mask logits of
    all queries before each layer. Sides are multiples of the strides.
    """
    _, h, w, _ = features.shape
    quarter = resize_bilinear(features, (h // 2, w // 2))
    return tuple(resize_bilinear(quarter, (h // stride, w // stride)) for stride in strides)
