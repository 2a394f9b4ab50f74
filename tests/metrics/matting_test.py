"""The errors of alpha mattes against literal definitions and numbers found by hand."""

import collections

import numpy as np
import pytest

from massformer_jax.metrics.matting import (
    connectivity_error,
    errors,
    gaussian_taps,
    gradient_error,
)


def random_mattes(seed, shape=(19, 23)):
    """Returns two mattes that are alike, many of whose pixels are 0 or 1."""
    rng = np.random.default_rng(seed)
    truth = np.clip(rng.uniform(-0.5, 1.5, shape), 0, 1).astype(np.float32)
    alpha = np.clip(truth + rng.uniform(-0.3, 0.3, shape), 0, 1).astype(np.float32)
    return alpha, truth


def test_differences_by_hand():
    truth = np.float32([[0, 1], [0.5, 1]])
    alpha = np.float32([[0.25, 1], [0, 0]])
    found = errors(alpha, truth)
    assert found.sad == pytest.approx((0.25 + 0.5 + 1) / 1000)
    assert found.mse == pytest.approx((0.0625 + 0.25 + 1) / 4)
    assert errors(truth, truth) == (0, 0, 0, 0)


def test_gradient_of_an_upright_edge_by_hand():
    truth = np.zeros((8, 40), np.float32)
    truth[:, 20:] = 1
    # Along x the response at distance d of the edge is a sum of the derivative's taps, and down
    # it is the sum of the Gaussian's. A matte of one value has no gradient.
    x = np.arange(-4, 5)
    smooth = np.exp(-0.5 * (x / 1.4) ** 2)
    slope = x * smooth
    smooth, slope = smooth / np.sqrt((smooth**2).sum()), slope / np.sqrt((slope**2).sum())
    row = sum((slope[k:].sum() * smooth.sum()) ** 2 for k in range(1, len(slope)))
    assert len(gaussian_taps()[0]) == 9
    flat = np.full_like(truth, 0.5)
    assert gradient_error(flat, truth) == pytest.approx(8 * row / 1000, rel=1e-5)
    assert gradient_error(truth.T.copy(), flat.T.copy()) == pytest.approx(8 * row / 1000, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_gradient_by_definition(seed):
    alpha, truth = random_mattes(seed)
    smooth, slope = gaussian_taps()
    half = len(smooth) // 2

    def length(matte, row, column):
        framed = np.pad(matte.astype(np.float64), half, "edge")
        window = framed[row : row + 2 * half + 1, column : column + 2 * half + 1]
        along, down = (np.outer(*taps) * window for taps in ((smooth, slope), (slope, smooth)))
        return np.hypot(along.sum(), down.sum())

    expected = sum(
        (length(alpha, *place) - length(truth, *place)) ** 2 for place in np.ndindex(truth.shape)
    )
    assert gradient_error(alpha, truth) == pytest.approx(expected / 1000, rel=1e-4)


def test_connectivity_by_hand():
    # A row whose source is its left half. The island of 0.8 is in the truth and not connected.
    truth = np.float32([[1, 1, 1, 0.4, 0, 0.8, 0]])
    assert connectivity_error(truth, truth) == 0
    alpha = np.float32([[1, 1, 1, 0.4, 0, 0, 0]])
    # Its level is 0: the truth is disconnected by 0.8 there, and alpha not at all.
    assert connectivity_error(alpha, truth) == pytest.approx(0.8 / 1000)
    # A pixel of the source that got thinner has its level, and the truth is 0.4 above it.
    alpha = np.float32([[1, 1, 0.6, 0.4, 0, 0.8, 0]])
    assert connectivity_error(alpha, truth) == pytest.approx(0.4 / 1000)
    # A difference below 0.15 does not count.
    alpha = np.float32([[1, 1, 0.9, 0.4, 0, 0.8, 0]])
    assert connectivity_error(alpha, truth) == 0


@pytest.mark.parametrize("seed", range(5))
def test_connectivity_by_definition(seed):
    alpha, truth = random_mattes(seed)
    expected = obvious_connectivity(alpha, truth)
    assert expected > 0
    assert connectivity_error(alpha, truth) == pytest.approx(expected, rel=1e-5)


def obvious_connectivity(alpha, truth):
    """Computes the definition pixel by pixel; a tie of regions goes to the one first met."""
    level = np.ones(truth.shape)
    sources = [obvious_source(np.minimum(alpha, truth) >= np.float32(k / 10)) for k in range(1, 11)]
    for place in np.ndindex(truth.shape):
        lost = [k for k, source in enumerate(sources) if place not in source]
        level[place] = lost[0] / 10 if lost else 1
    total = 0
    for place in np.ndindex(truth.shape):
        apart = [float(x[place]) - level[place] for x in (alpha, truth)]
        one, other = (x if x >= 0.15 else 0 for x in apart)
        total += abs(one - other)
    return total / 1000


def obvious_source(mask):
    """Returns the places of the largest region, by walking from pixel to pixel."""
    seen, best = set(), set()
    for start in zip(*np.nonzero(mask), strict=True):
        if start in seen:
            continue
        region, waiting = {start}, collections.deque([start])
        while waiting:
            row, column = waiting.popleft()
            beside = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
            for place in beside:
                inside = 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]
                if inside and mask[place] and place not in region:
                    region.add(place)
                    waiting.append(place)
        seen |= region
        best = max(best, region, key=len)
    return best
