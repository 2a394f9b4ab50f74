"""The deformable convolution as kernels for NVIDIA GPUs (Ampere and newer), forward and backward.

A program of the forward kernel owns a tile of output positions. For each tap it reads the four
pixels around each of its samples, all channels of them, weighs them in registers and multiplies
with that tap's weights at once: nothing but the output is written. Tiles are two-dimensional: the
samples of neighbours overlap, and a tile's pixels stay in the multiprocessor's own cache.

A program of the backward kernel owns one tap of several tiles, one after the other. It reads the
same pixels again, multiplies the gradient with the transposed weights, adds the products to the
pixels they came from by atomic additions, and keeps the gradient of the tap's weights in registers
until its last tile.

Numbers of one 12-megapixel photograph's largest layer (1536x2048 positions, 64 channels, bfloat16)
are in docs/deform_conv.md. Written in Pallas, for its Triton backend.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int

from massformer_jax.ops.precision import products
from massformer_jax.ops.relaxed_atomics import relaxed_add


class Tile(NamedTuple):
    """Positions of one program, and the warps that share them."""

    rows: int
    columns: int
    warps: int


def pieces(channels: int) -> list[tuple[int, int]]:
    """Returns channels as (first, count) of powers of two: a kernel's arrays have no other sizes.

    72 are 64 and 8; nothing is padded to 128.
    """
    found, first = [], 0
    while first < channels:
        count = 1 << ((channels - first).bit_length() - 1)
        found.append((first, count))
        first += count
    return found


def forward(
    x: Float[Array, "b h w c"],
    offsets: Float[Array, "b offsets r w"],
    modulation: Float[Array, "b taps r w"],
    kernel: Float[Array, "k k c o"],
    first_row: Int[Array, ""],
    *,
    tile: Tile | None = None,
    interpret: bool = False,
) -> Float[Array, "b r w o"]:
    """Computes what `massformer_jax.ops.deform_conv.deform_conv` says."""
    b, h, w, c = x.shape
    r, k, o = offsets.shape[2], kernel.shape[0], kernel.shape[-1]
    x, kernel = _padded_channels(x, kernel)
    tile = tile or _forward_tile(x.dtype, c, o)
    run = pl.pallas_call(
        functools.partial(
            _forward_kernel, tile=tile, size=(h, w, r), k=k, precision=_precision(x, interpret)
        ),
        out_shape=jax.ShapeDtypeStruct((b, r * w, o), x.dtype),
        grid=(_tiles(tile, w, r), b),
        in_specs=[ANYWHERE] * 5,
        out_specs=ANYWHERE,
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=1),
        interpret=interpret,
        name="deform_conv",
    )
    planes = (a.reshape(b, -1, r * w) for a in (offsets, modulation))
    out = run(x.reshape(b, h * w, -1), *planes, kernel, first_row.reshape(1))
    return out.reshape(b, r, w, o)


def backward(
    x: Float[Array, "b h w c"],
    offsets: Float[Array, "b offsets r w"],
    modulation: Float[Array, "b taps r w"],
    kernel: Float[Array, "k k c o"],
    first_row: Int[Array, ""],
    gradient: Float[Array, "b r w o"],
    *,
    tile: Tile | None = None,
    tiles: int = 8,
    interpret: bool = False,
) -> tuple[Array, Array, Array, Float[Array, "b k k c o"]]:
    """Returns gradients of x, offsets, modulation, and of the kernel for each image, float32."""
    b, h, w, c = x.shape
    r, k, o = offsets.shape[2], kernel.shape[0], kernel.shape[-1]
    padded, weights = _padded_channels(x, kernel)
    tile = tile or _BACKWARD_TILE
    # Where the layer narrows, gradients are added up before they are multiplied with the weights:
    # fewer additions, for one map for each tap.
    narrows = 2 * o <= c
    added = k * k * o if narrows else padded.shape[-1]
    run = pl.pallas_call(
        functools.partial(
            _backward_kernel,
            tile=tile,
            tiles=tiles,
            size=(h, w, r),
            k=k,
            narrows=narrows,
            precision=_precision(x, interpret),
            interpret=interpret,
        ),
        out_shape=(
            jax.ShapeDtypeStruct((b, h * w, added), jnp.float32),
            jax.ShapeDtypeStruct((b, 2 * k * k, r * w), jnp.float32),
            jax.ShapeDtypeStruct((b, k * k, r * w), jnp.float32),
            jax.ShapeDtypeStruct((b, *weights.shape), jnp.float32),
        ),
        # The taps of a tile side by side: they read the same pixels.
        grid=(k * k, -(-_tiles(tile, w, r) // tiles), b),
        in_specs=[ANYWHERE] * 8,
        out_specs=[ANYWHERE] * 4,
        input_output_aliases={6: 0, 7: 3},
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=1),
        interpret=interpret,
        name="deform_conv_backward",
    )
    planes = (a.reshape(b, -1, r * w) for a in (offsets, modulation))
    to_x, to_offsets, to_modulation, to_kernel = run(
        padded.reshape(b, h * w, -1),
        *planes,
        weights,
        first_row.reshape(1),
        gradient.reshape(b, r * w, o),
        _zeros((b, h * w, added), after=gradient),
        _zeros((b, *weights.shape), after=gradient),
    )
    if narrows:
        to_taps = jnp.swapaxes(weights[:, :c], 1, 2).reshape(added, c)
        to_x = jnp.einsum(
            "bnt,tc->bnc", to_x.astype(x.dtype), to_taps, preferred_element_type=jnp.float32
        )
    return (
        to_x[..., :c].reshape(x.shape).astype(x.dtype),
        to_offsets.reshape(offsets.shape).astype(offsets.dtype),
        to_modulation.reshape(modulation.shape).astype(modulation.dtype),
        to_kernel[:, :, :c, :o].reshape(b, *kernel.shape),
    )


ANYWHERE = pl.BlockSpec(memory_space=pl.ANY)


def _zeros(shape: tuple[int, ...], *, after: Array) -> Float[Array, "..."]:
    """Returns zeros that do not exist before another array.

    What sums are added to depends on nothing. Left alone, XLA may make it long before it is needed:
    in a training step with two crops of 1024x1024, 0.65 GB lay there throughout the backward pass.
    """
    beyond = after.reshape(-1)[0] > jnp.inf  # never, and the compiler does not know that
    return jnp.broadcast_to(beyond.astype(jnp.float32), shape)


def _precision(x, interpret):
    """Returns how exactly float32 arrays are multiplied: as asked for.

    Exact products are sums of three of TF32, whose errors were those of float32's own rounding
    (docs/deform_conv.md).
    """
    if x.dtype == jnp.bfloat16:
        return None
    if interpret or products() != lax.Precision.HIGHEST:
        return products()
    return lax.DotAlgorithmPreset.TF32_TF32_F32_X3


def _padded_channels(x, kernel):
    """Pads channels to rows of whole 16 bytes, so that they are read in vectors."""
    missing = -x.shape[-1] % 8
    k = kernel.shape[0]
    x = jnp.pad(x, ((0, 0),) * 3 + ((0, missing),)) if missing else x
    kernel = kernel.reshape(k * k, *kernel.shape[2:])
    return x, jnp.pad(kernel, ((0, 0), (0, x.shape[-1] - kernel.shape[1]), (0, 0)))


# The fastest of those tried on an H100 (docs/deform_conv.md).
def _forward_tile(dtype, c, o) -> Tile:
    if dtype == jnp.bfloat16:
        return Tile(8, 8, 4)
    return Tile(8, 8, 4) if c >= 128 and o < 128 else Tile(4, 8, 4)


_BACKWARD_TILE = Tile(8, 4, 4)


def _tiles(tile: Tile, width: int, rows: int) -> int:
    return -(-width // tile.columns) * -(-rows // tile.rows)


def _power_of_two(n: int) -> int:
    """Returns a size that products take: a power of two, at least 16."""
    return max(16, 1 << (n - 1).bit_length())


def channel_range(first: int, count: int, limit: int):
    """Returns indices of channels [1, n] and which of them exist.

    n is a power of two, at least 16.
    """
    n = _power_of_two(count)
    index = first + lax.broadcasted_iota(jnp.int32, (1, n), 1)
    return index, None if n == count else index < first + count


def both(*masks):
    masks = [mask for mask in masks if mask is not None]
    return functools.reduce(jnp.logical_and, masks) if masks else None


def tile_positions(tile: Tile, number, size):
    """Returns rows, columns and flat positions [n] of a tile, and which exist (None: all).

    Tiles are numbered row by row; those past the last have rows past the last.
    """
    _, w, r = size
    across = jnp.int32(-(-w // tile.columns))
    tile_row, tile_column = lax.div(number, across), lax.rem(number, across)
    i = jnp.arange(tile.rows * tile.columns, dtype=jnp.int32)
    row = tile_row * tile.rows + lax.div(i, jnp.full_like(i, tile.columns))
    column = tile_column * tile.columns + lax.rem(i, jnp.full_like(i, tile.columns))
    inside = both(
        None if r % tile.rows == 0 else row < r, None if w % tile.columns == 0 else column < w
    )
    return row, column, row * w + column, inside


def load(ref, mask=None):
    return plgpu.load(ref, mask=mask, other=None if mask is None else 0)


class _Corners(NamedTuple):
    indices: list[Array]
    inside: list[Array]
    weights: list[Array]
    down: Array
    right: Array


def _corners(dy, dx, row, column, tap, k, size) -> _Corners:
    """Returns the four pixels around each sample, as in `deform_conv`, whose comments hold here."""
    h, w, _ = size
    tap_y = lax.div(tap, jnp.int32(k)) - k // 2
    tap_x = lax.rem(tap, jnp.int32(k)) - k // 2
    top, left = jnp.floor(dy), jnp.floor(dx)
    down, right = dy - top, dx - left
    far = 2.0**30
    top = row + tap_y + jnp.clip(top, -far, far).astype(jnp.int32)
    left = column + tap_x + jnp.clip(left, -far, far).astype(jnp.int32)
    around = [(y, x) for y in (top, top + 1) for x in (left, left + 1)]
    inside = [(y >= 0) & (y < h) & (x >= 0) & (x < w) for y, x in around]
    indices = [jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1) for y, x in around]
    up, away = 1 - down, 1 - right
    weights = [up * away, up * right, down * away, down * right]
    return _Corners(indices, inside, weights, down, right)


def _forward_kernel(
    x_ref, offsets_ref, modulation_ref, kernel_ref, row_ref, out_ref, *, tile, size, k, precision
):
    image = pl.program_id(1)
    row, column, position, exists = tile_positions(tile, pl.program_id(0), size)
    output_row = row + row_ref[0]
    c, o = kernel_ref.shape[1:]
    out_columns, out_exists = channel_range(0, o, o)

    def tap(t, total):
        dy = load(offsets_ref.at[image, 2 * t, position], exists)
        dx = load(offsets_ref.at[image, 2 * t + 1, position], exists)
        factor = load(modulation_ref.at[image, t, position], exists)
        corners = _corners(dy, dx, output_row, column, t, k, size)
        factors = [
            jnp.where(inside, weight * factor, 0.0)
            for inside, weight in zip(corners.inside, corners.weights, strict=True)
        ]
        for first, count in pieces(c):
            channels, known = channel_range(first, count, c)
            sampled = None
            for index, f in zip(corners.indices, factors, strict=True):
                value = load(x_ref.at[image, index[:, None], channels], known)
                term = value.astype(jnp.float32) * f[:, None]
                sampled = term if sampled is None else sampled + term
            weights = load(
                kernel_ref.at[t, channels.T, out_columns],
                both(None if known is None else known.T, out_exists),
            )
            total += jnp.dot(
                sampled.astype(x_ref.dtype),
                weights,
                precision=precision,
                preferred_element_type=jnp.float32,
            )
        return total

    zeros = jnp.zeros((tile.rows * tile.columns, out_columns.shape[1]), jnp.float32)
    total = lax.fori_loop(0, k * k, tap, zeros)
    mask = both(None if exists is None else exists[:, None], out_exists)
    plgpu.store(
        out_ref.at[image, position[:, None], out_columns], total.astype(out_ref.dtype), mask=mask
    )


def _backward_kernel(
    x_ref,
    offsets_ref,
    modulation_ref,
    kernel_ref,
    row_ref,
    gradient_ref,
    _to_x,
    _to_kernel,
    to_x_ref,
    to_offsets_ref,
    to_modulation_ref,
    to_kernel_ref,
    *,
    tile,
    tiles,
    size,
    k,
    narrows,
    precision,
    interpret,
):
    t, group, image = (pl.program_id(axis) for axis in range(3))
    _, w, r = size
    count = _tiles(tile, w, r)
    c, o = kernel_ref.shape[1:]
    out_columns, out_exists = channel_range(0, o, o)
    parts = [channel_range(first, n, c) for first, n in pieces(c)]
    dot = functools.partial(jnp.dot, precision=precision, preferred_element_type=jnp.float32)

    def one_tile(i, to_kernel):
        row, column, position, exists = tile_positions(tile, group * tiles + i, size)
        if count % tiles:
            exists = both(exists, row < r)
        dy = load(offsets_ref.at[image, 2 * t, position], exists)
        dx = load(offsets_ref.at[image, 2 * t + 1, position], exists)
        factor = load(modulation_ref.at[image, t, position], exists)
        corners = _corners(dy, dx, row + row_ref[0], column, t, k, size)
        mask = both(None if exists is None else exists[:, None], out_exists)
        gradient = load(gradient_ref.at[image, position[:, None], out_columns], mask)
        here = [both(inside, exists)[:, None] for inside in corners.inside]
        down, right = corners.down[:, None], corners.right[:, None]
        factors = [(weight * factor)[:, None] for weight in corners.weights]
        if narrows:
            for index, f, added in zip(corners.indices, factors, here, strict=True):
                part = gradient.astype(jnp.float32) * f
                place = (image, index[:, None], t * o + out_columns)
                _add(to_x_ref, place, part, both(added, out_exists), interpret)
        to_dy = to_dx = to_factor = jnp.zeros_like(factor)
        sums = []
        for (channels, known), to_part in zip(parts, to_kernel, strict=True):
            weights = load(
                kernel_ref.at[t, channels.T, out_columns],
                both(None if known is None else known.T, out_exists),
            )
            to_sample = dot(gradient, weights.T)
            values = []
            for index, f, added in zip(corners.indices, factors, here, strict=True):
                place = (image, index[:, None], channels)
                value = load(x_ref.at[place], both(known, added))
                values.append(value.astype(jnp.float32))
                if not narrows:
                    _add(to_x_ref, place, to_sample * f, both(known, added), interpret)
            # What the sample and its slopes are, channel by channel, so that three sums over the
            # channels do instead of one for each corner: the sums are what a tap costs most.
            upper = values[0] + right * (values[1] - values[0])
            lower = values[2] + right * (values[3] - values[2])
            sample = upper + down * (lower - upper)
            left = values[0] + down * (values[2] - values[0])
            slope_x = values[1] + down * (values[3] - values[1]) - left
            to_factor += jnp.sum(sample * to_sample, 1)
            to_dy += jnp.sum((lower - upper) * to_sample, 1)
            to_dx += jnp.sum(slope_x * to_sample, 1)
            sampled = (sample * factor[:, None]).astype(x_ref.dtype)
            sums.append(to_part + dot(sampled.T, gradient))
        to_dy, to_dx = factor * to_dy, factor * to_dx
        plgpu.store(to_offsets_ref.at[image, 2 * t, position], to_dy, mask=exists)
        plgpu.store(to_offsets_ref.at[image, 2 * t + 1, position], to_dx, mask=exists)
        plgpu.store(to_modulation_ref.at[image, t, position], to_factor, mask=exists)
        return tuple(sums)

    zeros = tuple(
        jnp.zeros((channels.shape[1], out_columns.shape[1]), jnp.float32) for channels, _ in parts
    )
    totals = lax.fori_loop(0, tiles, one_tile, zeros)
    for (channels, known), total in zip(parts, totals, strict=True):
        mask = both(None if known is None else known.T, out_exists)
        _add(to_kernel_ref, (image, t, channels.T, out_columns), total, mask, interpret)


def _add(ref, index, value, mask, interpret):
    if not interpret:
        relaxed_add(ref, index, value, mask)
        return
    value = value if mask is None else jnp.where(mask, value, 0.0)
    ref[...] = ref[...].at[index].add(value, mode="drop")
