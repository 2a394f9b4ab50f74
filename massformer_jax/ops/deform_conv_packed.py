"""The deformable convolution for TPUs: the corners of a sample lie side by side in one row.

A TPU reads scattered rows of a map one after the other, and pays for their number: a row of 128
words costs it as much as a row of one. So the map is packed before it is sampled from. Row (i, j)
of the packed map holds the four pixels around the point where pixels (i - 1, j - 1) and (i, j)
meet, and what lies outside of the map as zeros. Each sample is then one gather, wherever it lies:

    bfloat16    4 pixels as 2 c words of 32 bits: the left two, then the right two
    float32     2 pixels, left and right: two gathers for each sample, of rows that lie below
                each other. Four would double the memory of the map.

Backward, one scatter adds to the four pixels around each sample in a map of float32 that is packed
alike; afterwards its four parts are moved into place and added.

Samples are turned before they are weighed: positions then lie along the 128 lanes of the vector
unit, and the weight of a position is spread over its channels for nothing. What is added backward
is not turned: products give its rows. Images are computed one after the other, since an index of
the image inside of a gather has to be unpacked for every row.

docs/deform_conv.md has the counts of instructions behind each of these choices.
"""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from massformer_jax.ops.precision import widened
from massformer_jax.ops.sampling import bilinear, product, starts, taps, to_planes, whole_and_rest

# Positions that are sampled at once, at most, where a sample takes 128 words: more overflow the
# vector memory of a v5e.
CHUNK = 65536
BACKWARD_CHUNK = 16384
# Positions that a row has more in the packed map than in the map. The memory keeps positions in
# tiles of 8, and rows of whole tiles can be joined without moving them.
_MARGIN = 8
_LANES = 128
# Channels whose gradients are added at once, with four numbers each, in one update of the packed
# map. Updates of twice the length are half as many, but where the packed map is so large, they are
# not sorted before they are added, which is four times as slow.
_GROUP = 64
_LONG_GROUP = 128
_SMALL_MAP = 1 << 26  # numbers of a packed map in which updates of the long groups are sorted
# Rows of the map that are packed at once, which bounds the temporaries.
_PACKED_ROWS = 64


def pack(x: Float[Array, "h w c"]) -> Shaped[Array, "n words"]:
    """Packs the corners of every sample, some rows at a time.

    Returns:
        At least (h + 2) · (w + 8) rows of 2 c words or some more: uint32 for a bfloat16 map,
        otherwise numbers as in `x`.
    """
    h, _, c = x.shape
    strips = -(-(h + 2) // _PACKED_ROWS)
    count = -(-(h + 2) // strips)
    size = min(count + 1, h)  # rows of the map that a strip reads
    below = strips * count - h  # rows of zeros below the map

    def rows(start):
        # Rows start - 1 ... start + count - 1. Padding the strip and not the map saves a copy of
        # the map.
        first = jnp.clip(start - 1, 0, h - size)
        part = lax.dynamic_slice_in_dim(x, first, size)
        part = jnp.pad(part, ((1, below), (1, _MARGIN - 1), (0, 0)))
        part = lax.dynamic_slice_in_dim(part, start - first, count + 1)
        column = _words(part[:-1], part[1:]) if x.dtype == jnp.bfloat16 else part[:-1]
        zero = jnp.zeros((), column.dtype)
        column = lax.pad(column, zero, ((0, 0, 0), (0, 0, 0), (0, _words_of_column(c) - c, 0)))
        next_column = lax.pad(column, zero, ((0, 0, 0), (-1, 1, 0), (0, 0, 0)))
        return jnp.concatenate([column, next_column], -1)

    return lax.map(rows, count * jnp.arange(strips)).reshape(-1, 2 * _words_of_column(c))


def _words_of_column(c: int) -> int:
    """Returns how many words the left corners of a sample take, and how many the right ones.

    Both share a tile of 128 words, or each has whole tiles, as the memory has it anyway: moving
    what begins inside of a tile is slow, also to compile.
    """
    return c if 2 * c <= _LANES else -(-c // _LANES) * _LANES


def forward(
    packed: Shaped[Array, "n words"],
    size: tuple[int, int],
    offsets: Float[Array, "offsets r w"],
    modulation: Float[Array, "taps r w"],
    kernel: Float[Array, "k k c o"],
    first_row: Int[Array, ""],
) -> Float[Array, "r w o"]:
    """Computes what `massformer_jax.ops.deform_conv.deform_conv` says, for one image.

    Args:
        packed: `pack` of the map.
        size: height and width of the map.
        offsets: as there.
        modulation: as there.
        kernel: as there; of the dtype of the map.
        first_row: as there.
    """
    _, r, w = offsets.shape
    *_, c, o = kernel.shape
    wide = widened(kernel.dtype)
    gathers = 1 if packed.dtype == jnp.uint32 else 2
    chunk = _chunk(r * w, CHUNK * _LANES // max(_LANES, gathers * packed.shape[1]))

    def one_chunk(inputs):
        start, *planes = inputs
        position = first_row * w + start + jnp.arange(chunk, dtype=jnp.int32)

        def tap(total, inputs):
            kernel, *place = inputs
            sample = _sample(packed, size, c, position, *place, wide)
            return total + product("cn,co->on", sample.value.astype(kernel.dtype), kernel), None

        total = jnp.zeros((o, chunk), wide)
        total, _ = lax.scan(tap, total, (*taps(kernel), *planes))
        return total.astype(kernel.dtype).T

    out = lax.map(one_chunk, (starts(r * w, chunk), *_planes(offsets, modulation, chunk)))
    return out.reshape(-1, o)[: r * w].reshape(r, w, -1)


def backward(
    packed: Shaped[Array, "n words"],
    size: tuple[int, int],
    offsets: Float[Array, "offsets r w"],
    modulation: Float[Array, "taps r w"],
    kernel: Float[Array, "k k c o"],
    first_row: Int[Array, ""],
    gradient: Float[Array, "r w o"],
    *,
    parts: tuple[int, ...] = (),
) -> tuple[list[Float[Array, "h w _"]], Array, Array, Float[Array, "k k c o"]]:
    """Returns the gradients of the map's parts, the offsets, the modulation; the kernel's, float32.

    Args:
        packed: as for `forward`, and so are the others.
        size: height and width of the map.
        offsets: see `forward`.
        modulation: see `forward`.
        kernel: see `forward`.
        first_row: see `forward`.
        gradient: of the output.
        parts: the channels at which another part of the map begins. Each is added up by itself.
    """
    _, r, w = offsets.shape
    *_, c, o = kernel.shape
    wide = widened(kernel.dtype)
    chunk = _chunk(r * w, BACKWARD_CHUNK)
    rows = jnp.pad(gradient.reshape(r * w, o), ((0, -(r * w) % chunk), (0, 0)))

    def one_chunk(totals, inputs):
        to_packed, to_kernel = totals
        start, *planes = inputs
        gradient = lax.dynamic_slice_in_dim(rows, start, chunk)
        position = first_row * w + start + jnp.arange(chunk, dtype=jnp.int32)

        def tap(to_packed, inputs):
            to_kernel, kernel, *place = inputs
            sample = _sample(packed, size, c, position, *place, wide)
            to_sample = product("no,co->cn", gradient, kernel)
            to_kernel += product("cn,no->co", sample.value.astype(kernel.dtype), gradient)
            to_packed = [
                add(to_group, sample, gradient, kernel[group])
                for to_group, group in zip(to_packed, groups, strict=True)
            ]
            to_place = sample.to_place(to_sample, place[-1].reshape(-1))
            return to_packed, (to_kernel, *(a.reshape(-1, _LANES) for a in to_place))

        to_packed, (to_kernel, *to_planes) = lax.scan(
            tap, to_packed, (to_kernel, *taps(kernel), *planes)
        )
        return (to_packed, to_kernel), to_planes

    def add(to_packed, sample, gradient, kernel):
        # A product for each group gives rows. Turning `to_sample` would take four times as long.
        update = product("no,co->nc", gradient, jnp.tile(kernel, (4, 1)))
        update *= _spread(jnp.stack(sample.factors), len(kernel))
        return to_packed.at[sample.index].add(update, mode="promise_in_bounds")

    size_of_group = _LONG_GROUP if 4 * _LONG_GROUP * len(packed) <= _SMALL_MAP else _GROUP
    ends = (0, *parts, c)
    groups = [
        slice(first, min(first + size_of_group, end))
        for begin, end in itertools.pairwise(ends)
        for first in range(begin, end, size_of_group)
    ]
    zeros = (
        [jnp.zeros((packed.shape[0], 4 * (g.stop - g.start)), wide) for g in groups],
        jnp.zeros((kernel.shape[0] * kernel.shape[1], c, o), wide),
    )
    (to_packed, to_kernel), (to_dy, to_dx, to_modulation) = lax.scan(
        one_chunk, zeros, (starts(r * w, chunk), *_planes(offsets, modulation, chunk))
    )
    to_dy, to_dx, to_modulation = (_joined(a, r * w) for a in (to_dy, to_dx, to_modulation))
    unpacked = list(zip(groups, (_unpacked(a, size) for a in to_packed), strict=True))
    to_parts = [
        jnp.concatenate([x for group, x in unpacked if begin <= group.start < end], -1)
        for begin, end in itertools.pairwise(ends)
    ]
    return (
        [x.astype(kernel.dtype) for x in to_parts],
        jnp.stack([to_dy, to_dx], 1).reshape(offsets.shape),
        to_modulation.reshape(modulation.shape),
        to_kernel.reshape(kernel.shape),
    )


class _Sample(NamedTuple):
    """One tap of a chunk: n samples."""

    index: Int[Array, " n"]  # of their rows in the packed map
    corners: list[Float[Array, "c n"]]  # the pixels around them, row by row
    factors: list[Float[Array, " n"]]  # bilinear weight times modulation; zero far outside the map
    inside: Array  # whether a sample lies within a pixel of the map
    down: Float[Array, " n"]  # how far it lies below its upper and
    right: Float[Array, " n"]  # to the right of its left corners, 0 to 1

    @property
    def value(self) -> Float[Array, "c n"]:
        return sum(v * f[None] for v, f in zip(self.corners, self.factors, strict=True))

    def to_place(self, to_sample: Float[Array, "c n"], modulation: Float[Array, " n"]):
        """Returns the gradients of dy, dx and the modulation."""
        to_factors = [
            jnp.where(self.inside, (v * to_sample).sum(0), 0).astype(modulation.dtype)
            for v in self.corners
        ]
        return to_planes(to_factors, self.down, self.right, modulation)


def _sample(packed, size, c, position, tap_y, tap_x, dy, dx, modulation, wide) -> _Sample:
    h, w = size
    dy, dx, modulation = (a.reshape(-1) for a in (dy, dx, modulation))
    top, down = whole_and_rest(position // w + tap_y, dy)
    left, right = whole_and_rest(position % w + tap_x, dx)
    inside = (top >= -1) & (top < h) & (left >= -1) & (left < w)
    stride = w + _MARGIN
    index = (jnp.clip(top, -1, h - 1) + 1) * stride + jnp.clip(left, -1, w - 1) + 1
    modulation = jnp.where(inside, modulation, 0)
    factors = [(weight * modulation).astype(wide) for weight in bilinear(down, right)]
    # Computed once for each sample, and not again for each of its channels.
    index, factors = lax.optimization_barrier((index, factors))
    corners = _corners(packed, index, stride, c, wide)
    return _Sample(index, corners, factors, inside, down, right)


def _corners(packed, index, stride, c, wide) -> list[Float[Array, "c n"]]:
    upper = _turned(packed, index, c)
    if packed.dtype == jnp.uint32:
        left, right = (_numbers(words) for words in upper)
        return [corner for row in zip(left, right, strict=True) for corner in row]
    lower = _turned(packed, index + stride, c)
    return [half.astype(wide) for row in (upper, lower) for half in row]


def _turned(packed, index, c):
    """Returns the left and the right half of rows of the packed map, as columns [c n]."""
    rows = packed.at[index].get(mode="promise_in_bounds")
    turned = lax.optimization_barrier(rows.T)
    half = packed.shape[1] // 2
    return turned[:c], turned[half : half + c]


def _words(low, high):
    """Returns two bfloat16 numbers as the halves of one word of 32 bits."""
    low, high = (lax.bitcast_convert_type(a, jnp.uint16).astype(jnp.uint32) for a in (low, high))
    return low | (high << 16)


def _numbers(words):
    """Returns the two numbers in each word as float32, whose upper half a bfloat16 number is."""
    low, high = words << 16, words >> 16 << 16
    return lax.bitcast_convert_type(low, jnp.float32), lax.bitcast_convert_type(high, jnp.float32)


def _spread(factors: Float[Array, "f n"], count: int) -> Float[Array, "n fc"]:
    """Returns rows in which each of the factors is repeated `count` times, exactly.

    It is a product with 0 and 1, since a number of a row costs much to be spread along the lanes.
    A factor is the sum of numbers of 8 bits, for which one pass of bfloat16 is enough.
    """
    parts = []
    for _ in range(-(-jnp.finfo(factors.dtype).nmant // 8)):
        part = lax.reduce_precision(factors, exponent_bits=8, mantissa_bits=7)
        parts.append(part.astype(jnp.bfloat16))
        factors -= part
    ones = jnp.repeat(jnp.eye(len(factors), dtype=jnp.bfloat16), count, 1)
    ones = jnp.tile(ones, (len(parts), 1))
    return jnp.einsum(
        "in,ic->nc", jnp.concatenate(parts), ones, preferred_element_type=factors.dtype
    )


def _unpacked(packed, size):
    """Returns the map whose pixel gets what was added to it as each of the four corners."""
    h, w = size
    packed = packed.reshape(-1, w + _MARGIN, packed.shape[-1])
    upper_left, upper_right, lower_left, lower_right = jnp.split(packed, 4, -1)
    return (
        upper_left[1 : h + 1, 1 : w + 1]
        + upper_right[1 : h + 1, :w]
        + lower_left[:h, 1 : w + 1]
        + lower_right[:h, :w]
    )


def _chunk(n: int, most: int) -> int:
    """Returns the size of equal chunks of at most about `most` positions, in whole lanes."""
    chunks = -(-n // most)
    return -(-n // chunks // _LANES) * _LANES


def _planes(offsets, modulation, chunk):
    """Returns dy, dx and modulation, each cut into chunks [chunks taps n/128 128].

    The last two axes are how the memory keeps the n numbers of a tap: taking one tap moves nothing.
    """
    offsets, modulation = (a.reshape(a.shape[0], -1) for a in (offsets, modulation))
    chunks = (_cut(a, chunk) for a in (offsets[0::2], offsets[1::2], modulation))
    return [a.reshape(*a.shape[:2], -1, _LANES) for a in chunks]


def _cut(planes, chunk):
    """Cuts [planes n] into [chunks planes chunk]. The last chunk is filled up with zeros."""
    planes = jnp.pad(planes, ((0, 0), (0, -planes.shape[1] % chunk)))
    return planes.reshape(planes.shape[0], -1, chunk).swapaxes(0, 1)


def _joined(chunks, n):
    """Undoes `_cut`: [chunks planes ...] becomes [planes n]."""
    return chunks.swapaxes(0, 1).reshape(chunks.shape[1], -1)[:, :n]
