"""Tests of edge maps and boundary weights against the release's record and the definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.ops.edges import edge_map, pack_masks, unpack_masks
from tests.helpers import release


@pytest.mark.parametrize("folder", ["train_256x256", "train_lite_256x256"])
@pytest.mark.parametrize("index", [0, 1])
def test_edge_map_equals_the_release(folder, index):
    labels = release.read_labels(release.PARITY / folder / f"label{index}.png")
    recorded = release.read_labels(release.PARITY / folder / f"edge{index}.png")
    assert 0 < np.count_nonzero(recorded) < recorded.size
    ours = edge_map(jnp.asarray(labels)[None])[0]
    np.testing.assert_array_equal(ours, recorded != 0)


def test_edge_of_one_pixel():
    labels = np.zeros((1, 5, 5), np.uint8)
    labels[0, 2, 2] = 3
    # Marked: itself, the one below (its upper neighbour differs), the one to the left, the upper
    # left and the upper right; then each mark spreads right and down.
    expected = np.zeros((5, 5), bool)
    for y, x in [(2, 2), (3, 2), (2, 1), (1, 1), (1, 3)]:
        expected[y : y + 2, x : x + 2] = True
    np.testing.assert_array_equal(edge_map(jnp.asarray(labels))[0], expected)


def test_ignored_pixels_make_no_edge():
    labels = np.full((1, 6, 6), 4, np.uint8)
    labels[0, 2:4, 2:5] = 255
    assert not edge_map(jnp.asarray(labels)).any()


@pytest.mark.parametrize("shape", [(9, 11), (3, 4), (1, 1)])
def test_packed_masks_equal_definition(shape):
    masks = np.random.default_rng(0).random((2, 3, *shape)) < 0.5
    masks[0, 0] = True  # weights at the border come from the zeros outside
    masks[0, 1] = False
    mask, weight = unpack_masks(pack_masks(jnp.asarray(masks)), jnp.float32)
    padded = np.pad(masks.astype(np.float64), ((0, 0), (0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (2, 3))
    np.testing.assert_array_equal(mask, masks)
    np.testing.assert_allclose(weight, abs(windows.mean((-2, -1)) - masks), atol=1e-6)
