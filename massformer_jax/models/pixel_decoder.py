"""The high-resolution pixel decoder (paper, section 4.2; released mass_decoder.py).

s2..s5 are the projected encoder maps at 1/4..1/32; d5, d4, d3 the decoded ones at 1/32, 1/16, 1/8.
D is the decoder's width.
"""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from massformer_jax.models.layers import Conv, ConvBNReLU
from massformer_jax.models.pixel_modules import CST, EGF, LSE, RFB, SEB
from massformer_jax.models.recomputation import recomputed
from massformer_jax.ops.deform_conv import SampledMap, prepared
from massformer_jax.ops.resize import resize_bilinear
from massformer_jax.ops.rows import Rows, around, in_strips, take_doubled_rows, take_rows
from massformer_jax.parallel import spatial


class Decoded(NamedTuple):
    """What the pixel decoder returns."""

    mask_features: Float[Array, "b h2 w2 e"]  # at 1/2
    edge_logits: Float[Array, "b h2 w2 1"]  # at 1/2
    memories: tuple[Float[Array, "b _ _ e"], ...]  # at 1/32, 1/16, 1/8


class Coarse(NamedTuple):
    """The maps of D channels that are computed from the whole image."""

    s2: Float[Array, "b h4 w4 d"]
    d5: Float[Array, "b h32 w32 d"]
    d4: Float[Array, "b h16 w16 d"]
    d3: Float[Array, "b h8 w8 d"]
    body: Float[Array, "b h4 w4 d"]  # d3, upsampled


class Fused(NamedTuple):
    """What the pixel decoder returns in strips."""

    fused: Float[Array, "b h2 w2 d"]  # at 1/2: `PixelDecoder.mask_features` makes mask features
    levels: tuple[Float[Array, "b _ _ e"], ...]  # mask features at the sizes of the memories
    memories: tuple[Float[Array, "b _ _ e"], ...]  # at 1/32, 1/16, 1/8


class Sources(NamedTuple):
    """The maps that any row at 1/2 is computed from."""

    # At 1/2: the image and half of s2's channels, D/2 + 3, and zeros up to a multiple of 8, so that
    # each position's channels begin where they can be read in vectors. Every row of it is sampled
    # from, so each device has all of them.
    guide: SampledMap
    # At 1/4: the other half of s2's channels.
    shallow: Float[Array, "b h4 w4 c"]
    # At 1/4: d3, upsampled.
    body: Float[Array, "b h4 w4 d"]
    # Where a device has its own rows of them, the row at 1/2 that `shallow` and `body` begin at.
    begin: int | Int[Array, ""] = 0

    def rows(self, rows: Rows) -> Rows:
        """Returns rows at 1/2, counted from the top of `shallow` and `body`."""
        return Rows(rows.start - self.begin, rows.count)


class CoarseDecoder(nnx.Module):
    """The part of the pixel decoder that looks at the whole image.

    Args:
        encoder_features: channels of c2..c5.
        features: D, the width of its maps.
    """

    def __init__(self, encoder_features: tuple[int, ...], features: int, *, rngs: nnx.Rngs):
        self.in_projections = nnx.List(
            [ConvBNReLU(channels, features, rngs=rngs) for channels in encoder_features]
        )
        self.SEB = nnx.List([SEB(features, rngs=rngs) for _ in range(4)])
        self.conv_avg = ConvBNReLU(encoder_features[-1], features, rngs=rngs)
        self.CST = CST(features, rngs=rngs)
        self.RFB = RFB(features, rngs=rngs)

    def coarse(self, maps: list[Float[Array, "b _ _ _"]]) -> Coarse:
        """Returns its maps.

        Args:
            maps: c2..c5.
        """
        projected = [project(x) for project, x in zip(self.in_projections, maps, strict=True)]
        # Release: the SEBs are numbered from the coarsest map, the projections from the finest
        # (probes `SEB.*.0` of tests/models/inference_parity_test.py).
        s5, s4, s3, s2 = (seb(x) for seb, x in zip(self.SEB, projected[::-1], strict=True))
        context = self.conv_avg(maps[-1].mean((1, 2), keepdims=True))
        d5, d4, up = self.CST(context, s5, s4)
        return Coarse(s2, d5, d4, *self.RFB(up + s3))


class PixelDecoder(CoarseDecoder):
    """A decoder of encoder maps: mask features at 1/2, edge logits, memories for the transformer.

    Args:
        encoder_features: channels of c2..c5.
        features: D, the decoder's width; mask features and memories have 2D channels.
    """

    # Rows at 1/4 of a neighbour that a window around a device's own rows (at 1/2) may reach: 5.
    halo = 6

    def __init__(self, encoder_features: tuple[int, ...], features: int, *, rngs: nnx.Rngs):
        super().__init__(encoder_features, features, rngs=rngs)
        self.LSE = LSE(features, rngs=rngs)
        self.edge_conv = nnx.List(
            [ConvBNReLU(features, 16, rngs=rngs), Conv(16, 1, 1, bias=True, rngs=rngs)]
        )
        self.edge_rec = EGF(features, rngs=rngs)
        self.out = nnx.List([ConvBNReLU(features, 2 * features, rngs=rngs) for _ in range(4)])

    def __call__(
        self, images: Float[Array, "b h w 3"], maps: list[Float[Array, "b _ _ _"]]
    ) -> Decoded:
        """Returns everything that training needs.

        Args:
            images: normalised.
            maps: c2..c5.
        """
        s2, body, memories = self._whole(maps)
        rows = Rows(0, images.shape[1] // 2)

        def detail_of(lse, images, s2):
            guide, shallow = _guide(images, s2)
            return lse(guide, take_doubled_rows(shallow, rows), rows)

        def edges_of(edge_conv, detail, body):
            features, logits = edge_conv
            return logits(features(take_doubled_rows(body, rows) + detail))

        def fuse(edge_rec, detail, body):
            body = take_doubled_rows(body, rows)
            return edge_rec(SampledMap((edge_rec.gate(detail, body),)), body, rows)

        detail = recomputed(detail_of, self.LSE, images, s2)
        edge_logits = recomputed(edges_of, self.edge_conv, detail, body)
        fused = recomputed(fuse, self.edge_rec, detail, body)
        return Decoded(recomputed(operator.call, self.out[0], fused), edge_logits, memories)

    def in_strips(
        self, images: Float[Array, "b h w 3"], maps: list[Float[Array, "b _ _ _"]], count: int
    ) -> Fused:
        """Returns the same without edge logits, computed in strips; inference only.

        Mask features, of twice the width of the fused map, never exist at 1/2 as a whole. At 12
        megapixels, D = 128 and in float32 that leaves 0.8 GB of `guide`, then 0.8 GB of `gated` and
        1.6 GB of `fused`.

        Args:
            images: normalised.
            maps: c2..c5.
            count: rows of a strip, at 1/2.
        """
        s2, body, memories = self._whole(maps)
        sources = Sources(*_guide(images, s2), body)
        parts, height = spatial.parts(), images.shape[1] // 2
        if parts == 1:
            return Fused(*self._fuse(sources, Rows(0, height), count), memories)

        def own(guide, *maps):
            shallow, body = (spatial.with_halo(x, self.halo) for x in maps)
            rows = spatial.own_rows(height, parts)
            part = Sources(SampledMap((guide,)), shallow, body, begin=rows.start - 2 * self.halo)
            return self._fuse(part, rows, count, spatial.gather_rows)

        fused, levels = spatial.each_part(
            own,
            *(spatial.by_rows(sources.guide.pixels), sources.shallow, sources.body),
            in_specs=(spatial.ALL_ROWS, spatial.ROWS, spatial.ROWS),
            out_specs=spatial.ROWS,
        )
        return Fused(fused, levels, memories)

    def _fuse(
        self,
        sources: Sources,
        own: Rows,
        count: int,
        gather: Callable[[Array], Array] | None = None,
    ) -> tuple[Float[Array, "b r w d"], tuple[Float[Array, "b _ _ e"], ...]]:
        """Returns some rows of the fused map and of the levels.

        Args:
            sources: what they are computed from.
            own: which rows, at 1/2.
            count: rows of a strip, at 1/2.
            gather: where other devices have the other rows, returns all rows of a map from a
                device's own.
        """
        height = sources.guide.pixels.shape[1]
        sources = sources._replace(guide=prepared(sources.guide.pixels))

        def gate(rows):
            window = around(rows, self.LSE.margin, height)
            gated = self.edge_rec.gate(*self._detail(sources, window))
            return take_rows(gated, Rows(rows.start - window.start, rows.count))

        # Nobody knows which of the two comes last.
        after = sources.guide.ready + sources.body[0, 0, 0, 0]
        gated = in_strips(gate, own, count, after=after)
        gated = prepared(gated if gather is None else gather(gated))

        def fuse(rows):
            window = around(rows, self.edge_rec.margin, height)
            body = take_doubled_rows(sources.body, sources.rows(window))
            fused = self.edge_rec(gated, body, window)
            fused = take_rows(fused, Rows(rows.start - window.start, rows.count))
            return fused, reduced(self.mask_features(fused), (16, 8, 4))

        # Strips of whole positions at 1/32, which are 16 rows at 1/2.
        return in_strips(fuse, own, -(-count // 16) * 16, after=gated.ready)

    def _whole(
        self, maps: list[Float[Array, "b _ _ _"]]
    ) -> tuple[
        Float[Array, "b h4 w4 d"], Float[Array, "b h4 w4 d"], tuple[Float[Array, "b _ _ e"], ...]
    ]:
        """Returns s2, d3 upsampled, and the memories: everything that looks at the whole image."""
        s2, *coarse, body = recomputed(PixelDecoder.coarse, self, maps)
        memories = tuple(
            recomputed(operator.call, out, d)
            for out, d in zip(list(self.out)[1:], coarse, strict=True)
        )
        return s2, body, memories

    def mask_features(self, fused: Float[Array, "b h w d"]) -> Float[Array, "b h w e"]:
        """Returns the mask features of fused rows."""
        return self.out[0](fused)

    def _detail(
        self, sources: Sources, rows: Rows
    ) -> tuple[Float[Array, "b r w d"], Float[Array, "b r w d"]]:
        """Returns detail and body of some rows at 1/2."""
        shallow = take_doubled_rows(sources.shallow, sources.rows(rows))
        body = take_doubled_rows(sources.body, sources.rows(rows))
        return self.LSE(sources.guide, shallow, rows), body


def _guide(
    images: Float[Array, "b h w 3"], s2: Float[Array, "b h4 w4 d"]
) -> tuple[SampledMap, Float[Array, "b h4 w4 c"]]:
    """Returns `guide` and `shallow` of `Sources`."""
    size = (images.shape[1] // 2, images.shape[2] // 2)
    shallow, second = jnp.split(s2, 2, -1)
    guide = [resize_bilinear(images, size), resize_bilinear(second, size)]
    guide.append(jnp.zeros((*guide[0].shape[:3], -sum(x.shape[-1] for x in guide) % 8), s2.dtype))
    return SampledMap(tuple(guide)), shallow


def reduced(
    features: Float[Array, "b h w e"], strides: tuple[int, ...]
) -> tuple[Float[Array, "b _ _ e"], ...]:
    """Returns mask features halved to 1/4, then resized to each of `strides` (relative to 1/2).

    Mask logits are linear in the features: resizing these once replaces resizing the mask logits of
    all queries before each layer. Sides are multiples of the strides.
    """
    _, h, w, _ = features.shape
    quarter = resize_bilinear(features, (h // 2, w // 2))
    return tuple(resize_bilinear(quarter, (h // stride, w // stride)) for stride in strides)
