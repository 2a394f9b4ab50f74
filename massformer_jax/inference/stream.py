"""Many photographs, one after the other: while the device computes one, others are read.

The device is given the next photographs before the answer of the last ones is taken, so it waits
for nothing unless they cannot be read as fast as it computes.
"""

import contextlib
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from massformer_jax.data.ahead import Stopwatch, map_ahead
from massformer_jax.errors import InputError

# Photographs that go through the network together have at most so many pixels, those of one
# photograph of 12 megapixels, and are at most so many.
PIXELS_TOGETHER = 4096 * 3072
_MOST_TOGETHER = 8
_READERS = 8  # threads at most: each may hold a photograph, 38 MB at 12 megapixels
_IN_FLIGHT = 2  # batches that have been given to the device and whose answers have not been taken

# What devices say: accelerators the first, CPUs the second, as an internal error.
_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)


class TooLargeError(InputError):
    """The error of a photograph for which the memory does not suffice.

    Args:
        message: what it says.
        flag: of commands, that needs less; "" if none does.
    """

    def __init__(self, message: str, flag: str = "--window"):
        super().__init__(message)
        self.flag = flag


class Remedy(NamedTuple):
    """What to do where the memory does not suffice, and the flag that does it, or ""."""

    advice: str
    flag: str


@contextlib.contextmanager
def lack_of_memory(what: str, remedy: Remedy) -> Iterator[None]:
    """Raises TooLargeError if the memory does not suffice for the body.

    Args:
        what: is computed, in words.
        remedy: what the error advises.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        raise TooLargeError(
            f"{what} need more memory than there is; {remedy.advice}", remedy.flag
        ) from error


class Answer(NamedTuple):
    """A photograph and what the network says of it.

    Attributes:
        source: what stood for the photograph, a path for instance.
        image: its pixels, RGB, uint8 [h, w, 3]; None if it cannot be read.
        answer: labels, uint8 [h, w], or scores, float32 [h, w, k]; None after an error. It may be
            read-only, and a view of a larger array.
        error: what is wrong with the photograph, if something is.
    """

    source: Any
    image: UInt8[np.ndarray, "h w 3"] | None = None
    answer: np.ndarray | None = None
    error: InputError | OSError | None = None


def answers(
    sources: Iterable[Any],
    read: Callable[[Any], UInt8[np.ndarray, "h w 3"]],
    begin: Callable[[list[np.ndarray]], Any],
    end: Callable[[Any], list[np.ndarray]],
    padded_size: Callable[[np.ndarray], tuple[int, int] | None],
    *,
    together: bool,
    stopwatch: Stopwatch,
) -> Iterator[Answer]:
    """Yields the answer of each photograph, in their order; a bad one does not stop the others.

    Args:
        sources: what stands for the photographs.
        read: returns the pixels of one; it is called in threads, ahead of what is needed.
        begin: gives photographs of one padded size to the device, and does not wait for it.
        end: waits for what `begin` returned, and returns an answer for each photograph.
        padded_size: returns the size at which the network sees a photograph, or None if it cannot
            go together with others.
        together: whether small photographs of one padded size, if they follow each other, go
            through the network together. They do as long as the memory suffices. Every padded size
            has one number of photographs that go together, so it has one program.
        stopwatch: notes how long this waited for "reading" and for the "network".
    """

    def pixels(source):
        try:
            return Answer(source, read(source))
        except MemoryError:
            return Answer(
                source, error=InputError(f"{source}: there is not the memory to decode it")
            )
        except (InputError, OSError) as error:
            return Answer(source, error=error)

    def begun(batch, count):
        if batch[0].error:
            return batch[0].error
        images = [x.image for x in batch + batch[-1:] * (count - len(batch))]
        try:
            with stopwatch.waiting("network"):  # the first of a size waits for the compiler here
                return begin(images)
        except InputError as error:
            return error

    def ended(batch, running):
        try:
            with stopwatch.waiting("network"):
                found = running if isinstance(running, Exception) else end(running)
        except InputError as error:
            found = error
        if not isinstance(found, Exception):
            return [x._replace(answer=y) for x, y in zip(batch, found, strict=False)]
        if len(batch) == 1:
            return [batch[0]._replace(error=found)]
        return [y for x in batch for y in ended([x], begun([x], 1))]

    threads = min(_READERS, os.cpu_count() or 1)
    photographs = stopwatch.timed("reading", map_ahead(pixels, sources, threads=threads))
    waiting = deque()
    for batch, count in _batches(photographs, padded_size, together):
        waiting.append((batch, begun(batch, count)))
        if len(waiting) == _IN_FLIGHT:
            yield from ended(*waiting.popleft())
    while waiting:
        yield from ended(*waiting.popleft())


def _batches(
    photographs: Iterable[Answer],
    padded_size: Callable[[np.ndarray], tuple[int, int] | None],
    together: bool,
) -> Iterator[tuple[list[Answer], int]]:
    """Yields photographs that go together, in their order, and how many the network is to see.

    The first batch of a padded size decides the number for that size. What has an error, or no
    padded size, goes alone.
    """
    counts: dict[tuple[int, int] | None, int] = {}

    def most(size):
        if size is None or not together:
            return 1
        return min(_MOST_TOGETHER, max(1, PIXELS_TOGETHER // (size[0] * size[1])))

    def size_of(photograph):
        return None if photograph.error else padded_size(photograph.image)

    for size, run in itertools.groupby(photographs, size_of):
        while batch := list(itertools.islice(run, counts.get(size) or most(size))):
            yield batch, counts.setdefault(size, len(batch))
