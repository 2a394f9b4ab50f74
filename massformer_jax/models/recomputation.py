"""What training keeps for its backward pass, and what it computes again (`config.remat`).

The network is divided into stages. In the context `recomputing`, a stage keeps its inputs and what
is marked by `kept`; all else in it is computed again when its gradient is due, and not before. So
the intermediate maps of one stage lie in memory at a time. Elsewhere nothing changes.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

_KEPT = "kept"
_recomputes = contextvars.ContextVar("recomputes", default=False)


@contextlib.contextmanager
def recomputing(again: bool) -> Iterator[None]:
    """Makes what is traced inside compute its stages again, or not.

    This context belongs inside of the function that is jitted.
    """
    token = _recomputes.set(again)
    try:
        yield
    finally:
        _recomputes.reset(token)


def recomputed(stage: Callable[..., Any], *inputs: Any) -> Any:
    """Returns stage(*inputs), a part of the network that may be computed again.

    Args:
        stage: a function that has all of its modules and arrays from `inputs`.
        inputs: modules and trees of arrays.
    """
    if not _recomputes.get():
        return stage(*inputs)
    policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
    return nnx.remat(stage, policy=policy)(*inputs)


def kept(x: Array) -> Array:
    """Marks what a stage keeps, since computing it again is what costs most."""
    return checkpoint_name(x, _KEPT)
