"""The arithmetic of rows: which rows of the network each strip of a photograph's answer reads.

Three maps are counted in rows. The *answer* is as large as the photograph. The *network's input* is
the photograph as it is shown, resized perhaps, and padded to a multiple of 256. The *fused map*,
which scores are computed from, has half the rows of the input. An answer is resized from scores at
the size of the input, so a row of it lies between two rows of the input: its taps.

Where several devices share a photograph, each holds equally many rows of the fused map and answers
for the rows of the photograph that begin there, in strips.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from massformer_jax.ops.resize import bilinear_taps
from massformer_jax.ops.rows import Rows

# Rows of the fused map that a device needs of each neighbour: the one of the last row's lower tap,
# and one more that doubling the map reads.
HALO = 2


class Taps(NamedTuple):
    """The two rows of the network's input that each row of the answer lies between."""

    upper: Int[np.ndarray, " rows"]
    lower: Int[np.ndarray, " rows"]
    share: Float[np.ndarray, " rows"]  # of the lower one, 0 to 1


class Source(NamedTuple):
    """What a strip of the answer is computed from.

    Taps are counted from the top of the rows that are read. They may lie beyond these only for rows
    of the answer that `RowPlan.kept` leaves out.
    """

    rows: Rows  # of the fused map, counted from the top of what the part holds
    upper: Int[Array, " strip"]
    lower: Int[Array, " strip"]
    share: Float[Array, " strip"]


@dataclasses.dataclass(frozen=True)
class RowPlan:
    """A plan of which rows are computed where, and from which rows.

    Attributes:
        answered: rows of the answer.
        shown: rows of the network's input without its padding.
        padded: rows of the network's input.
        fused_strip: rows of the fused map that a strip is read from, about.
        parts: devices that share the rows.
    """

    answered: int
    shown: int
    padded: int
    fused_strip: int
    parts: int = 1

    @functools.cached_property
    def taps(self) -> Taps:
        """The taps of every row of the answer."""
        return Taps(*bilinear_taps(self.shown, self.answered))

    @functools.cached_property
    def bounds(self) -> Int[np.ndarray, " parts_and_1"]:
        """Rows of the answer: part i answers for those from bounds[i] on, up to bounds[i + 1].

        These are the rows whose upper tap is one of the part's own rows.
        """
        own = self.padded // self.parts
        return np.searchsorted(self.taps.upper, own * np.arange(self.parts + 1))

    @property
    def count(self) -> int:
        """How many rows of the answer each part computes.

        Devices run one program, so all compute as many as the part that answers for most.
        """
        return int(np.diff(self.bounds).max())

    @property
    def starts(self) -> Int[np.ndarray, " parts"]:
        """The first row of the answer that each part computes.

        A part that answers for fewer than `count` rows also computes rows of its neighbours, which
        may be wrong, since it does not hold what they are read from. `kept` leaves them out.
        """
        return np.minimum(self.bounds[:-1], self.answered - self.count)

    @property
    def kept(self) -> list[slice]:
        """Where the rows that each part answers for lie in the computed rows of all parts."""
        begins = np.arange(self.parts) * self.count + self.bounds[:-1] - self.starts
        ends = begins + np.diff(self.bounds)
        return [slice(int(i), int(j)) for i, j in zip(begins, ends, strict=True)]

    @property
    def strip(self) -> int:
        """Rows of the answer that are computed at a time."""
        return min(max(1, 2 * self.fused_strip * self.answered // self.shown), self.count)

    @property
    def halo(self) -> int:
        """Rows of the fused map that a part holds above and below its own."""
        return 0 if self.parts == 1 else HALO

    @property
    def held(self) -> int:
        """Rows of the input that a part's rows of the fused map stand for."""
        return self.padded // self.parts + 4 * self.halo

    @functools.cached_property
    def span(self) -> int:
        """Rows of the input that a strip reads: the same even number for all strips of all parts.

        A strip reads from the even row on that is at or above its first row's upper tap.
        """
        within = np.minimum(np.arange(0, self.count, self.strip), self.count - self.strip)
        first = (self.starts[:, None] + within[None]).ravel()
        last = first + self.strip - 1
        needed = (self.taps.lower[last] - self.taps.upper[first] // 2 * 2).max() + 1
        return min(int(needed + 1) // 2 * 2, self.held)

    def rows(self, part: int | Int[Array, ""]) -> Rows:
        """Returns the rows of the answer that a part computes."""
        return Rows(jnp.asarray(self.starts, jnp.int32)[part], self.count)

    def begin(self, part: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """Returns the row of the input that the rows which a part holds begin at."""
        return 2 * (part * (self.padded // self.parts // 2) - self.halo)

    def source(
        self, start: int | Int[Array, ""], part: int | Int[Array, ""], dtype: DTypeLike
    ) -> Source:
        """Returns what a strip is computed from.

        Args:
            start: first row of the strip, in the answer.
            part: which part computes it.
            dtype: of the shares.
        """
        begin = self.begin(part)
        first = jnp.asarray(self.taps.upper)[start] // 2 * 2 - begin
        first = jnp.clip(first, 0, self.held - self.span)

        def read(table):
            return jax.lax.dynamic_slice_in_dim(jnp.asarray(table), start, self.strip)

        return Source(
            rows=Rows(first // 2, self.span // 2),
            upper=read(self.taps.upper) - begin - first,
            lower=read(self.taps.lower) - begin - first,
            share=read(self.taps.share.astype(dtype)),
        )
