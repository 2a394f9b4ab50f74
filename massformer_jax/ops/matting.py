"""Coverage of pixels from their colours: how much of a pixel shows what is in front.

A pixel that a twig covers to one half receives half of the twig's light and half of the sky's. So
its light, not its encoded value, lies on the straight line between the two; where on it, is the
coverage. What is in front and what is behind is taken from pixels nearby that are sure to show one
of them alone: means, weighted by how near they are, of what `block_sums` gathers for blocks of 8x8
pixels. They change slowly from place to place, so that maps at an eighth of the size hold them.

A means in front and B behind throughout.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from massformer_jax.ops.resize import resize_bilinear

BLOCK = 8  # pixels along each side of a block
LEVELS = 4  # of the pyramid in `spread`: sides must be multiples of BLOCK * 2**(LEVELS - 1)

_SIGMA = 1.0  # of the Gaussian of a level, in its own positions: 8 pixels at the finest
_FURTHER = 0.01  # what a level counts beside the next finer one
_TAPS = np.exp(-0.5 * (np.arange(-3, 4) / _SIGMA) ** 2).astype(np.float32)
_TAPS /= _TAPS.sum()

_NOISE = 1e-3  # variance of light, in 0..1, that is in every photograph
# The coverage by the scores alone has at least this variance: scores of twigs say that there is
# nothing, so that wherever the light tells anything, it decides.
_DOUBT = 0.25
# What is nearer to 0 or 1 than this share of its standard deviation, or than this, becomes 0 or 1.
_SETTLED, _SETTLED_MOST = 0.5, 0.1

# The channels of each product of two that a covariance consists of.
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


class Colours(NamedTuple):
    """What is in front, or behind, around each block.

    Attributes:
        mean: its light, in 0..1.
        covariance: of the channels of its light: RR, RG, RB, GG, GB, BB.
    """

    mean: Float[Array, "i j 3"]
    covariance: Float[Array, "i j 6"]


def decoded(image: UInt8[Array, "*_"]) -> Float[Array, "*_"]:
    """Returns the light, in 0..1, of sRGB values."""
    x = np.arange(256, dtype=np.float32) / 255
    table = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return jnp.take(jnp.asarray(table), image.astype(jnp.int32), axis=0)


def encoded(light: Float[Array, "*_"]) -> UInt8[Array, "*_"]:
    """Returns the sRGB values of light, which is first clipped to 0..1."""
    x = jnp.clip(light, 0, 1)
    curve = 1.055 * jnp.maximum(x, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.round(255 * jnp.where(x <= 0.0031308, 12.92 * x, curve)).astype(jnp.uint8)


def by_block(x: Float[Array, "h w"]) -> Float[Array, "i j 64"]:
    """Returns the pixels of each block side by side."""
    h, w = x.shape
    blocks = x.reshape(h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    return blocks.transpose(0, 2, 1, 3).reshape(h // BLOCK, w // BLOCK, BLOCK * BLOCK)


def block_sums(
    light: Float[Array, "h w 3"], weight: Float[Array, "h w"], *, products: bool = True
) -> Float[Array, "h//8 w//8 s"]:
    """Returns, of the pixels of each block, weights, weighted light and its weighted products.

    There are 10 sums, or 4 without the products of each two channels.
    """
    maps = [weight, *(weight * light[..., c] for c in range(3))]
    if products:
        maps += [weight * light[..., c] * light[..., d] for c, d in _PAIRS]
    return jnp.stack([by_block(x).mean(-1) for x in maps], -1)


def sums_of_both(
    light: Float[Array, "h w 3"],
    share: Float[Array, "h w"],
    inside: Float[Array, "h w"],
    power: int,
    *,
    products: bool = True,
) -> Float[Array, "h//8 w//8 both"]:
    """Returns the `block_sums` of what is in front, and then of what is behind.

    Args:
        light: of the pixels.
        share: of each pixel that is in front, in 0..1.
        inside: 1 for pixels that count, 0 for others.
        power: of the share, see `purity`.
        products: see `block_sums`.
    """
    weights = inside * purity(share, power), inside * purity(1 - share, power)
    return jnp.concatenate([block_sums(light, x, products=products) for x in weights], -1)


def purity(share: Float[Array, "*_"], power: int) -> Float[Array, "*_"]:
    """Returns the weight in means of what a pixel, or a block, shows to this share at least.

    The greater the power, the less do mixed ones count beside those that show one thing alone.
    """
    return share**power


def spread(sums: Float[Array, "i j c"]) -> Float[Array, "i j c"]:
    """Returns sums over the neighbourhood of each block, in which near blocks count more.

    It is a pyramid: the blocks within about 8 pixels decide. Only where these hold little, those
    within 16 do, and so on up to 128 pixels.
    """
    levels = [sums]
    for _ in range(LEVELS - 1):
        i, j, c = levels[-1].shape
        levels.append(levels[-1].reshape(i // 2, 2, j // 2, 2, c).mean((1, 3)))
    total = None
    for level in reversed(levels):
        near = _blurred(_blurred(level, 0), 1)
        total = near if total is None else near + _FURTHER * resize_bilinear(total, near.shape[:2])
    return total


def _blurred(x: Float[Array, "i j c"], axis: int) -> Float[Array, "i j c"]:
    """Blurs along an axis; what lies outside of the map is zero."""
    reach, size = len(_TAPS) // 2, x.shape[axis]
    framed = jnp.pad(x, [(reach, reach) if i == axis else (0, 0) for i in range(3)])
    # A convolution of maps that have one channel each takes CPUs twenty times as long.
    shifted = (jax.lax.slice_in_dim(framed, k, k + size, axis=axis) for k in range(len(_TAPS)))
    return sum(tap * part for tap, part in zip(_TAPS, shifted, strict=True))


def colours_of(sums: Float[Array, "i j 10"]) -> Colours:
    """Returns the colours that the spread sums of `block_sums` tell."""
    mean = mean_of(sums)
    products = sums[..., 4:] / jnp.maximum(sums[..., :1], 1e-20)
    own = jnp.stack([mean[..., c] * mean[..., d] for c, d in _PAIRS], -1)
    return Colours(mean, products - own)


def mean_of(sums: Float[Array, "i j s"]) -> Float[Array, "i j 3"]:
    """Returns the mean light that the spread sums of `block_sums` tell."""
    return sums[..., 1:4] / jnp.maximum(sums[..., :1], 1e-20)


def enlarged_rows(
    x: Float[Array, "i j c"], start: int | Int[Array, ""], count: int
) -> Float[Array, "r 8*j c"]:
    """Returns rows `start` to `start + count` of the map resized to the pixels, bilinearly."""
    n = x.shape[0]
    place = ((jnp.arange(count) + start).astype(x.dtype) + 0.5) / BLOCK - 0.5
    place = jnp.clip(place, 0, n - 1)
    low = jnp.floor(place).astype(jnp.int32)
    share = (place - low.astype(x.dtype)).reshape(-1, 1, 1)
    upper, lower = jnp.take(x, low, 0), jnp.take(x, jnp.minimum(low + 1, n - 1), 0)
    rows = upper * (1 - share) + lower * share
    return resize_bilinear(rows, (count, BLOCK * x.shape[1]))


def unmixing(front: Colours, behind: Colours, *, correlated: bool) -> Float[Array, "i j 5"]:
    """Returns the linear function of the light that tells the coverage, and how much it tells.

    Args:
        front: the colours in front.
        behind: those behind.
        correlated: whether channels vary together as the covariances tell. Otherwise they vary
            independently, and equally much: as long as colours behind hold twigs that nobody has
            seen yet, their covariance points to the very colours that are looked for.

    Returns:
        For each block the slope (3 numbers), the offset, and the weight: light of the colours in
        front gives the weight, of those behind 0. The weight is the inverse of the variance of the
        coverage that comes from the variance of the light.
    """
    covariance = front.covariance + behind.covariance
    if not correlated:
        alike = jnp.maximum(covariance[..., jnp.array([0, 3, 5])].mean(-1), 0)
        none = jnp.zeros_like(alike)
        covariance = jnp.stack([alike, none, none, alike, none, alike], -1)
    difference = front.mean - behind.mean
    slope = _solved(covariance, difference)
    offset = -(slope * behind.mean).sum(-1, keepdims=True)
    weight = (slope * difference).sum(-1, keepdims=True)
    return jnp.concatenate([slope, offset, weight], -1)


def _solved(
    covariance: Float[Array, "i j 6"], vector: Float[Array, "i j 3"]
) -> Float[Array, "i j 3"]:
    """Returns the vector multiplied by the inverse of the covariance with the noise added."""
    rr, rg, rb, gg, gb, bb = (covariance[..., k] for k in range(6))
    rr, gg, bb = rr + _NOISE, gg + _NOISE, bb + _NOISE
    adjugate = (
        (gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg),
        (rb * gb - rg * bb, rr * bb - rb * rb, rg * rb - rr * gb),
        (rg * gb - rb * gg, rg * rb - rr * gb, rr * gg - rg * rg),
    )
    determinant = rr * adjugate[0][0] + rg * adjugate[0][1] + rb * adjugate[0][2]
    products = [sum(row[c] * vector[..., c] for c in range(3)) for row in adjugate]
    # No smaller than of the noise alone, whatever rounding made of it.
    return jnp.stack(products, -1) / jnp.maximum(determinant, _NOISE**3)[..., None]


def unmixed(
    light: Float[Array, "h w 3"],
    prior: Float[Array, "h w"],
    told: Float[Array, "h w 5"],
    open_to: Float[Array, "h w"],
    *,
    settled: bool,
) -> Float[Array, "h w"]:
    """Returns the coverage, in 0..1, that light and scores make likely.

    Args:
        light: of the photograph, in 0..1.
        prior: the coverage by the scores alone, in 0..1. Its variance is taken to be 4 p (1 - p),
            but at least 0.25.
        told: what `unmixing` gave, enlarged.
        open_to: how far this variance counts, in 0..1; 0 leaves what the prior is nearer to.
        settled: whether what is about 0 or 1, in view of the noise, becomes exactly that.
    """
    variance = jnp.maximum(4 * prior * (1 - prior), _DOUBT) * open_to
    sure = 1 / jnp.maximum(variance, 1e-6)
    weight = told[..., 4] + sure
    share = ((told[..., :3] * light).sum(-1) + told[..., 3] + prior * sure) / weight
    if settled:
        margin = jnp.minimum(_SETTLED / jnp.sqrt(weight), _SETTLED_MOST)
        share = (share - margin) / (1 - 2 * margin)
    return jnp.where(open_to > 0, jnp.clip(share, 0, 1), jnp.round(prior))


def front_of(
    light: Float[Array, "h w 3"],
    share: Float[Array, "h w"],
    front: Float[Array, "h w 3"],
    behind: Float[Array, "h w 3"],
) -> Float[Array, "h w 3"]:
    """Returns the light of what is in front alone, in 0..1.

    It is the mean in front, moved by as much of the difference between the pixel and the mixture of
    both means as falls to the front: blur fusion (Forte, "Approximate Fast Foreground Colour
    Estimation", ICIP 2021), with the means of this module.
    """
    share = share[..., None]
    mixture = share * front + (1 - share) * behind
    return jnp.clip(front + share * (light - mixture), 0, 1)
