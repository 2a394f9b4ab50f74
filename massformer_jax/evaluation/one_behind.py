"""How the host and the devices work at the same time."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def one_behind(start: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Yields each item with the result of `start`, after `start` was called for the next item.

    `start` returns before the devices are done. So while the caller waits for a result and uses it,
    the devices compute the next one.
    """
    waiting = None
    for item in items:
        started = item, start(item)
        if waiting is not None:
            yield waiting
        waiting = started
    if waiting is not None:
        yield waiting
