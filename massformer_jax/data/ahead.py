"""Calls in threads, a bounded number of them ahead of the results that are taken."""

import contextlib
import contextvars
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], *, threads: int | None = None
) -> Iterator[R]:
    """Yields the result of `function` for each item, in the order of the items.

    Work begins when the first result is asked for. At any time there are at most `threads` calls
    that run, or that have ended and whose result has not been taken: this bounds the memory. Each
    runs in a copy of the caller's context, so that it has the caller's context variables.

    What a call raises is raised in the place of its result. Then, and when the caller stops early,
    the calls that have not begun are cancelled.

    Args:
        function: what the threads call.
        items: its arguments, which are taken in the caller's thread.
        threads: number of threads; by default one per core.
    """
    threads = threads or os.cpu_count() or 1
    waiting = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                if len(waiting) == threads:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(contextvars.copy_context().run, function, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Stopwatch:
    """How long a loop has waited for each of its parts.

    Attributes:
        seconds: by the names of the parts.
    """

    def __init__(self):
        self.seconds = Counter()

    @contextlib.contextmanager
    def waiting(self, part: str) -> Iterator[None]:
        """Adds to a part what the body takes."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - begun

    def timed(self, part: str, items: Iterable[T]) -> Iterator[T]:
        """Yields the items, and adds to a part what was waited for them."""
        iterator = iter(items)
        while True:
            with self.waiting(part):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
