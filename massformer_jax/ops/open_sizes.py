"""Sizes that are left open: a program of `jax.export` may be for all multiples of 256.

In such a program a side of a map is no number but an expression, also where annotations say `int`.
It may be computed with, and not always be compared. Forms that need tables of numbers, or blocks of
a fixed size, are then left out.
"""

from collections.abc import Sequence
from typing import Any


def known(shape: Sequence[Any]) -> bool:
    """Tells whether all sides are numbers."""
    return all(isinstance(side, int) for side in shape)
