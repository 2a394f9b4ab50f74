"""Counts equal the released evaluator's, and an obvious implementation's on maps of any kind."""

import json
import math
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massformer_jax import metrics
from massformer_jax.data.classes import CLASSES

PARITY = Path(__file__).parent / "parity" / "metrics"
RELEASE = json.loads((PARITY / "metrics.json").read_text())


def read(name: str) -> np.ndarray:
    labels = cv2.imread(str(PARITY / name), cv2.IMREAD_UNCHANGED)
    assert labels is not None and labels.ndim == 2
    return labels


def obvious_counts(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> metrics.Counts:
    """The definition, mask by mask: each mask padded with outside and eroded step by step."""
    steps = max(1, round(0.001 * float(np.hypot(*label.shape))))

    def edge(mask):
        eroded = np.pad(mask, steps)
        for _ in range(steps):
            padded = np.pad(eroded, 1)
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
            eroded = windows.all(axis=(2, 3))
        return mask & ~eroded[steps:-steps, steps:-steps]

    counted = label != 255
    rows = []
    for k in range(num_classes):
        predicted, labelled = prediction == k, label == k
        edges = edge(predicted), edge(labelled)
        rows.append(
            [
                np.sum(predicted & labelled & counted),
                np.sum((predicted | labelled) & counted),
                np.sum(predicted & counted),
                np.sum(labelled & counted),
                np.sum(edges[0] & edges[1]),
                np.sum(edges[0] | edges[1]),
            ]
        )
    return metrics.Counts(*np.array(rows).T)


def assert_equal(counts: metrics.Counts, expected: metrics.Counts) -> None:
    for name, field, value in zip(metrics.Counts._fields, counts, expected, strict=True):
        assert field.dtype == np.int32
        np.testing.assert_array_equal(np.asarray(field), value, err_msg=name)


@pytest.fixture(scope="module")
def release_pool():
    pool = metrics.zero_counts()
    for i in range(len(RELEASE["images"])):
        pool = metrics.add_counts(
            pool, metrics.image_counts(read(f"pred{i}.png"), read(f"gt{i}.png"))
        )
    return pool


@pytest.mark.parametrize("i", range(len(RELEASE["images"])))
def test_counts_equal_the_release(i):
    counts = metrics.image_counts(read(f"pred{i}.png"), read(f"gt{i}.png"))
    expected = RELEASE["images"][i]
    assert set(expected) == set(metrics.Counts._fields)
    assert_equal(counts, metrics.Counts(**expected))


def test_summary_equals_the_release(release_pool):
    summary = metrics.summarize(release_pool)
    # The release divides in float32.
    np.testing.assert_allclose(summary["aAcc"], RELEASE["totals"]["aAcc"], rtol=1e-7)
    for name in ("IoU", "Acc", "BIoU"):
        np.testing.assert_allclose(summary[name], RELEASE["totals"][name], rtol=1.2e-7)
    for name, percent in RELEASE["summary"].items():
        assert round(100 * summary[name], 2) == pytest.approx(percent, abs=1e-5), name


@pytest.mark.parametrize(
    "height, width, radius",
    # 1500x2000 and 2100x2800: halves are rounded to the even neighbour, as Python and NumPy do.
    [(1, 1, 1), (300, 420, 1), (1500, 2000, 2), (2100, 2800, 4), (3072, 4096, 5), (2736, 3648, 5)],
)
def test_boundary_radius(height, width, radius):
    assert metrics.boundary_radius(height, width) == radius


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(1, 1), (2, 9), (3, 3), (13, 9), (70, 41)]),
    blob=st.sampled_from([1, 4, 11]),
    seed=st.integers(0, 2**31),
)
def test_counts_equal_the_obvious_ones(shape, blob, seed):
    """Noise (one-pixel structures), blobs, and blobs under noise; classes missing by chance."""
    random = np.random.default_rng(seed)

    def labels(values):
        coarse = random.choice(values, (shape[0] // blob + 1, shape[1] // blob + 1))
        fine = np.kron(coarse, np.ones((blob, blob), int))[: shape[0], : shape[1]]
        noisy = random.random(shape) < random.choice([0.0, 0.02])
        return np.where(noisy, random.choice(values, shape), fine).astype(np.uint8)

    some = random.choice(7, random.integers(1, 8), replace=False)
    prediction, label = labels(some), labels([*some, 255])
    assert_equal(metrics.image_counts(prediction, label), obvious_counts(prediction, label, 7))


@pytest.mark.parametrize("shape, radius", [((1500, 1100), 2), ((4, 2600), 3), ((7, 2600), 3)])
def test_wide_boundaries_equal_opencv(shape, radius):
    """Boundaries of several pixels, also where the image is hardly wider than the window."""
    random = np.random.default_rng(5)
    coarse = random.integers(0, 3, (shape[0] // 60 + 1, shape[1] // 60 + 1))
    labels = np.kron(coarse, np.ones((60, 60), int))[: shape[0], : shape[1]].astype(np.uint8)
    labels[shape[0] // 2, shape[1] // 2] = 255
    prediction = np.roll(labels, 3, axis=1) % 3
    assert metrics.boundary_radius(*shape) == radius

    def edge(mask):
        # One pixel of outside around the image; OpenCV's own border never erodes.
        padded = np.pad(mask.astype(np.uint8), 1)
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=radius)
        return mask & (eroded[1:-1, 1:-1] == 0)

    counts = metrics.image_counts(prediction, labels, num_classes=3)
    for k in range(3):
        predicted, labelled = edge(prediction == k), edge(labels == k)
        assert counts.boundary_intersect[k] == np.sum(predicted & labelled)
        assert counts.boundary_union[k] == np.sum(predicted | labelled)


def test_batch_equals_single_images():
    random = np.random.default_rng(1)
    prediction = random.integers(0, 7, (3, 70, 33)).astype(np.uint8)
    label = random.choice([0, 1, 2, 3, 4, 255], (3, 70, 33)).astype(np.uint8)
    batched = jax.vmap(metrics.image_counts)(prediction, label)
    pool = metrics.zero_counts()
    for i in range(3):
        single = metrics.image_counts(prediction[i], label[i])
        for one, whole in zip(single, batched, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(whole)[i])
        pool = metrics.add_counts(pool, single)
    for one, whole in zip(pool, metrics.add_counts(metrics.zero_counts(), batched), strict=True):
        np.testing.assert_array_equal(one, whole)


def test_a_sharded_batch_is_counted_where_it_lies():
    """No device waits for another's image."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    random = np.random.default_rng(2)
    prediction, label = random.integers(0, 7, (2, 8, 70, 33)).astype(np.uint8)
    count = jax.jit(jax.vmap(metrics.image_counts), in_shardings=split, out_shardings=split)
    for one, whole in zip(
        jax.vmap(metrics.image_counts)(prediction, label), count(prediction, label), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(whole))
    program = count.lower(prediction, label).compile().as_text()
    assert "all-gather" not in program and "all-reduce" not in program


def test_pool_does_not_overflow():
    """1500 images of 12 megapixels are 1.9e10 pixels: beyond int32."""
    pool = metrics.zero_counts(2)
    image = metrics.Counts(*(np.array([12_582_912, 0], np.int32) for _ in metrics.Counts._fields))
    for _ in range(1500):
        pool = metrics.add_counts(pool, image)
    assert [int(field[0]) for field in pool] == [18_874_368_000] * 6


def test_absent_classes_are_left_out():
    """Class 2 is nowhere, class 1 only predicted, class 0 half right."""
    prediction = np.array([[0, 0, 1, 1]], np.uint8)
    label = np.array([[0, 0, 0, 0]], np.uint8)
    pool = metrics.add_counts(
        metrics.zero_counts(3), metrics.image_counts(prediction, label, num_classes=3)
    )
    summary = metrics.summarize(pool)
    assert summary["IoU"][:2] == [0.5, 0.0] and math.isnan(summary["IoU"][2])
    assert summary["Acc"][0] == 0.5 and all(math.isnan(value) for value in summary["Acc"][1:])
    assert summary["aAcc"] == summary["mAcc"] == 0.5
    assert summary["mIoU"] == summary["mBIoU"] == 0.25


def test_nothing_counted_gives_nan_without_a_warning(recwarn):
    summary = metrics.summarize(metrics.zero_counts())
    assert all(math.isnan(summary[name]) for name in ("aAcc", "mIoU", "mAcc", "mBIoU"))
    assert not recwarn.list


def test_table(release_pool):
    summary = metrics.summarize(release_pool)
    summary["Acc"][1] = math.nan
    lines = metrics.format_table(summary, CLASSES).splitlines()
    assert lines[0].split() == ["class", "IoU", "Acc", "BIoU"]
    assert lines[2].split() == ["background", "24.16", "50.59", "9.27"]
    assert lines[3].split() == ["person", "54.59", "-", "3.97"]
    assert lines[-2].split() == ["mean", "61.83", "78.10", "18.43"]
    assert lines[-1].split() == ["aAcc", "84.79"]
    assert len({len(line) for line in lines[:-1]}) == 1
    with pytest.raises(ValueError, match="2 class names for 7 counted classes"):
        metrics.format_table(summary, CLASSES[:2])


def test_json_holds_null_for_nan(tmp_path):
    path = tmp_path / "new" / "metrics.json"
    metrics.write_json(path, {"mIoU": 0.5, "IoU": [0.5, math.nan], "classes": ("sky", "water")})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "mIoU": 0.5,
        "IoU": [0.5, None],
        "classes": ["sky", "water"],
    }


def test_json_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    metrics.write_json(path, {"step": 1})
    with pytest.raises(TypeError):
        metrics.write_json(path, {"step": object()})

    def disk_full(part, data):
        assert part != path, "written in place: a reader could see half of it"
        part.open("wb").close()
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space"):
        metrics.write_json(path, {"step": 2})
    assert json.loads(path.read_bytes()) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_best_constant_answer_is_found_by_trying_all():
    rng = np.random.default_rng(0)
    label = rng.choice(np.uint8([0, 1, 1, 1, 4, 255]), (9, 11))
    tried = []
    for k in range(7):
        counts = metrics.image_counts(jnp.full_like(label, k), jnp.asarray(label))
        scores = np.array(metrics.summarize(counts)["IoU"])
        tried.append(scores[[0, 1, 4]].mean())
    pool = metrics.image_counts(jnp.asarray(label), jnp.asarray(label))
    assert metrics.best_constant_miou(pool) == pytest.approx(max(tried))
