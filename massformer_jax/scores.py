"""Scores of pooled counts: aAcc, mIoU, mAcc, mDice, precision, recall, F-score, mBIoU, BF1.

Pixels are pooled over the images before any ratio is taken, as in the released evaluator
(mmseg/evaluation/metrics/iou_metric.py of MaSS13K); BF1, which that omits, is a mean over images.
Definitions: docs/metrics.md.
"""

import json
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from massformer_jax.files import write_whole
from massformer_jax.metrics import TOLERANCES, Counts

# Columns of the table: a class a line, their mean below.
_COLUMNS = ("IoU", "Acc", "Dice", "Precision", "BIoU")


def tolerance_name(tolerance: float) -> str:
    """What scores at a tolerance are called: `0.75%` of the diagonal, or `2px`."""
    return f"{tolerance:g}px" if tolerance >= 1 else f"{100 * tolerance:g}%"


def summarize(
    pool: Counts, tolerances: Sequence[float] = TOLERANCES
) -> dict[str, float | list[float]]:
    """Scores of the images in a pool, as fractions in 0..1.

    Args:
      pool: counts of n images (metrics.add_counts).
      tolerances: those the contours were matched with.

    Returns:
      `aAcc` (right pixels of all labelled ones); the lists `IoU`, `Acc`, `Dice`, `Fscore`,
      `Precision`, `Recall`, `BIoU`, one value a class, and their means `mIoU`, …; for each
      tolerance, say 0.0075:

      - `BF1@0.75%`, a class: the mean over the images whose truth has a contour of it;
        `mBF1@0.75%`, the mean of these;
      - `BF1_images@0.75%`: the mean over the classes of an image, then over the images;
      - `BF1_pooled@0.75%`, a class, of the contour pixels of all images; `mBF1_pooled@0.75%`.

      A ratio without a denominator is NaN and is left out of its mean: the IoU of a class that is
      neither in labels nor in predictions, the Acc of one that is not in labels.
    """
    intersect, union, pred, label = (
        np.asarray(x.sum(0), np.float64)
        for x in (pool.intersect, pool.union, pool.pred, pool.label)
    )
    with np.errstate(invalid="ignore"):  # 0/0 is the NaN that is meant; x/0 cannot happen
        precision, recall = intersect / pred, intersect / label
        scores = {
            "IoU": intersect / union,
            "Acc": recall,
            "Dice": 2 * intersect / (pred + label),
            # Release: 0/0 where a class is predicted but never right: it is left out of this mean,
            # while its Dice is 0 (scores_test.py::test_f_score_as_released).
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
    """2 P R / (P + R) of contour precision and recall, from counts [*n k].

    0 where nothing is matched or nothing predicted; NaN where the truth has no contour: Csurka et
    al. (BMVC 2013) average over the classes that are in the truth.
    """
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(matched_pred / contour_pred)
        recall = matched_label / contour_label
        score = 2 * precision * recall / (precision + recall)
    return np.where(contour_label == 0, np.nan, np.nan_to_num(score))


def best_constant_miou(pool: Counts) -> float:
    """The mIoU, 0..1, of the best answer that gives every pixel the same class.

    That class has its share of the labelled pixels as IoU, the others that occur have 0.
    """
    label = np.asarray(pool.label.sum(0), np.float64)
    return float(label.max() / label.sum() / np.count_nonzero(label))


def mean_iou(pool: Counts) -> float:
    """The mIoU, 0..1, alone: a running one costs next to nothing."""
    confusion = pool.confusion.sum(0)
    intersect = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - intersect
    return float((intersect[union > 0] / union[union > 0]).mean()) if union.any() else math.nan


def one_image(pool: Counts, i: int) -> Counts:
    """The pool of image i alone."""
    return Counts(*(field[i : i + 1] for field in pool))


def image_scores(
    pool: Counts, i: int, tolerances: Sequence[float] = TOLERANCES
) -> dict[str, float | list[float]]:
    """Of image i alone, as `summarize` names them: all means, and by class IoU, BIoU and BF1."""
    scores = summarize(one_image(pool, i), tolerances)
    by_class = ("IoU", "BIoU", *(f"BF1@{tolerance_name(tolerance)}" for tolerance in tolerances))
    return {
        name: value
        for name, value in scores.items()
        if isinstance(value, float) or name in by_class
    }


def _mean_of_numbers(values: np.ndarray, axis: int) -> np.ndarray | np.float64:
    numbers = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(numbers, values, 0).sum(axis) / numbers.sum(axis)


def format_table(summary: dict, class_names: Sequence[str]) -> str:
    """A table to print, in percent with two decimals: a line a class, a line of means, then aAcc.

    A score that does not exist (NaN) is shown as `-`.

    Raises:
      ValueError: not as many names as classes in the summary.
    """
    columns = _COLUMNS + tuple(name for name in summary if name.startswith("BF1@"))
    if len(class_names) != len(summary["IoU"]):
        raise ValueError(
            f"{len(class_names)} class names for {len(summary['IoU'])} counted classes: "
            "pass one name a class"
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
    """Two decimals; `-` for NaN."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def write_json(path: str | os.PathLike, value: dict[str, Any]) -> None:
    """Writes the value (say, a summary with the step and class names added) as indented JSON.

    NaN becomes null, which every reader of JSON knows. The file appears whole or not at all; its
    folder is made if it is missing.
    """
    text = json.dumps(_null_for_nan(value), indent=1, allow_nan=False) + "\n"
    write_whole(path, text.encode())


def _null_for_nan(value):
    if isinstance(value, dict):
        return {key: _null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
