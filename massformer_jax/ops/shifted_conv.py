"""Convolutions of very few channels, as what they are: sums of shifted, weighted maps.

A library's convolution of two channels pads them to its own multiples. On an H100 the two of LSE,
7x7 and 2 to 1, took 14 of 203 ms at 12 megapixels; 98 multiply-adds a position of maps that stay
in the cache take a tenth of a millisecond.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from massformer_jax.ops.points import widened


@jax.custom_vjp
def shifted_conv(
    maps: Float[Array, "c b h w"], kernel: Float[Array, "k k c"]
) -> Float[Array, "b h w"]:
    """Stride 1, padding k // 2, to one channel; float32 or wider inside, in the maps' dtype."""
    wide = widened(maps.dtype)
    _, _, h, w = maps.shape
    size, half = kernel.shape[0], kernel.shape[0] // 2
    margin = ((0, 0), (0, 0), (half, half), (half, half))
    # The barrier: padded once, not again for each of the shifts.
    padded = jax.lax.optimization_barrier(jnp.pad(maps.astype(wide), margin))
    kernel = kernel.astype(wide)
    total = jnp.zeros(maps.shape[1:], wide)
    for channel in range(len(maps)):
        for i in range(size):
            for j in range(size):
                total += padded[channel, :, i : i + h, j : j + w] * kernel[i, j, channel]
    return total.astype(maps.dtype)


def _forward(maps, kernel):
    return shifted_conv(maps, kernel), (maps, kernel)


def _backward(kept, gradient):
    maps, kernel = kept
    wide = widened(maps.dtype)
    flipped = kernel[::-1, ::-1]
    to_maps = [shifted_conv(gradient[None], flipped[..., i : i + 1]) for i in range(len(maps))]
    # That of the kernel is a convolution of large windows, which libraries are made for.
    half = kernel.shape[0] // 2
    to_kernel = jax.lax.conv_general_dilated(
        maps.astype(wide),
        gradient[None].astype(wide),
        (1, 1),
        [(half, half)] * 2,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )
    return jnp.stack(to_maps), to_kernel[:, 0].transpose(1, 2, 0).astype(kernel.dtype)


shifted_conv.defvjp(_forward, _backward)
