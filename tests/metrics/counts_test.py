"""Counts equal those of the released evaluator, and of an obvious implementation on any maps."""

import functools
import json
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massformer_jax.evaluation.batches import batches_by_size
from massformer_jax.inference.protocol import DEFAULT_PROTOCOL
from massformer_jax.metrics.counts import (
    MOST_TOLERANCES,
    Counts,
    add_counts,
    boundary_radius,
    image_counts,
    zero_counts,
)
from massformer_jax.ops import boundaries
from massformer_jax.parallel import sharding
from tests.helpers.obvious_counts import obvious_counts

PARITY = Path(__file__).parents[1] / "parity" / "metrics"
RELEASE = json.loads((PARITY / "metrics.json").read_text())


def read(name: str) -> np.ndarray:
    labels = cv2.imread(str(PARITY / name), cv2.IMREAD_UNCHANGED)
    assert labels is not None and labels.ndim == 2
    return labels


def assert_equal(counts: Counts, expected: Counts) -> None:
    for name, field, value in zip(Counts._fields, counts, expected, strict=True):
        assert field.dtype == np.int32
        np.testing.assert_array_equal(np.asarray(field), value, err_msg=name)


def maps_of(seed: int, shape: tuple[int, int], blob: int, classes: int = 7):
    """Makes noise (one-pixel structures), blobs, or blobs under noise; some classes are missing."""
    random = np.random.default_rng(seed)

    def labels(values):
        coarse = random.choice(values, (shape[0] // blob + 1, shape[1] // blob + 1))
        fine = np.kron(coarse, np.ones((blob, blob), int))[: shape[0], : shape[1]]
        noisy = random.random(shape) < random.choice([0.0, 0.02])
        return np.where(noisy, random.choice(values, shape), fine).astype(np.uint8)

    some = random.choice(classes, random.integers(1, min(classes, 7) + 1), replace=False)
    return labels(some), labels([*some, 255])


@pytest.mark.parametrize("i", range(len(RELEASE["images"])))
def test_counts_equal_the_release(i):
    counts = image_counts(read(f"pred{i}.png"), read(f"gt{i}.png"))
    for name, values in RELEASE["images"][i].items():
        np.testing.assert_array_equal(np.asarray(getattr(counts, name)), values, err_msg=name)


@functools.cache
def count_on(devices: int):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    sharded = sharding.batch_sharded(mesh)
    return jax.jit(jax.vmap(image_counts), in_shardings=sharded, out_shardings=sharded)


@pytest.mark.parametrize("devices, batch", [(1, 1), (1, 3), (8, 8), (8, 24)])
def test_release_on_devices_and_in_batches_of_mixed_sizes(devices, batch):
    """They come as in an evaluation: grouped by size, filled up, divided among the devices."""
    examples = [
        {"image": np.zeros((*read(f"gt{i}.png").shape, 3), np.uint8), "label": read(f"gt{i}.png")}
        | {"prediction": read(f"pred{i}.png")}
        for i in range(3)
    ]
    assert len({example["label"].shape for example in examples}) == 2
    pool = zero_counts()
    for group in batches_by_size(examples, batch, DEFAULT_PROTOCOL):
        predictions = [example["prediction"] for example in group.examples]
        predictions += predictions[-1:] * (batch - group.count)
        counts = count_on(devices)(np.stack(predictions), group.labels)
        pool = add_counts(pool, Counts(*(x[: group.count] for x in counts)))
    assert len(pool.confusion) == 3
    for name in RELEASE["images"][0]:
        expected = sum(np.array(image[name]) for image in RELEASE["images"])
        np.testing.assert_array_equal(getattr(pool, name).sum(0), expected, err_msg=name)


@pytest.mark.parametrize(
    "height, width, radius",
    # 1500x2000 and 2100x2800: halves are rounded to the even neighbour, as Python and NumPy do.
    [(1, 1, 1), (300, 420, 1), (1500, 2000, 2), (2100, 2800, 4), (3072, 4096, 5), (2736, 3648, 5)],
)
def test_boundary_radius(height, width, radius):
    assert boundary_radius(height, width) == radius


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(1, 1), (2, 9), (13, 9), (70, 41)]),
    blob=st.sampled_from([1, 4, 11]),
    seed=st.integers(0, 2**31),
)
def test_counts_equal_the_obvious_ones(shape, blob, seed):
    """Tolerances are in pixels, since a share of so small a diagonal is less than one pixel."""
    prediction, label = maps_of(seed, shape, blob)
    counts = image_counts(prediction, label, tolerances=(0.0075, 1.0, 5.83))
    assert_equal(counts, obvious_counts(prediction, label, 7, tolerances=(0.0075, 1.0, 5.83)))


@pytest.mark.parametrize("ratio, tolerances", [(0.02, (3.7,)), (0.05, (0.05, 0.02))])
def test_wider_boundaries_and_tolerances_equal_the_obvious_ones(ratio, tolerances):
    for seed in range(3):
        prediction, label = maps_of(seed, (90, 120), 20)
        counts = image_counts(prediction, label, boundary_ratio=ratio, tolerances=tolerances)
        expected = obvious_counts(prediction, label, 7, boundary_ratio=ratio, tolerances=tolerances)
        assert_equal(counts, expected)


def test_as_many_tolerances_as_a_byte_has_room_for():
    """Beside the bits of the boundary and of the contour; one more would never be matched."""
    prediction, label = maps_of(2, (20, 30), 4)
    most = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert len(most) == MOST_TOLERANCES
    counts = image_counts(prediction, label, tolerances=most)
    assert_equal(counts, obvious_counts(prediction, label, 7, tolerances=most))
    with pytest.raises(ValueError, match="7 tolerances; 6 can be counted"):
        image_counts(prediction, label, tolerances=(*most, 7.0))


@pytest.mark.parametrize("shape", [(1300, 12), (12, 1300), (130, 125)])
def test_tiles_meet_without_a_seam(shape, monkeypatch):
    """The image is larger than a tile, so counts also depend on pixels of the next tile."""
    if shape == (130, 125):
        monkeypatch.setattr("massformer_jax.metrics.counts._TILE", 50)
    prediction, label = maps_of(shape[0], shape, 9)
    counts = image_counts(prediction, label, tolerances=(0.0075, 9.5))
    assert_equal(counts, obvious_counts(prediction, label, 7, tolerances=(0.0075, 9.5)))


@pytest.mark.parametrize("classes", [1, 8, 9, 20])
def test_any_number_of_classes(classes):
    """Eight classes fit into a byte; there may be fewer or more."""
    prediction, label = maps_of(3, (40, 40), 5, classes)
    counts = image_counts(prediction, label, num_classes=classes, tolerances=(2.0,))
    assert_equal(counts, obvious_counts(prediction, label, classes, tolerances=(2.0,)))


def test_without_tolerances_no_contour_is_matched():
    prediction, label = maps_of(8, (40, 40), 5)
    counts = image_counts(prediction, label, tolerances=())
    assert counts.matched_pred.shape == counts.matched_label.shape == (0, 7)
    expected = image_counts(prediction, label)
    for one, other in zip(counts[:5], expected[:5], strict=True):
        np.testing.assert_array_equal(one, other)


def test_contours_by_hand():
    """The frame and an ignored region have no contour; a single pixel is its own contour."""
    labels = np.zeros((7, 8), np.uint8)
    labels[0:4, 0:4] = 1
    labels[6, 7] = 2
    labels[5:7, 0:2] = 255
    drawn = [
        "...#o...",
        "...#o...",
        "...#o...",
        "####o...",
        "oooo....",
        ".......o",
        "......o#",
    ]
    expected = np.array([[cell in "#o" for cell in row] for row in drawn])
    np.testing.assert_array_equal(np.asarray(boundaries.contours(jnp.asarray(labels))), expected)


def test_matches_by_hand():
    """Two vertical edges are two columns apart: each contour pixel is 2 from the other map's."""
    prediction, label = np.zeros((2, 5, 12), np.uint8)
    prediction[:, 4:], label[:, 6:] = 1, 1
    counts = image_counts(prediction, label, num_classes=2, tolerances=(1.99, 2.0))
    np.testing.assert_array_equal(counts.contour_pred, [5, 5])
    np.testing.assert_array_equal(counts.contour_label, [5, 5])
    np.testing.assert_array_equal(counts.matched_pred, [[0, 0], [5, 5]])
    np.testing.assert_array_equal(counts.matched_label, [[0, 0], [5, 5]])


@pytest.mark.parametrize("distance", [0.5, 1, 1.5, 5.12, 38.4])
def test_spread_is_a_disc(distance):
    size = 2 * int(distance) + 5
    middle = size // 2
    bits = np.zeros((size, size + 2), np.uint8)
    bits[middle, middle + 1] = 4
    y, x = np.indices(bits.shape)
    expected = 4 * ((y - middle) ** 2 + (x - middle - 1) ** 2 <= distance**2)
    np.testing.assert_array_equal(
        np.asarray(boundaries.spread(jnp.asarray(bits), float(distance))), expected
    )


def test_ignored_pixels_and_padding_count_nowhere():
    """Predictions where nothing is labelled, and rows and columns added there, change no count.

    The released boundary IoU is the exception: it counts a predicted boundary there as wrong.
    """
    prediction, label = maps_of(11, (60, 50), 9)
    label[20:30, 10:40] = 255
    size = {"tolerances": (1.0, 4.2), "boundary_ratio": 0.02}
    counts = image_counts(prediction, label, **size)
    other = np.where(label == 255, (prediction + 1) % 7, prediction).astype(np.uint8)
    padded = [
        np.pad(x, ((0, 9), (0, 70)), constant_values=v) for x, v in ((other, 3), (label, 255))
    ]
    again = image_counts(*padded, **size)
    for name in set(Counts._fields) - {"boundary_intersect", "boundary_union"}:
        np.testing.assert_array_equal(getattr(counts, name), getattr(again, name), err_msg=name)


@pytest.mark.parametrize("shape, radius", [((1500, 1100), 2), ((4, 2600), 3), ((7, 2600), 3)])
def test_wide_boundaries_equal_opencv(shape, radius):
    """Boundaries are several pixels wide, also where the image is hardly wider than the window."""
    random = np.random.default_rng(5)
    coarse = random.integers(0, 3, (shape[0] // 60 + 1, shape[1] // 60 + 1))
    labels = np.kron(coarse, np.ones((60, 60), int))[: shape[0], : shape[1]].astype(np.uint8)
    labels[shape[0] // 2, shape[1] // 2] = 255
    prediction = np.roll(labels, 3, axis=1) % 3
    assert boundary_radius(*shape) == radius

    def edge(mask):
        # One pixel of outside around the image; OpenCV's own border never erodes.
        padded = np.pad(mask.astype(np.uint8), 1)
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=radius)
        return mask & (eroded[1:-1, 1:-1] == 0)

    counts = image_counts(prediction, labels, num_classes=3)
    for k in range(3):
        predicted, labelled = edge(prediction == k), edge(labels == k)
        assert counts.boundary_intersect[k] == np.sum(predicted & labelled)
        assert counts.boundary_union[k] == np.sum(predicted | labelled)


def test_batch_equals_single_images():
    random = np.random.default_rng(1)
    prediction = random.integers(0, 7, (3, 70, 33)).astype(np.uint8)
    label = random.choice([0, 1, 2, 3, 4, 255], (3, 70, 33)).astype(np.uint8)
    batched = jax.vmap(image_counts)(prediction, label)
    pool = zero_counts()
    for i in range(3):
        pool = add_counts(pool, image_counts(prediction[i], label[i]))
    at_once = add_counts(zero_counts(), batched)
    for one, other in zip(pool, at_once, strict=True):
        assert one.dtype == other.dtype == np.int64 and len(one) == 3
        np.testing.assert_array_equal(one, other)


def test_a_sharded_batch_is_counted_where_it_lies():
    """No device waits for another's image."""
    random = np.random.default_rng(2)
    prediction, label = random.integers(0, 7, (2, 8, 70, 33)).astype(np.uint8)
    count = count_on(8)
    for one, other in zip(
        jax.vmap(image_counts)(prediction, label), count(prediction, label), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    program = count.lower(prediction, label).compile().as_text()
    assert "all-gather" not in program and "all-reduce" not in program
