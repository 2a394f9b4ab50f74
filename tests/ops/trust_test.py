"""Which labels are doubtful: by definition, at the image's border, and where they are unknown."""

import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.ops.trust import doubt_map, read_doubt, trusted_share


def read(labels, borders, split_from=None):
    byte = doubt_map(jnp.asarray(labels)[None], borders, split_from)
    return [np.asarray(x[0]) for x in read_doubt(byte, jnp.float32)]


def by_definition(mask, reach, open_=None):
    height, width = mask.shape
    open_ = np.ones(mask.shape, bool) if open_ is None else open_
    out = np.zeros(mask.shape)
    for y in range(height):
        for x in range(width):
            rows, columns = (slice(max(i - reach, 0), i + reach + 1) for i in (y, x))
            if open_[y, x]:
                mean = mask[rows, columns][open_[rows, columns]].mean()
                out[y, x] = abs(mean - mask[y, x])
    return out


@pytest.fixture
def labels():
    labels = np.zeros((12, 16), np.uint8)
    labels[4:, 5:11] = 3
    labels[0, 14] = 2
    return labels


def test_the_border_weight_is_that_of_a_window(labels):
    border, known = read(labels, [(3, 3)])
    np.testing.assert_allclose(border, by_definition(labels == 3, 3), atol=1 / 254)
    assert known.all()
    # Only within reach of the border, also along the image's own border, which is none.
    assert border[0].max() == 0 and border[11, 7] < 0.2 and border[3, 7] > 0.35


def test_the_largest_of_several_classes_counts(labels):
    border, _ = read(labels, [(3, 3), (2, 1)])
    expected = np.maximum(by_definition(labels == 3, 3), by_definition(labels == 2, 1))
    np.testing.assert_allclose(border, expected, atol=1 / 254)


def test_pixels_of_classes_that_nothing_was_split_from_are_exact(labels):
    """Class 3 meets class 1 on its left, class 0 on its right, and an unknown pixel above."""
    labels[4:, :5] = 1
    labels[3, 7] = 255
    border, _ = read(labels, [(3, 3)], split_from=0)
    open_ = labels != 1
    open_[0, 14] = False  # class 2
    expected = by_definition(labels == 3, 3, open_)
    expected[3, 7] = 0  # unknown, which the byte says instead
    np.testing.assert_allclose(border, expected, atol=1 / 254)
    assert not border[labels == 1].any() and border[11, 5] == 0 and border[11, 10] > 0.35


def test_without_reach_or_classes_nothing_is_doubtful(labels):
    for borders in ([], [(3, 0)]):
        border, known = read(labels, borders)
        assert not border.any() and known.all()


def test_unknown_labels(labels):
    labels[:2] = 255
    border, known = read(labels, [(3, 3)])
    np.testing.assert_array_equal(known, labels != 255)
    assert not border[labels == 255].any()


def test_trust_falls_with_the_border_weight():
    border = jnp.array([0, 0.1, 0.5])
    np.testing.assert_allclose(trusted_share(border, 20.0), [1, 1 / 3, 1 / 11], rtol=1e-6)
    np.testing.assert_allclose(trusted_share(border, 0.0), 1)
