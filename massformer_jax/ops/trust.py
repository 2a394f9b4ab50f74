"""How far the labels of a pixel are to be trusted, as one byte per pixel that the losses read.

Labels that another model made (pseudo labels) are about right inside of an object and wrong at its
border, by some pixels. Labels of 255 are unknown. `doubt_map` says of every pixel how near it is to
such a border, or that its label is unknown.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, UInt8

from massformer_jax.classes import IGNORE

_LEVELS = 254  # of the border weight


def doubt_map(
    labels: UInt8[Array, "b h w"],
    borders: Sequence[tuple[int, int]],
    split_from: int | None = None,
) -> UInt8[Array, "b h w"]:
    """Returns one byte per pixel, which `read_doubt` reads: 0 where the label is 255, unknown.

    Elsewhere it is 1 and up to 254 more, the nearer to a doubtful border. So maps that are read
    beyond the image, where everything is 0, are unknown there.

    The border weight |W| of a class is that of exact labels, |mean over a window - mask| of
    `ops.edges`, in a window as large as the labels may be wrong: it is about 1/2 on both sides of
    the border, falls to 0 at `reach` pixels from it, and is 1 for a single pixel. Of several
    classes the largest counts.

    With `split_from`, a pixel of any other class than that and those of `borders` is exact: it has
    no doubt and is in no window, so that a border with it is none.

    Args:
        labels: label maps.
        borders: (label, reach) of each class whose borders may be wrong by up to `reach` pixels.
        split_from: the class to which exact labels count the classes of `borders`; None if pixels
            of all classes may be wrong there.
    """
    weight = jnp.zeros(labels.shape, jnp.float32)
    open_ = None
    if split_from is not None:
        # An unknown pixel may be of any of them.
        among = [split_from, IGNORE, *(label for label, _ in borders)]
        open_ = jnp.isin(labels, jnp.array(among, labels.dtype))
    for label, reach in borders:
        weight = jnp.maximum(weight, _border_weight(labels == label, open_, reach))
    byte = 1 + jnp.ceil(weight * _LEVELS).astype(jnp.uint8)
    return jnp.where(labels == IGNORE, jnp.uint8(0), byte)


def read_doubt(
    byte: UInt8[Array, "*s"], dtype: DTypeLike
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Returns the border weight |W| of `doubt_map`, 0..1, and 1 where the label is known."""
    known = (byte > 0).astype(dtype)
    return (byte.astype(dtype) - known) / _LEVELS, known


def trusted_share(border: Float[Array, "*s"], strength: float) -> Float[Array, "*s"]:
    """Returns 1 / (1 + strength · |W|): 1 far from a doubtful border, little at it."""
    # Paper: it says that pseudo labels weigh less at borders where exact ones weigh more, and gives
    # no formula that we know of. This one is the reciprocal of the weight of exact labels, 1 + 5 W.
    return 1 / (1 + strength * border)


def _border_weight(
    mask: Bool[Array, "b h w"], open_: Bool[Array, "b h w"] | None, reach: int
) -> Float[Array, "b h w"]:
    """Returns |mean over the square window of 2 · reach + 1 pixels - mask|; 0 where not open.

    Only open pixels inside of the image count: its border is no border of the object. None stands
    for all of them.
    """
    if not reach:
        return jnp.zeros(mask.shape, jnp.float32)
    mask = mask.astype(jnp.float32)
    if open_ is None:
        # Known before. The compiler sums up ones to find the same: 18 s for three 256x256 crops.
        pixels = np.multiply.outer(*(_in_window(side, reach) for side in mask.shape[1:]))[None]
    else:
        pixels = _window_sum(open_.astype(jnp.float32), reach)
    # Counts are exact, and a mean may not be: far from a border the weight has to be 0.
    weight = jnp.abs(_window_sum(mask, reach) - mask * pixels) / jnp.maximum(pixels, 1)
    return weight if open_ is None else jnp.where(open_, weight, 0)


def _in_window(side: int, reach: int) -> Float32[np.ndarray, " side"]:
    """Returns how many pixels of a row are in the window around each of them."""
    at = np.arange(side)
    inside = np.minimum(at + reach, side - 1) - np.maximum(at - reach, 0) + 1
    return inside.astype(np.float32)


def _window_sum(x: Float[Array, "b h w"], reach: int) -> Float[Array, "b h w"]:
    side = 2 * reach + 1
    for window, padding in (
        ((1, side, 1), ((0, 0), (reach, reach), (0, 0))),
        ((1, 1, side), ((0, 0), (0, 0), (reach, reach))),
    ):
        x = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1, 1, 1), padding)
    return x
