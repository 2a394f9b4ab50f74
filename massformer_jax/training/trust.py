"""How far the losses trust labels: pseudo labels less at their borders, unknown ones not at all.

Source: the third part of Xie et al., "MaSS13K" (CVPR 2025), which learns new classes from pseudo
labels beside exact ones ("label decoupling"); the released code does not have it.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8, UInt32

from massformer_jax.ops.points import corners, sample_corners
from massformer_jax.ops.trust import doubt_map, read_doubt, trusted_share


class Trust(NamedTuple):
    """How far labels are to be trusted; see `massformer_jax.ops.trust`.

    Attributes:
        borders: (label, reach) of each class with pseudo labels, whose borders may be wrong by up
            to `reach` pixels of a crop.
        strength: λ in the weight 1 / (1 + λ |W|) at such a border, on both of its sides. Exact
            labels weigh 1 + 5 |W| at theirs.
        leave_out_unknown: whether pixels of the label 255 count in no loss. As released, such a
            pixel is outside of every mask, and masks that cover it are punished.
        split_from: the label to which exact labels count the classes of `borders`: pixels of any
            other class are exact, up to the border. None if they may be wrong there, too.
    """

    borders: tuple[tuple[int, int], ...] = ()
    strength: float = 20.0
    leave_out_unknown: bool = False
    split_from: int | None = None


class Doubt(NamedTuple):
    """Where labels of a batch are doubtful, as points read it; see `doubt_of`.

    Attributes:
        trust: see there.
        exact: whether the labels of a class are exact.
        packed: `corners` of a `doubt_map`.
    """

    trust: Trust
    exact: Bool[np.ndarray, " k"]
    packed: UInt32[Array, "b _ _"]

    def shares(
        self, points: Float[Array, "b k p 2"], dtype: DTypeLike
    ) -> tuple[Float[Array, "b k p"], Bool[Array, "b k p"]]:
        """Returns how far labels are trusted at the points of every mask, 0..1.

        Also tells where a border is exact: neither that of a class with pseudo labels, nor that of
        its neighbour with it. Where it is known from what such classes were split, their borders
        with all other classes are exact, too.
        """
        b, k, p, _ = points.shape
        found = sample_corners(
            self.packed,
            points.reshape(b, k * p, 2),
            read=lambda byte: jnp.stack(read_doubt(byte, dtype), -1),
        ).reshape(b, k, p, 2)
        border, known = found[..., 0], found[..., 1]
        exact = border == 0
        if self.trust.split_from is None:
            exact &= self.exact.reshape(1, k, 1)
        return _shares(border, known, self.trust), exact


def doubt_of(labels: UInt8[Array, "b y x"], trust: Trust, classes: int) -> Doubt:
    """Returns where labels are doubtful."""
    pseudo = [label for label, _ in trust.borders]
    exact = ~np.isin(np.arange(classes), pseudo)
    return Doubt(trust, exact, corners(_doubt_map(labels, trust)))


def pixel_shares(labels: UInt8[Array, "b y x"], trust: Trust) -> Float[Array, "b y x"]:
    """Returns how far the label of every pixel is trusted, float32, 0..1."""
    border, known = read_doubt(_doubt_map(labels, trust), jnp.float32)
    return _shares(border, known, trust)


def _doubt_map(labels: UInt8[Array, "b y x"], trust: Trust) -> UInt8[Array, "b y x"]:
    return doubt_map(labels, trust.borders, trust.split_from)


def _shares(
    border: Float[Array, "*s"], known: Float[Array, "*s"], trust: Trust
) -> Float[Array, "*s"]:
    shares = trusted_share(border, trust.strength)
    return shares * known if trust.leave_out_unknown else shares
