"""The convolution that predicts offsets and modulations: few channels, as planes, in float32.

A deformable convolution reads its offsets plane by plane. A library's convolution would write them
channel by channel, padded to its own multiples, and in the dtype of its input: of a bfloat16 map
the kernel here writes planes of float32, once. Sources are those of `deform_conv_kernels`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from massformer_jax.ops import deform_conv_kernels as kernels
from massformer_jax.ops import kernel_choice
from massformer_jax.ops.by_image import by_image
from massformer_jax.ops.deform_conv_kernels import Tile, both, channel_range, load, pieces
from massformer_jax.ops.precision import float32_products, products, widened
from massformer_jax.ops.rows import Rows, take_rows

TILE = Tile(4, 32, 4)  # of an H100, see docs/deform_conv.md
BLOCK = 32  # planes: their number is padded to a multiple


def planes_conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k c p"],
    bias: Float[Array, " p"],
    rows: Rows,
) -> Float[Array, "b p r w"]:
    """Convolves with stride 1 and padding k // 2; returns `rows` of the output.

    They are float32 or wider, whatever the map is.

    Of rows inside the map the outermost `k // 2` may be what the rows alone would give, as if the
    map ended there.

    Args:
        x: the map.
        kernel: float32 or wider. Where a kernel multiplies it with a bfloat16 map, it is rounded as
            that map was; products, sums and what is returned are float32.
        bias: like `kernel`.
        rows: which rows; the first may be traced.
    """
    inputs = (x, kernel, bias, jnp.asarray(rows.start, jnp.int32))
    return _planes_conv(rows.count, *inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _planes_conv(count, *inputs):
    plain = functools.partial(_plain, count)
    x = inputs[0]
    if x.dtype != jnp.bfloat16 or not kernel_choice.usable(x):
        return plain(*inputs)

    def kernel(*inputs):
        (planes,) = by_image(lambda *a: (on_gpu(count, *a),), (True, False, False, False))(*inputs)
        return planes

    return lax.platform_dependent(*inputs, cuda=kernel, default=plain)


def _forward(count, *inputs):
    return _planes_conv(count, *inputs), inputs


def _backward(count, inputs, gradient):
    x, kernel, bias, first_row = inputs
    # In the dtype of the map, as the gradients of all other convolutions are.
    gradient = gradient.astype(x.dtype)
    narrow = kernel.astype(x.dtype)

    def of_map(x):
        return _convolved(count, x, narrow, first_row)

    def of_kernel(kernel):
        return _convolved(count, x, kernel, first_row)

    # Transposed and not differentiated, which would trace a convolution whose result nobody reads.
    (to_x,) = jax.linear_transpose(of_map, x)(gradient)
    (to_kernel,) = jax.linear_transpose(of_kernel, narrow)(gradient)
    to_bias = gradient.sum((0, 2, 3))
    return to_x, to_kernel.astype(kernel.dtype), to_bias.astype(bias.dtype), None


_planes_conv.defvjp(_forward, _backward)


def _plain(count, x, kernel, bias, first_row):
    planes = _convolved(count, x, kernel, first_row, wide=True)
    return planes + bias.reshape(1, -1, 1, 1)


def _convolved(count, x, kernel, first_row, wide=False):
    near = take_rows(x, Rows(first_row, count))
    near = near.astype(widened(x.dtype)) if wide else near
    half = kernel.shape[0] // 2
    # Planes are made of channels afterwards. If the convolution wrote them, XLA would call no
    # library for it in a loop on a CPU, and R18-Lite would take twice as long for 1024x1024.
    maps = lax.conv_general_dilated(
        near,
        kernel,
        (1, 1),
        [(half, half)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=float32_products() if wide else products(),
    )
    return jnp.moveaxis(maps, -1, 1)


def on_gpu(count, x, kernel, bias, first_row, *, tile=TILE, interpret=False):
    """Computes `planes_conv` of a bfloat16 map as a kernel; every row is exact."""
    b, h, w, c = x.shape
    k, _, _, p = kernel.shape
    padded = -(-p // BLOCK) * BLOCK
    kernel = jnp.pad(kernel.reshape(k * k, c, p), ((0, 0), (0, 0), (0, padded - p)))
    block = 2 * BLOCK if padded % (2 * BLOCK) == 0 else BLOCK
    tiles = -(-w // tile.columns) * -(-count // tile.rows)
    run = pl.pallas_call(
        functools.partial(_kernel, tile=tile, size=(h, w, count), k=k, block=block, planes=p),
        out_shape=jax.ShapeDtypeStruct((b, p, count * w), jnp.float32),
        grid=(tiles, padded // block, b),
        in_specs=[kernels.ANYWHERE] * 4,
        out_specs=kernels.ANYWHERE,
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=2),
        interpret=interpret,
        name="planes_conv",
    )
    bias = jnp.pad(bias, (0, padded - p))
    planes = run(x.reshape(b, h * w, c), kernel.astype(x.dtype), bias, first_row.reshape(1))
    return planes.reshape(b, p, count, w)


def _kernel(x_ref, kernel_ref, bias_ref, row_ref, out_ref, *, tile, size, k, block, planes):
    """A program computes `block` planes of one tile of positions."""
    number, group, image = (pl.program_id(axis) for axis in range(3))
    h, w, _ = size
    row, column, position, exists = kernels.tile_positions(tile, number, size)
    plane = group * block + lax.broadcasted_iota(jnp.int32, (1, block), 1)
    c = kernel_ref.shape[1]
    dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)

    def tap(t, total):
        y = row + row_ref[0] + lax.div(t, jnp.int32(k)) - k // 2
        x = column + lax.rem(t, jnp.int32(k)) - k // 2
        inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
        index = jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)
        for first, count in pieces(c):
            channels, known = channel_range(first, count, c)
            value = load(x_ref.at[image, index[:, None], channels], both(inside[:, None], known))
            weights = load(kernel_ref.at[t, channels.T, plane], None if known is None else known.T)
            total += dot(value, weights)
        return total

    zeros = jnp.zeros((tile.rows * tile.columns, block), jnp.float32)
    total = lax.fori_loop(0, k * k, tap, zeros) + load(bias_ref.at[plane])
    mask = both(plane < planes, None if exists is None else exists[:, None])
    plgpu.store(
        out_ref.at[image, plane, position[:, None]],
        total,
        mask=jnp.broadcast_to(mask, total.shape),
    )
