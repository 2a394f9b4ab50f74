"""Which pixels are asked: the rules equal loops that are written from their description."""

import numpy as np
import pytest

from massformer_jax.inference import asking


def scene(seed, size=(37, 53)):
    """Returns a noisy photograph of a few rectangles."""
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), 90, np.int64)
    for _ in range(5):
        y, x = rng.integers(0, size[0] - 6), rng.integers(0, size[1] - 6)
        image[y : y + rng.integers(3, 20), x : x + rng.integers(3, 20)] = rng.integers(0, 256, 3)
    return np.clip(image + rng.integers(-6, 7, image.shape), 0, 255).astype(np.uint8)


def sefi_by_definition(coarse, photograph, stride, dilation, threshold):
    """Returns the asked pixels, pixel by pixel."""
    i, j = coarse.shape
    boundary = np.zeros((i, j), bool)
    for y, x in np.ndindex(i, j):
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            if 0 <= y + dy < i and 0 <= x + dx < j:
                boundary[y, x] |= coarse[y, x] != coarse[y + dy, x + dx]
    near = np.zeros((i, j), bool)
    for y, x in np.ndindex(i, j):
        rows = slice(max(y - dilation, 0), y + dilation + 1)
        columns = slice(max(x - dilation, 0), x + dilation + 1)
        near[y, x] = boundary[rows, columns].any()
    red, green, blue = photograph.astype(np.float64).transpose(2, 0, 1) / 255
    grey = np.pad(0.299 * red + 0.587 * green + 0.114 * blue, 1, mode="edge")
    asked = np.zeros(photograph.shape[:2], bool)
    for y, x in np.ndindex(*asked.shape):
        w = grey[y : y + 3, x : x + 3]
        along_x = (w[0, 2] + 2 * w[1, 2] + w[2, 2] - w[0, 0] - 2 * w[1, 0] - w[2, 0]) / 4
        along_y = (w[2, 0] + 2 * w[2, 1] + w[2, 2] - w[0, 0] - 2 * w[0, 1] - w[0, 2]) / 4
        asked[y, x] = near[y // stride, x // stride] and np.hypot(along_x, along_y) > threshold
    return asked


@pytest.mark.parametrize(("stride", "dilation"), [(8, 1), (4, 0), (5, 2)])
def test_sefi_by_its_definition(stride, dilation, monkeypatch):
    monkeypatch.setattr(asking, "_STRIP", 10)  # so that there are several strips
    for seed in range(3):
        photograph = scene(seed)
        coarse = (photograph[::stride, ::stride, 0] // 64).astype(np.uint8)
        got = asking.sefi(coarse, photograph, stride=stride, dilation=dilation, threshold=0.1)
        expected = sefi_by_definition(coarse, photograph, stride, dilation, 0.1)
        assert 0 < expected.sum() < expected.size
        np.testing.assert_array_equal(got, expected)


def test_an_edge_from_black_to_white_has_a_gradient_of_1():
    photograph = np.zeros((5, 8, 3), np.uint8)
    photograph[:, 4:] = 255
    columns = np.arange(8)
    edge = np.broadcast_to((columns == 3) | (columns == 4), (5, 8))
    np.testing.assert_array_equal(asking.image_edges(photograph, 0.99), edge)
    assert not asking.image_edges(photograph, 1.01).any()
    weights = asking.edge_weights(photograph)
    np.testing.assert_array_equal(weights, np.where(edge, 255, 16))
    # A fourth of the edge weighs half.
    weak = asking.edge_weights(photograph // 4)[0, 3]
    assert weak == pytest.approx(255 * np.sqrt(63 / 255 + 1 / 255), abs=0.6)


def test_the_strongest_edge_around_every_second_pixel(monkeypatch):
    weights = np.random.default_rng(0).integers(0, 256, (7, 10)).astype(np.uint8)
    found = asking.strongest(weights, 2)
    expected = [
        [weights[max(y - 1, 0) : y + 1, max(x - 1, 0) : x + 1].max() for x in range(0, 10, 2)]
        for y in range(0, 7, 2)
    ]
    np.testing.assert_array_equal(found, expected)
    assert asking.strongest(weights, 1) is weights
    photograph = scene(0)
    whole = asking.edge_weights(photograph)
    monkeypatch.setattr(asking, "_STRIP", 10)
    np.testing.assert_array_equal(asking.edge_weights(photograph), whole)


def test_what_lies_between():
    sure, other = [20.0, 0.0, 0.0], [0.0, 20.0, 0.0]
    logits = np.array([[sure, other], [sure, [0.0, 0.0, 0.0]]], np.float32)
    found = asking.between(logits, 4, np.arange(7), np.arange(6))
    assert found.shape == (7, 6, 3)
    np.testing.assert_array_equal(found[::4, ::4], logits)
    np.testing.assert_allclose(np.exp(found[0, 1]), [0.75, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(np.exp(found[2, 4]), [1 / 6, 2 / 3, 1 / 6], atol=1e-6)
    # Beyond the last ones these are repeated; a strip of it is the same.
    np.testing.assert_allclose(np.exp(found[5:, 5]), 1 / 3, atol=1e-6)
    part = asking.between(logits, 4, np.arange(3, 7), np.arange(6))
    np.testing.assert_array_equal(part, found[3:])


def test_it_is_unsure_where_answers_are_or_disagree():
    sure, other, none = [20.0, 0.0, 0.0], [0.0, 20.0, 0.0], [0.0, 0.0, 0.0]
    logits = np.array([[sure, other], [none, sure]], np.float32)
    strong = np.full((2, 2), 255, np.uint8)
    found = asking.unsure(logits, strong)
    np.testing.assert_allclose(found, [[0, 0], [65535, 0]], atol=1)
    half = 65535 * np.log(2) / np.log(3)
    between = asking.between(logits, 2, np.arange(1), np.arange(2))
    np.testing.assert_allclose(asking.unsure(between, strong[:1])[0, 1], half, atol=2)
    np.testing.assert_array_equal(asking.unsure(logits + 7, strong), found)
    np.testing.assert_allclose(asking.unsure(logits, strong // 5), found // 5, atol=1)


@pytest.mark.parametrize("count", [0, 3, 10, 24, 40])
def test_the_least_certain(count):
    g = np.random.default_rng(0)
    unsure = g.integers(0, 6, (5, 8)).astype(np.uint16) * 9000
    among = g.random((5, 8)) < 0.8
    chosen = asking.least_certain(unsure, among, count)
    possible = among & (unsure > 0)
    assert chosen.sum() == min(count, possible.sum()) and not (chosen & ~possible).any()
    if 0 < chosen.sum() < possible.sum():
        assert unsure[chosen].min() >= unsure[possible & ~chosen].max()
