"""Scores equal those of the released evaluator, and BF1 its definition; tables and JSON."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from massformer_jax.classes import CLASSES
from massformer_jax.metrics import scores
from massformer_jax.metrics.counts import TOLERANCES, Counts, add_counts, image_counts, zero_counts
from tests.helpers.obvious_counts import obvious_counts

PARITY = Path(__file__).parents[1] / "parity" / "metrics"
RELEASE = json.loads((PARITY / "metrics.json").read_text())
MEANS = ("aAcc", "mIoU", "mAcc", "mDice", "mFscore", "mPrecision", "mRecall", "mBIoU")


def pool_of(*pairs, num_classes=7, **settings):
    pool = zero_counts(num_classes, len(settings.get("tolerances", TOLERANCES)))
    for prediction, label in pairs:
        counts = image_counts(
            np.asarray(prediction, np.uint8),
            np.asarray(label, np.uint8),
            num_classes=num_classes,
            **settings,
        )
        pool = add_counts(pool, counts)
    return pool


@pytest.fixture(scope="module")
def release_pool():
    def read(name):
        return cv2.imread(str(PARITY / name), cv2.IMREAD_UNCHANGED)

    return pool_of(*((read(f"pred{i}.png"), read(f"gt{i}.png")) for i in range(3)))


def test_summary_equals_the_release(release_pool):
    summary = scores.summarize(release_pool)
    # The release divides in float32.
    np.testing.assert_allclose(summary["aAcc"], RELEASE["totals"]["aAcc"], rtol=1e-7)
    for name in ("IoU", "Acc", "BIoU"):
        np.testing.assert_allclose(summary[name], RELEASE["totals"][name], rtol=1.2e-7)
    for name, percent in RELEASE["summary"].items():
        assert round(100 * summary[name], 2) == pytest.approx(percent, abs=1e-5), name


def test_scores_by_hand():
    """Class 0: 2 of 3 found, 2 of 2 right; class 1: 1 of 1 found, 1 of 2 right."""
    summary = scores.summarize(pool_of(([[0, 0, 1, 1]], [[0, 0, 0, 1]]), num_classes=2))
    assert summary["aAcc"] == 0.75
    assert summary["IoU"] == pytest.approx([2 / 3, 1 / 2])
    assert summary["Acc"] == summary["Recall"] == pytest.approx([2 / 3, 1])
    assert summary["Precision"] == pytest.approx([1, 1 / 2])
    assert summary["Dice"] == summary["Fscore"] == pytest.approx([4 / 5, 2 / 3])
    assert summary["mDice"] == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_f_score_as_released():
    """Class 1 is predicted, but never at the right place: its Dice is 0, its F-score no number."""
    summary = scores.summarize(pool_of(([[0, 0, 1]], [[0, 1, 0]]), num_classes=2))
    assert summary["Dice"] == [0.5, 0] and summary["mDice"] == 0.25
    assert summary["Fscore"][0] == 0.5 == summary["mFscore"] and math.isnan(summary["Fscore"][1])


def test_absent_classes_are_left_out():
    """Class 2 is nowhere, class 1 is only predicted, class 0 is half right."""
    summary = scores.summarize(pool_of(([[0, 0, 1, 1]], [[0, 0, 0, 0]]), num_classes=3))
    assert summary["IoU"][:2] == [0.5, 0.0] and math.isnan(summary["IoU"][2])
    assert summary["Acc"][0] == 0.5 and all(math.isnan(value) for value in summary["Acc"][1:])
    assert summary["aAcc"] == summary["mAcc"] == 0.5
    assert summary["mIoU"] == summary["mBIoU"] == 0.25


def test_nothing_counted_gives_nan_without_a_warning(recwarn):
    summary = scores.summarize(zero_counts())
    assert all(math.isnan(summary[name]) for name in (*MEANS, "mBF1@0.1%", "BF1_images@0.1%"))
    assert not recwarn.list


def test_bf1_by_hand():
    """In three images of two classes, the edge is hit, is missed by 3 pixels, and does not exist.

    In the second image, a third class appears only in the prediction, so it has no score there.
    """
    edge, moved = np.zeros((2, 5, 20), np.uint8)
    edge[:, 10:], moved[:, 13:] = 1, 1
    moved[2, 2] = 2
    images = (edge, edge), (moved, edge), (edge * 0, edge * 0)
    pool = pool_of(*images, num_classes=3, tolerances=(2.0, 3.0))
    summary = scores.summarize(pool, (2.0, 3.0))
    # Around the third class the first one has four more contour pixels.
    precision = 5 / 9
    near = 2 * precision / (precision + 1)
    assert summary["BF1@2px"][:2] == pytest.approx([0.5, 0.5])
    assert summary["BF1@3px"][:2] == pytest.approx([(1 + near) / 2, 1])
    assert math.isnan(summary["BF1@2px"][2])
    assert summary["mBF1@3px"] == pytest.approx(((1 + near) / 2 + 1) / 2)
    assert summary["BF1_images@3px"] == pytest.approx((1 + (near + 1) / 2) / 2)
    pooled = 2 * (10 / 14) / (10 / 14 + 1)
    assert summary["BF1_pooled@3px"][:2] == pytest.approx([pooled, 1])
    assert summary["BF1_pooled@2px"][:2] == pytest.approx([2 * 5 / (14 + 10), 0.5])


def test_bf1_equals_its_definition():
    """That of Csurka et al. is F1 of each class of an image's truth, from points and distances."""
    random = np.random.default_rng(4)
    pairs = []
    for _ in range(4):
        coarse = random.integers(0, 4, (5, 6))
        label = np.kron(coarse, np.ones((8, 8), int))
        pairs.append((np.roll(label, random.integers(-3, 4, 2), (0, 1)), label))
    pool = pool_of(*pairs, num_classes=5, tolerances=(2.0,))
    each = []
    for prediction, label in pairs:
        counts = obvious_counts(prediction, label, 5, tolerances=(2.0,))
        row = []
        for k in range(5):
            if counts.contour_label[k]:
                precision = counts.matched_pred[0][k] / max(counts.contour_pred[k], 1)
                recall = counts.matched_label[0][k] / counts.contour_label[k]
                row.append(2 * precision * recall / max(precision + recall, 1e-30))
            else:
                row.append(math.nan)
        each.append(row)
    summary = scores.summarize(pool, (2.0,))
    np.testing.assert_allclose(summary["BF1@2px"][:4], np.nanmean(np.array(each)[:, :4], 0))
    assert math.isnan(summary["BF1@2px"][4])
    assert summary["BF1_images@2px"] == pytest.approx(np.nanmean(np.nanmean(each, 1)))


def test_pool_does_not_overflow():
    """1500 images of 12 megapixels are 1.9e10 pixels: beyond int32."""
    image = Counts(*(np.full((1500, *x.shape[1:]), 12_582_912, np.int32) for x in zero_counts(1)))
    pool = add_counts(zero_counts(1), image)
    assert pool.intersect.sum() == 18_874_368_000
    assert scores.summarize(pool)["mIoU"] == 1


def test_one_image_of_a_pool(release_pool):
    summaries = [scores.summarize(scores.one_image(release_pool, i)) for i in range(3)]
    assert np.mean([s["BF1_images@0.75%"] for s in summaries]) == pytest.approx(
        scores.summarize(release_pool)["BF1_images@0.75%"]
    )


def test_table(release_pool):
    summary = scores.summarize(release_pool)
    summary["Acc"][1] = math.nan
    lines = scores.format_table(summary, CLASSES).splitlines()
    columns = ["class", "IoU", "Acc", "Dice", "Precision", "BIoU", "BF1@0.75%", "BF1@0.1%"]
    columns.append("BF1@1px")
    assert lines[0].split() == columns
    assert lines[2].split()[:3] == ["background", "24.16", "50.59"]
    assert lines[3].split()[:3] == ["person", "54.59", "-"]
    assert lines[-2].split()[:3] == ["mean", "61.83", "78.10"]
    assert [line.split()[5] for line in (lines[2], lines[-2])] == ["9.27", "18.43"]
    assert lines[-1].split() == ["aAcc", "84.79"]
    assert len({len(line) for line in lines[:-1]}) == 1
    with pytest.raises(ValueError, match="2 class names for 7 counted classes"):
        scores.format_table(summary, CLASSES[:2])


def test_json_holds_null_for_nan(tmp_path):
    path = tmp_path / "new" / "metrics.json"
    scores.write_json(path, {"mIoU": 0.5, "IoU": [0.5, math.nan], "classes": ("sky", "water")})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "mIoU": 0.5,
        "IoU": [0.5, None],
        "classes": ["sky", "water"],
    }


def test_json_is_complete_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    scores.write_json(path, {"step": 1})
    with pytest.raises(TypeError):
        scores.write_json(path, {"step": object()})

    def disk_full(part, data):
        assert part != path, "written in place: a reader could see half of it"
        part.open("wb").close()
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space"):
        scores.write_json(path, {"step": 2})
    assert json.loads(path.read_bytes()) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_share_of_ignored_pixels():
    label = np.zeros((10, 20), np.uint8)
    label[:3] = 255
    pool = pool_of((label * 0, label), (np.zeros((4, 5)), np.zeros((4, 5))))
    assert scores.ignored_share(pool, [(10, 20), (4, 5)]) == pytest.approx(60 / 220)
    assert math.isnan(scores.ignored_share(zero_counts(), []))
    for share, text in ((0.0, "0.00"), (1e-7, "less than 0.01"), (1e-4, "0.01"), (1.0, "100.00")):
        assert scores.ignored_text(share) == f"{text} % of all pixels are ignored (255)"


def test_nothing_labelled_is_known_as_such(recwarn):
    label = np.full((9, 9), 255, np.uint8)
    pool = pool_of((label * 0, label))
    summary = scores.evaluation_summary(["x"], pool, boundary_ratio=0.001, tolerances=TOLERANCES)
    assert scores.nothing_labelled(summary) and math.isnan(summary["mIoU"])
    assert math.isnan(scores.best_constant_miou(pool)) and not recwarn.list
    label[0, 0] = 3
    pool = pool_of((label * 0, label))
    summary = scores.evaluation_summary(["x"], pool, boundary_ratio=0.001, tolerances=TOLERANCES)
    assert not scores.nothing_labelled(summary)


def test_best_constant_answer_is_found_by_trying_all():
    rng = np.random.default_rng(0)
    label = rng.choice(np.uint8([0, 1, 1, 1, 4, 255]), (9, 11))
    tried = []
    for k in range(7):
        summary = scores.summarize(pool_of((np.full_like(label, k), label)))
        tried.append(np.array(summary["IoU"])[[0, 1, 4]].mean())
    assert scores.best_constant_miou(pool_of((label % 7, label))) == pytest.approx(max(tried))
