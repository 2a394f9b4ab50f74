"""Counts of many classes, whose pixels are sorted into bins, equal the obvious ones."""

import jax
import numpy as np
import pytest

from massformer_jax.metrics import counts
from massformer_jax.metrics.counts import image_counts
from tests.helpers.obvious_counts import obvious_counts

SHAPE, TOLERANCES = (45, 50), (0.03, 2.0)


def maps(classes):
    rng = np.random.default_rng(classes)
    blocks = rng.integers(0, classes, (2, *(-(-side // 4) for side in SHAPE)))
    prediction, label = (
        np.kron(one, np.ones((4, 4), int))[: SHAPE[0], : SHAPE[1]].astype(np.uint8)
        for one in blocks
    )
    label = np.where(rng.random(SHAPE) < 0.6, prediction, label).astype(np.uint8)
    label[5:9, 7:20] = 255
    return prediction, label


@pytest.mark.parametrize("classes", [12, 33, 255])
def test_counts_of_many_classes(classes):
    prediction, label = maps(classes)
    found = image_counts(prediction, label, num_classes=classes, tolerances=TOLERANCES)
    expected = obvious_counts(prediction, label, classes, tolerances=TOLERANCES)
    for name, one in expected._asdict().items():
        np.testing.assert_array_equal(getattr(found, name), one, err_msg=name)


def test_both_ways_to_count_are_one(monkeypatch):
    prediction, label = maps(9)
    planes = image_counts(prediction, label, num_classes=9)
    monkeypatch.setattr(counts, "_MOST_PLANES", 8)
    jax.clear_caches()
    bins = image_counts(prediction, label, num_classes=9)
    monkeypatch.undo()
    jax.clear_caches()
    jax.tree.map(np.testing.assert_array_equal, planes, bins)
