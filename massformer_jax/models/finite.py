"""Finds weights that no network can predict with: numbers that are not finite."""

from collections.abc import Callable
from typing import Any

import numpy as np

from massformer_jax.errors import InputError
from massformer_jax.tree import leaves_by_path

_NAMED = 5  # tensors in a message


def check_numbers(
    params: Any, batch_stats: Any, *, called: Callable[[str], str] = lambda path: path
) -> None:
    """Checks that all weights are finite, and that no running variance is negative.

    A single one that is not makes every score of every photograph not a number, and the label map
    that of class 0.

    Args:
        params: a tree of arrays.
        batch_stats: likewise.
        called: returns the name of a leaf in the message from its path.

    Raises:
        InputError: they are not; says how many numbers of which tensors.
    """
    leaves = {**leaves_by_path(params), **leaves_by_path(batch_stats)}
    bad = {}
    for path, leaf in leaves.items():
        array = np.asarray(leaf)
        count = array.size - int(np.isfinite(array).sum())
        if path.split("/")[-1] == "var":
            count += int((array < 0).sum() - np.isneginf(array).sum())
        if count:
            bad[called(path)] = f"{count:,} of {array.size:,} in {called(path)}"
    if not bad:
        return
    more = f" and {len(bad) - _NAMED} more tensors" if len(bad) > _NAMED else ""
    raise InputError(
        "weights that are not finite, or negative variances: "
        + ", ".join(list(bad.values())[:_NAMED])
        + f"{more}; they predict nothing: take those of an earlier step"
    )
