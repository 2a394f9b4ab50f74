"""Tests of how photographs of many sizes become batches."""

import numpy as np
import pytest

from massformer_jax.evaluation.batches import batches_by_size
from massformer_jax.inference.protocol import Protocol


def photographs(heights):
    """Yields photographs of these heights; each shows its number."""
    for number, height in enumerate(heights):
        yield {
            "image": np.full((height, 4, 3), number, np.uint8),
            "label": np.full((height, 4), number, np.uint8),
        }


def numbers(batch):
    """Returns which photographs a batch holds, and checks that its copies are copies."""
    shown = [int(image[0, 0, 0]) for image in batch.images]
    assert shown == [int(label[0, 0]) for label in batch.labels]
    assert len({image.shape for image in batch.images}) == 1
    assert shown[batch.count :] == [shown[batch.count - 1]] * (len(shown) - batch.count)
    assert [int(example["label"][0, 0]) for example in batch.examples] == shown[: batch.count]
    return shown[: batch.count]


def test_photographs_of_one_size_come_together():
    batches = list(batches_by_size(photographs([5, 6, 5, 5, 6, 7]), 2, Protocol()))
    assert [numbers(batch) for batch in batches] == [[0, 2], [1, 4], [3], [5]]
    assert all(len(batch.images) == 2 for batch in batches)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("kind", ["all differ", "few sizes", "one of each before another"])
def test_the_number_that_waits_is_bounded(kind, batch_size):
    rng = np.random.default_rng(0)
    heights = {
        "all differ": range(1, 101),
        "few sizes": rng.integers(1, 8, 100).tolist(),
        "one of each before another": [*range(1, 51), *range(1, 51)],
    }[kind]
    taken, most = 0, 0

    def counted():
        nonlocal taken, most
        for photograph in photographs(heights):
            taken += 1
            most = max(most, taken - len(seen))
            yield photograph

    seen = []
    for batch in batches_by_size(counted(), batch_size, Protocol()):
        assert len(batch.images) == batch_size
        seen += numbers(batch)
    assert sorted(seen) == list(range(100))
    assert most <= 4 * batch_size
