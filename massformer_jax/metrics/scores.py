"""Scores of pooled counts: aAcc, mIoU, mAcc, mDice, precision, recall, F-score, mBIoU, BF1.

Pixels are summed over the images before any ratio is taken, as in the released evaluator
(mmseg/evaluation/metrics/iou_metric.py of MaSS13K). BF1, which the release omits, is a mean over
images. docs/metrics.md defines each score.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from massformer_jax.classes import class_names
from massformer_jax.files import write_atomically
from massformer_jax.metrics.counts import TOLERANCES, Counts

# Columns of the printed table, which has one row for each class and one for their mean.
_COLUMNS = ("IoU", "Acc", "Dice", "Precision", "BIoU")


def tolerance_name(tolerance: float) -> str:
    """Returns a tolerance as scores name it: `0.75%` of the diagonal, or `2px`."""
    return f"{tolerance:g}px" if tolerance >= 1 else f"{100 * tolerance:g}%"


def summarize(
    pool: Counts, tolerances: Sequence[float] = TOLERANCES
) -> dict[str, float | list[float]]:
    """Computes the scores of the images in a pool, as fractions in 0..1.

    Args:
        pool: counts of n images, see `counts.add_counts`.
        tolerances: those that the contours were matched with.

    Returns:
        `aAcc`, the share of the labelled pixels that are right; the lists `IoU`, `Acc`, `Dice`,
        `Fscore`, `Precision`, `Recall` and `BIoU` with one value for each class, and their means
        `mIoU` and so on. For each tolerance, for instance 0.0075, there are also:

        - `BF1@0.75%`, for each class the mean over the images whose truth has a contour of it, and
          `mBF1@0.75%`, the mean of these;
        - `BF1_images@0.75%`, the mean over the classes of an image, then over the images;
        - `BF1_pooled@0.75%`, for each class the BF1 of the contour pixels of all images together,
          and `mBF1_pooled@0.75%`, the mean of these.

        A ratio without a denominator is NaN and is left out of its mean. Examples are the IoU of a
        class that is neither in labels nor in predictions, and the Acc of a class that is not in
        labels.
    """
    intersect, union, pred, label = (
        np.asarray(x.sum(0), np.float64)
        for x in (pool.intersect, pool.union, pool.pred, pool.label)
    )
    # 0/0 gives the NaN that is wanted; x/0 cannot happen.
    with np.errstate(invalid="ignore"):
        precision, recall = intersect / pred, intersect / label
        scores = {
            "IoU": intersect / union,
            "Acc": recall,
            "Dice": 2 * intersect / (pred + label),
            # Release: this is 0/0 where a class is predicted but never right. So the class is left
            # out of the mean, while its Dice is 0
            # (tests/metrics/scores_test.py::test_f_score_as_released).
            "Fscore": 2 * precision * recall / (precision + recall),
            "Precision": precision,
            "Recall": recall,
            "BIoU": pool.boundary_intersect.sum(0) / pool.boundary_union.sum(0),
        }
        accuracy = intersect.sum() / label.sum()
    images = {}
    for t, tolerance in enumerate(tolerances):
        name = tolerance_name(tolerance)
        matched = pool.matched_pred[:, t], pool.matched_label[:, t]
        each = boundary_f1(*matched, pool.contour_pred, pool.contour_label)
        scores[f"BF1@{name}"] = _mean_of_numbers(each, 0)
        images[f"BF1_images@{name}"] = float(_mean_of_numbers(_mean_of_numbers(each, 1), 0))
        scores[f"BF1_pooled@{name}"] = boundary_f1(
            *(x.sum(0) for x in (*matched, pool.contour_pred, pool.contour_label))
        )
    return {
        "aAcc": float(accuracy),
        **{f"m{name}": float(_mean_of_numbers(values, 0)) for name, values in scores.items()},
        **images,
        **{name: values.tolist() for name, values in scores.items()},
    }


def boundary_f1(
    matched_pred: np.ndarray,
    matched_label: np.ndarray,
    contour_pred: np.ndarray,
    contour_label: np.ndarray,
) -> Float[np.ndarray, "*n k"]:
    """Computes 2 P R / (P + R) of the contours' precision P and recall R, from counts [*n k].

    It is 0 where nothing is matched or nothing is predicted. It is NaN where the truth has no
    contour, because Csurka et al. (BMVC 2013) average over the classes that are in the truth.
    """
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(matched_pred / contour_pred)
        recall = matched_label / contour_label
        score = 2 * precision * recall / (precision + recall)
    return np.where(contour_label == 0, np.nan, np.nan_to_num(score))


def best_constant_miou(pool: Counts) -> float:
    """Computes the mIoU, 0..1, of the best answer that gives all pixels the same class.

    The IoU of that class is its share of the labelled pixels; the IoU of the other classes that
    occur is 0. It is NaN if nothing is labelled.
    """
    label = np.asarray(pool.label.sum(0), np.float64)
    if not label.any():
        return math.nan
    return float(label.max() / label.sum() / np.count_nonzero(label))


def mean_iou(pool: Counts) -> float:
    """Computes the mIoU alone, 0..1, so cheaply that it can be shown after each image."""
    confusion = pool.confusion.sum(0)
    intersect = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - intersect
    return float((intersect[union > 0] / union[union > 0]).mean()) if union.any() else math.nan


def ignored_share(pool: Counts, sizes: Sequence[tuple[int, int]]) -> float:
    """Computes the share of all pixels, 0..1, that are labelled 255 and so count in no score.

    Args:
        pool: counts of n images.
        sizes: their (height, width), in pixels.
    """
    pixels = sum(height * width for height, width in sizes)
    return float(1 - pool.confusion.sum() / pixels) if pixels else math.nan


def ignored_text(share: float) -> str:
    """Returns a share of ignored pixels as text, in percent; a small one does not become none."""
    few = "less than 0.01" if 0 < share < 0.0001 else percent(share)
    return f"{few} % of all pixels are ignored (255)"


def nothing_labelled(summary: Mapping[str, Any]) -> bool:
    """Tells whether all pixels of an evaluation are ignored, so that there are no scores."""
    return not np.any(summary["confusion"])


def one_image(pool: Counts, i: int) -> Counts:
    """Returns a pool that holds image i alone."""
    return Counts(*(field[i : i + 1] for field in pool))


def image_scores(
    pool: Counts, i: int, tolerances: Sequence[float] = TOLERANCES
) -> dict[str, float | list[float]]:
    """Computes scores of image i: all means of `summarize`, and IoU, BIoU and BF1 by class."""
    scores = summarize(one_image(pool, i), tolerances)
    by_class = ("IoU", "BIoU", *(f"BF1@{tolerance_name(tolerance)}" for tolerance in tolerances))
    return {
        name: value
        for name, value in scores.items()
        if isinstance(value, float) or name in by_class
    }


def evaluation_summary(
    names: Sequence[str], pool: Counts, *, boundary_ratio: float, tolerances: Sequence[float]
) -> dict[str, Any]:
    """Returns what the JSON of an evaluation holds.

    It has the settings, the scores of `summarize`, the confusion matrix (a list for each true class
    with a number for each predicted one), and under `images` the scores of each image by its name.
    """
    return {
        "classes": list(class_names(pool.confusion.shape[-1])),
        "boundary_ratio": boundary_ratio,
        "tolerances": list(tolerances),
        **summarize(pool, tolerances),
        "confusion": pool.confusion.sum(0).tolist(),
        "images": {name: image_scores(pool, i, tolerances) for i, name in enumerate(names)},
    }


def _mean_of_numbers(values: np.ndarray, axis: int) -> np.ndarray | np.float64:
    numbers = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(numbers, values, 0).sum(axis) / numbers.sum(axis)


def format_table(summary: dict, class_names: Sequence[str]) -> str:
    """Returns a table to print, in percent with two decimals.

    It has a row for each class, a row of means, and a row with aAcc. A score that does not exist
    (NaN) is shown as `-`.

    Raises:
        ValueError: there are not as many names as classes in the summary.
    """
    columns = _COLUMNS + tuple(name for name in summary if name.startswith("BF1@"))
    if len(class_names) != len(summary["IoU"]):
        raise ValueError(
            f"{len(class_names)} class names for {len(summary['IoU'])} counted classes: "
            "pass one name for each class"
        )
    rows = [
        (name, *(summary[column][k] for column in columns)) for k, name in enumerate(class_names)
    ]
    rows.append(("mean", *(summary[f"m{column}"] for column in columns)))
    first = max(len("class"), *(len(row[0]) for row in rows))
    widths = [max(8, len(column) + 2) for column in columns]

    def line(name: str, cells: Sequence[str]) -> str:
        padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=False))
        return f"{name:<{first}}" + "".join(padded)

    head = line("class", columns)
    body = [line(name, [percent(value) for value in values]) for name, *values in rows]
    rule = "-" * len(head)
    overall = line("aAcc", [percent(summary["aAcc"])])
    return "\n".join([head, rule, *body[:-1], rule, body[-1], overall])


def percent(fraction: float) -> str:
    """Returns a fraction in percent with two decimals, `-` for NaN."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def write_json(path: str | os.PathLike, value: dict[str, Any]) -> None:
    """Writes a dictionary as indented JSON, see `write_atomically`.

    NaN becomes null, because the standard of JSON has no NaN.
    """
    text = json.dumps(_null_for_nan(value), indent=1, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def _null_for_nan(value):
    if isinstance(value, dict):
        return {key: _null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
