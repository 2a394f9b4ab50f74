"""Operations that other formats have as one: they may be traced as calls that keep their names."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

_kept = contextvars.ContextVar("_kept", default=False)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Makes what is traced inside call such operations by name.

    A reader of the program may then put an operation of its own in the place of the call.
    """
    token = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(token)


def are_kept() -> bool:
    """Tells whether what is traced here keeps names."""
    return _kept.get()


def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, or where names are kept a call of it that has this name."""
    if not are_kept():
        return function

    def call(*inputs):
        return function(*inputs)

    call.__name__ = name
    return jax.jit(call)
