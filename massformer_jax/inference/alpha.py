"""Soft edges: how much of every pixel some classes cover, and the colours of what covers it.

The way of `coverage`:

1. The scores of the classes that count as one, against those of the others, give a prior.
2. Where it is sure, far from any edge, the coverage is 0 or 1. The rest is the uncertain band,
   which ends gradually.
3. The colours in front and behind are means over pixels that show one of them by the prior
   (`ops/matting.py`).
4. The light of each pixel in the band tells its coverage; where the colours are alike, the prior
   does.
5. Colours are taken anew from what 4 found, so that those of a twig come from the twig, and 4 is
   repeated with them: three times in all.

Maps of colours have an eighth of the size. Everything at full size is computed in strips of rows
that read no pixel of another strip: there are no seams. For 4096x3072 pixels the state is 50 MB of
scores, 38 MB of the photograph, 50 MB of the answer and 36 MB of maps at an eighth of the size,
besides the strip's 63 MB. docs/alpha.md tells how near the answers are to the truth.
"""

import functools
from collections.abc import Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from massformer_jax.compilation import announce
from massformer_jax.errors import InputError
from massformer_jax.inference.stream import Remedy
from massformer_jax.models.massformer import STRIDE
from massformer_jax.ops import matting
from massformer_jax.ops.matting import BLOCK
from massformer_jax.ops.rows import Rows, in_strips

# Pixels of a strip. About 60 numbers of float32 exist for each: 63 MB.
STRIP = 1 << 18
# A block is uncertain unless all of its priors are below this, or all are above 1 minus this. So
# is the next block; from there to five blocks away, 40 pixels, the light decides less and less.
# Scores know nothing of the ends of hairs, and a band that ended at once would cut them. A wider
# one would make windows that mirror the sky part of it.
_UNSURE = 0.003
_REACH = 3
_FADE = 2
# Only blocks up to this far from one with priors that are further from 0 and from 1 are uncertain.
# Scores waver a little within large regions as well, where nothing shows what would be behind.
_TORN = 0.15
_FROM_TORN = 16
# The power of a share that a pixel counts with in a mean of colours: first of shares by the scores
# alone, then of those that the step before found.
_FIRST_PURITY = 16
_PURITIES = (8, 8, 4)
# Of the pixels whose label agrees with all labels up to eight blocks away, this share is usual.
_FAR = 4
_USUAL = 0.95

# What helps where the memory does not suffice: the size alone decides how much is needed.
HALVED = Remedy("pass the photograph at half its size, or leave soft edges out", "")


def soft_edges_of(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Returns what is computed of a photograph, for an error message."""
    return "the soft edges of {} rows of {} pixels".format(*image.shape)


def coverage(
    probabilities: Float[np.ndarray, "h w k"],
    image: UInt8[np.ndarray, "h w 3"],
    members: Sequence[int],
) -> Float[np.ndarray, "h w"]:
    """Returns the share of every pixel that the union of some classes covers, float32 in 0..1.

    It is exactly 0 or 1 outside of a band around the edges, which the probabilities tell. The
    shares of a union and of all other classes add up to 1.

    Args:
        probabilities: of each class, float32, at least 0; they need not add up to 1.
        image: the photograph, RGB, sRGB.
        members: the labels of the union.

    Raises:
        InputError: the sizes differ, or a label is not one of 0..k-1.
    """
    h, w, k = probabilities.shape
    if image.shape[:2] != (h, w):
        raise InputError(f"image is {image.shape[:2]} and probabilities {(h, w)}; pass equal sizes")
    if wrong := [label for label in members if not 0 <= label < k]:
        raise InputError(f"there is no class {wrong[0]}; labels are 0 to {k - 1}")
    prior = prior_of(probabilities, members)
    if not 0 < np.mean(prior > 0.5) < 1:
        return np.round(prior)
    padded = _padded(prior), _padded(image), np.int32(h), np.int32(w)
    return np.array(_coverage(*padded, strip_rows(padded[0].shape[1]))[:h, :w])


def foreground(
    image: UInt8[np.ndarray, "h w 3"], alpha: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the colours of what covers each pixel, without those of what is behind it.

    Where alpha is 1 they are those of the image. Where it is 0 they go on from the nearest pixels
    that are covered, so that a picture may be resized without a fringe.

    Args:
        image: the photograph, RGB, sRGB.
        alpha: the share of every pixel that is covered, in 0..1.

    Raises:
        InputError: the sizes differ.
    """
    h, w, _ = image.shape
    if alpha.shape != (h, w):
        raise InputError(f"image is {(h, w)} and alpha {alpha.shape}; pass equal sizes")
    padded = _padded(alpha.astype(np.float32)), _padded(image), np.int32(h), np.int32(w)
    return np.array(_foreground(*padded, strip_rows(padded[0].shape[1]))[:h, :w])


def strip_rows(width: int) -> int:
    """Returns how many rows a strip has; it divides the height of what is padded."""
    rows = STRIDE
    while rows > BLOCK and rows * width > STRIP:
        rows //= 2
    return rows


def prior_of(
    probabilities: Float[np.ndarray, "h w k"], members: Sequence[int]
) -> Float[np.ndarray, "h w"]:
    """Returns the coverage by the scores alone, in 0..1, above 0.5 where the label is a member.

    It is the best score of the members beside the best of the others. Networks differ in how sure
    they ever are: what is usual far from edges where a member wins counts as 1, and what is usual
    where another wins as 0.
    """
    h, w, k = probabilities.shape
    if not members or len(set(members)) == k:
        return np.full((h, w), bool(members), np.float32)

    def best(labels):
        return functools.reduce(np.maximum, (probabilities[..., label] for label in labels))

    ours, others = best(set(members)), best(set(range(k)) - set(members))
    share = ours / np.maximum(ours + others, np.finfo(np.float32).tiny)
    low, high = _usual(share[::BLOCK, ::BLOCK])
    # Each side is stretched by itself, so that 0.5 stays where it is.
    reach = np.where(share > 0.5, high - 0.5, 0.5 - low).astype(np.float32)
    stretched = 0.5 + (share - 0.5) * (0.5 / reach)
    return np.clip(stretched, 0, 1)


def _usual(share: Float[np.ndarray, "i j"]) -> tuple[float, float]:
    """Returns the highest share that is usual where others win, and the lowest where members do."""
    inside = share > 0.5
    square = np.ones((2 * _FAR + 1,) * 2, np.uint8)
    far_inside, far_outside = (cv2.erode(x.astype(np.uint8), square) > 0 for x in (inside, ~inside))
    low = _quantile(share, far_outside, ~inside, _USUAL, otherwise=0.0)
    high = _quantile(share, far_inside, inside, 1 - _USUAL, otherwise=1.0)
    return min(low, 0.45), max(high, 0.55)


def _quantile(
    share: Float[np.ndarray, "i j"],
    far: Bool[np.ndarray, "i j"],
    anywhere: Bool[np.ndarray, "i j"],
    part: float,
    *,
    otherwise: float,
) -> float:
    """Returns a quantile of what is far from edges, or the median of a side that is thin."""
    if far.any():
        return float(np.quantile(share[far], part))
    return float(np.median(share[anywhere])) if anywhere.any() else otherwise


def _padded(x: np.ndarray) -> np.ndarray:
    """Repeats the last row and column up to multiples of 256."""
    h, w = x.shape[:2]
    return np.pad(x, ((0, -h % STRIDE), (0, -w % STRIDE), *((0, 0),) * (x.ndim - 2)), "edge")


@functools.partial(jax.jit, static_argnums=4)
def _coverage(
    prior: Float[Array, "h w"],
    image: UInt8[Array, "h w 3"],
    height: Int[Array, ""],
    width: Int[Array, ""],
    rows: int,
) -> Float[Array, "h w"]:
    """Computes the coverage; `height` and `width` are those of what is not padding."""
    h, w = prior.shape
    announce(f"soft edges for up to {w}x{h} pixels")
    whole = Rows(0, h)
    lowest, highest = _extremes_of_blocks(prior)
    unsure, torn = (
        ((highest >= least) & (lowest <= 1 - least)).astype(prior.dtype)
        for least in (_UNSURE, _TORN)
    )
    unsure *= _highest_nearby(torn, _FROM_TORN)
    open_to = _mean_nearby(_highest_nearby(unsure, _REACH), _FADE) ** 2

    def share(strip: Rows, told: Array, settled: bool) -> tuple[Array, Array]:
        """Returns the light and the coverage of a strip."""
        light, expected = _light(image, strip), _rows_of(prior, strip)
        maps = jnp.concatenate([told, open_to[..., None]], -1)
        near = matting.enlarged_rows(maps, strip.start, strip.count)
        seen = matting.unmixed(light, expected, near[..., :5], near[..., 5], settled=settled)
        return light, seen

    def colours(power: int, correlated: bool, told: Array | None = None) -> Array:
        """Returns how the light tells the coverage, by colours that `told`, or the prior, shows."""

        def sums(strip: Rows) -> Array:
            if told is None:
                light, alpha = _light(image, strip), _rows_of(prior, strip)
            else:
                light, alpha = share(strip, told, settled=False)
            inside = _inside(strip, w, height, width)
            return matting.sums_of_both(light, alpha, inside, power)[None]

        after = prior if told is None else told
        sums_of_both = matting.spread(in_strips(sums, whole, rows, after=after)[0])
        sides = (matting.colours_of(x) for x in (sums_of_both[..., :10], sums_of_both[..., 10:]))
        return matting.unmixing(*sides, correlated=correlated)

    told = colours(_FIRST_PURITY, correlated=False)
    for power in _PURITIES:
        told = colours(power, correlated=True, told=told)
    return in_strips(lambda strip: share(strip, told, True)[1][None], whole, rows, after=told)[0]


@functools.partial(jax.jit, static_argnums=4)
def _foreground(
    alpha: Float[Array, "h w"],
    image: UInt8[Array, "h w 3"],
    height: Int[Array, ""],
    width: Int[Array, ""],
    rows: int,
) -> UInt8[Array, "h w 3"]:
    """Computes the colours in front; `height` and `width` are those of what is not padding."""
    h, w = alpha.shape
    announce(f"colours of cutouts for up to {w}x{h} pixels")

    def sums(strip: Rows) -> Array:
        light, share = _light(image, strip), _rows_of(alpha, strip)
        inside = _inside(strip, w, height, width)
        return matting.sums_of_both(light, share, inside, _PURITIES[0], products=False)[None]

    whole = Rows(0, h)
    both = matting.spread(in_strips(sums, whole, rows, after=alpha)[0])
    means = jnp.concatenate([matting.mean_of(x) for x in (both[..., :4], both[..., 4:])], -1)

    def colours(strip: Rows) -> Array:
        near = matting.enlarged_rows(means, strip.start, strip.count)
        share = _rows_of(alpha, strip)
        front = matting.front_of(_light(image, strip), share, near[..., :3], near[..., 3:])
        return matting.encoded(front)[None]

    return in_strips(colours, whole, rows, after=means)[0]


def _extremes_of_blocks(x: Float[Array, "h w"]) -> tuple[Array, Array]:
    """Returns the lowest and the highest value of each block."""
    blocks = matting.by_block(x)
    return blocks.min(-1), blocks.max(-1)


def _highest_nearby(x: Float[Array, "i j"], reach: int) -> Float[Array, "i j"]:
    """Returns the highest value up to `reach` positions away along each side."""
    size = 2 * reach + 1
    along = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size), (1, 1), "SAME")
    return jax.lax.reduce_window(along, -jnp.inf, jax.lax.max, (size, 1), (1, 1), "SAME")


def _mean_nearby(x: Float[Array, "i j"], reach: int) -> Float[Array, "i j"]:
    """Returns the mean up to `reach` positions away along each side; outside, values are 0."""
    size = 2 * reach + 1
    along = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, size), (1, 1), "SAME")
    return jax.lax.reduce_window(along, 0.0, jax.lax.add, (size, 1), (1, 1), "SAME") / size**2


def _rows_of(x: Array, rows: Rows) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, rows.start, rows.count, 0)


def _light(image: UInt8[Array, "h w 3"], rows: Rows) -> Float[Array, "r w 3"]:
    return matting.decoded(_rows_of(image, rows))


def _inside(rows: Rows, columns: int, height: Array, width: Array) -> Float[Array, "r w"]:
    """Returns 1 for pixels of the photograph and 0 for padding."""
    below = rows.start + jnp.arange(rows.count) < height
    return (below[:, None] & (jnp.arange(columns) < width)[None, :]).astype(jnp.float32)
