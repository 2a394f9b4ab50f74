"""The scene whose flicker is measured moves as it says, and steadied scores hold what docs say."""

import itertools

import numpy as np
import pytest

from massformer_jax.classes import IGNORE
from scripts.benchmark.flicker import compared, measured
from scripts.benchmark.moving_scene import flickering_scores, moved_labels, moving_scene

HEIGHT, WIDTH, FRAMES = 180, 320, 14


@pytest.fixture(scope="module")
def views():
    return list(moving_scene(HEIGHT, WIDTH, FRAMES))


def test_the_motion_is_that_of_the_pictures(views):
    """Where a point was seen in the frame before, it had its label and nearly its colour there."""
    assert not views[0].seen.any() and len(views) == FRAMES
    for before, view in itertools.pairwise(views):
        assert 0.9 < view.seen.mean() < 1
        xs, ys = np.rint(np.moveaxis(view.origins[view.seen], -1, 0)).astype(int)
        difference = np.abs(view.image[view.seen].astype(int) - before.image[ys, xs])
        assert np.median(difference) < 8  # of the noise, and between pixels
        same = moved_labels(before.labels, view)[view.seen] == view.labels[view.seen]
        assert same.mean() > 0.9
    still = np.abs(views[5].image.astype(int) - views[4].image)[views[5].seen]
    assert np.mean(still) > 1.5 * np.mean(difference)


def test_the_same_seed_gives_the_same_scene(views):
    again = next(moving_scene(HEIGHT, WIDTH, FRAMES))
    np.testing.assert_array_equal(again.image, views[0].image)
    assert set(np.unique(again.labels)) <= {*range(7), IGNORE}


def test_flicker_is_down_by_half_and_edges_are_not_worse(views):
    rows, _ = compared(views, flickering_scores(views))
    truth, alone, plain, steady = rows.values()
    assert truth["mIoU"] == 1 and truth["uncovered"] == 0
    assert alone["flicker"] > 2 * truth["flicker"] > 0
    assert steady["flicker"] < 0.5 * alone["flicker"]
    for name in ("mIoU", "mBIoU", "mBF1"):
        assert steady[name] >= alone[name]
        assert plain[name] < steady[name]
    assert steady["uncovered"] <= alone["uncovered"] < plain["uncovered"]


def test_labels_that_change_everywhere_flicker_wholly(views):
    views = views[:4]
    changing = (np.full(view.labels.shape, i % 2, np.uint8) for i, view in enumerate(views))
    numbers = measured(views, changing)
    assert numbers["flicker"] == 1
    constant = (np.zeros(view.labels.shape, np.uint8) for view in views)
    assert measured(views, constant)["flicker"] == 0
