"""Batches of photographs that have the same size."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from massformer_jax.inference.protocol import Protocol
from massformer_jax.inference.views import Shown, show

# Photographs of sizes that have not made a batch yet may wait, up to as many as are in this number
# of batches: each takes 48 MB at 12 megapixels.
_WAITING_BATCHES = 4


class Batch(NamedTuple):
    """Photographs of one size; the first `count` are real, the others are copies that fill it up.

    Attributes:
        images: uint8 [b, h, w, 3] at the size that the network sees, on the host.
        labels: uint8 [b, i, j] at the size of the photographs themselves.
        examples: the real ones.
        count: number of real ones.
    """

    images: Shown
    labels: np.ndarray
    examples: Sequence[Mapping[str, Any]]
    count: int


def batches_by_size(
    examples: Iterable[Mapping[str, Any]], batch_size: int, protocol: Protocol
) -> Iterator[Batch]:
    """Yields a batch as soon as `batch_size` photographs of one size have come, at last the rest.

    Sizes are never mixed: the network sees the whole image, so padding to a common size would
    change the answers. If there are so many sizes that too many photographs wait, those of the most
    frequent one go on with copies.

    Args:
        examples: each with `image`, uint8 [h, w, 3], and `label`, uint8 [h, w].
        batch_size: number of photographs in every batch, copies included.
        protocol: says how the network sees them.
    """
    collected: dict[tuple, list] = {}
    for example in examples:
        size = example["image"].shape
        collected.setdefault(size, []).append(example)
        if len(collected[size]) == batch_size:
            yield _batch(collected.pop(size), batch_size, protocol)
        elif sum(map(len, collected.values())) >= _WAITING_BATCHES * batch_size:
            fullest = max(collected, key=lambda size: len(collected[size]))
            yield _batch(collected.pop(fullest), batch_size, protocol)
    for rest in collected.values():
        yield _batch(rest, batch_size, protocol)


def _batch(examples: list, batch_size: int, protocol: Protocol) -> Batch:
    filled = examples + [examples[-1]] * (batch_size - len(examples))
    return Batch(
        show(protocol, [example["image"] for example in filled]),
        np.stack([example["label"] for example in filled]),
        tuple(examples),
        len(examples),
    )
