"""Counts of right and wrong pixels a class, and the scores made of them: aAcc, mIoU, mAcc, mBIoU.

The counts of an image are made on the device, exact integers; they are pooled over images on the
host, in 64 bits, before any ratio is taken, as the released evaluator does
(mmseg/evaluation/metrics/iou_metric.py of MaSS13K).
"""

import json
import math
import os
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt8

from massformer_jax.data.classes import IGNORE
from massformer_jax.files import write_whole

# Share of the image's diagonal that a boundary is wide (Boundary IoU, arXiv 2103.16562, has 0.02;
# the matting-level benchmark asks for 0.001: 5 pixels of a 4096x3072 photograph).
BOUNDARY_RATIO = 0.001

# Rows counted at once. Comparing the whole map with every class would store seven maps of int32
# (350 MB at 12 megapixels on CPU); row by row would be thousands of tiny kernels on an accelerator.
_ROWS_AT_ONCE = 64


class Counts(NamedTuple):
    """Pixels a class. int32 [k] of one image (or [b k] under vmap), int64 [k] once pooled.

    `intersect`, `union`, `pred`, `label` leave out the pixels labelled 255; `boundary_intersect`
    and `boundary_union` do not.
    """

    intersect: Int[Array | np.ndarray, "*b k"]
    union: Int[Array | np.ndarray, "*b k"]
    pred: Int[Array | np.ndarray, "*b k"]
    label: Int[Array | np.ndarray, "*b k"]
    boundary_intersect: Int[Array | np.ndarray, "*b k"]
    boundary_union: Int[Array | np.ndarray, "*b k"]


def boundary_radius(height: int, width: int) -> int:
    """Width in pixels of the boundary of an image's masks: 0.001 of the diagonal, at least 1."""
    return max(1, round(BOUNDARY_RATIO * math.sqrt(height**2 + width**2)))


def boundary(labels: UInt8[Array, "h w"], radius: int) -> Bool[Array, "h w"]:
    """Pixels that an erosion by a (2 radius + 1)² square takes away from the mask of their label.

    Outside the image counts as outside of every mask. A mask keeps a pixel exactly where the square
    around it holds one label only, so one windowed minimum and one maximum erode all masks at once.
    """
    side = 2 * radius + 1
    if min(labels.shape) < side:
        return jnp.ones(labels.shape, bool)

    def windowed(op, start):
        rows = lax.reduce_window(labels, start, op, (side, 1), (1, 1), "VALID")
        return lax.reduce_window(rows, start, op, (1, side), (1, 1), "VALID")

    one_label = windowed(lax.min, np.uint8(255)) == windowed(lax.max, np.uint8(0))
    return ~jnp.pad(one_label, radius)


@partial(jax.jit, static_argnames="num_classes")
def image_counts(
    prediction: UInt8[Array, "h w"], label: UInt8[Array, "h w"], *, num_classes: int = 7
) -> Counts:
    """Counts of one image; vmap it over a batch of equal sizes.

    Args:
      prediction: class of every pixel, 0..num_classes-1.
      label: the truth, 0..num_classes-1 or 255 (belongs to no class).
      num_classes: number of classes k.

    Returns:
      int32 [k] arrays, for images below 2^31 pixels.
    """
    classes = jnp.arange(num_classes, dtype=jnp.uint8)[None]
    radius = boundary_radius(*label.shape)

    def count(row):
        prediction, label, prediction_edge, label_edge = row
        predicted = prediction[:, None] == classes
        labelled = label[:, None] == classes
        counted = (label != np.uint8(IGNORE))[:, None]
        edge_predicted = predicted & prediction_edge[:, None]
        # Release: 255 is not dropped here: a prediction's boundary counts against the union where
        # there is no truth (metrics_test.py::test_counts_equal_the_release).
        edge_labelled = labelled & label_edge[:, None]
        masks = (
            predicted & labelled,
            (predicted | labelled) & counted,
            predicted & counted,
            labelled,
            edge_predicted & edge_labelled,
            edge_predicted | edge_labelled,
        )
        return Counts(*(jnp.sum(mask, axis=0, dtype=jnp.int32) for mask in masks))

    maps = (prediction, label, boundary(prediction, radius), boundary(label, radius))
    rows = lax.map(count, maps, batch_size=_ROWS_AT_ONCE)
    return Counts(*(jnp.sum(field, axis=0, dtype=jnp.int32) for field in rows))


def zero_counts(num_classes: int = 7) -> Counts:
    """The pool before the first image: int64 zeros on the host."""
    return Counts(*(np.zeros(num_classes, np.int64) for _ in Counts._fields))


def add_counts(pool: Counts, counts: Counts) -> Counts:
    """The pool (int64 [k], host) with the counts of an image [k] or of a batch [b k] added.

    Waits for the device: call it for the image before, while the next one is computed.
    """
    return Counts(
        *(
            total + np.asarray(field, np.int64).reshape(-1, total.size).sum(axis=0)
            for total, field in zip(pool, counts, strict=True)
        )
    )


def summarize(pool: Counts) -> dict[str, float | list[float]]:
    """Scores of the pooled counts, as fractions in 0..1.

    Returns:
      `aAcc` (right pixels of all labelled ones), the means `mIoU`, `mAcc`, `mBIoU`, and the lists
      `IoU`, `Acc`, `BIoU` with one value a class. A ratio without a denominator is NaN and is left
      out of its mean, as in the released evaluator: the IoU of a class that is neither in labels
      nor in predictions, the Acc of one that is not in labels.
    """
    intersect, union, _, label, boundary_intersect, boundary_union = (
        np.asarray(field, np.float64) for field in pool
    )
    with np.errstate(invalid="ignore"):  # 0/0 is the NaN that is meant; x/0 cannot happen
        scores = {
            "IoU": intersect / union,
            "Acc": intersect / label,
            "BIoU": boundary_intersect / boundary_union,
        }
        accuracy = intersect.sum() / label.sum()
    means = {f"m{name}": _mean_of_numbers(values) for name, values in scores.items()}
    return {
        "aAcc": float(accuracy),
        **means,
        **{name: values.tolist() for name, values in scores.items()},
    }


def best_constant_miou(pool: Counts) -> float:
    """The mIoU, 0..1, of the best answer that gives every pixel the same class.

    That class has its share of the labelled pixels as IoU, the others that occur have 0.
    """
    label = np.asarray(pool.label, np.float64)
    return float(label.max() / label.sum() / np.count_nonzero(label))


def _mean_of_numbers(values: np.ndarray) -> float:
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if numbers.size else math.nan


def format_table(summary: dict, class_names: Sequence[str]) -> str:
    """A table to print, in percent with two decimals: a line a class, a line of means, then aAcc.

    A score that does not exist (NaN) is shown as `-`.

    Raises:
      ValueError: not as many names as classes in the summary.
    """
    columns = ("IoU", "Acc", "BIoU")
    if len(class_names) != len(summary["IoU"]):
        raise ValueError(
            f"{len(class_names)} class names for {len(summary['IoU'])} counted classes: "
            "pass one name a class"
        )
    rows = [
        (name, *(summary[column][k] for column in columns)) for k, name in enumerate(class_names)
    ]
    rows.append(("mean", *(summary[f"m{column}"] for column in columns)))
    width = max(len("class"), *(len(row[0]) for row in rows))

    def line(first: str, cells: Sequence[str]) -> str:
        return f"{first:<{width}}" + "".join(f"{cell:>8}" for cell in cells)

    head = line("class", columns)
    body = [line(name, [_percent(value) for value in values]) for name, *values in rows]
    rule = "-" * len(head)
    overall = line("aAcc", [_percent(summary["aAcc"])])
    return "\n".join([head, rule, *body[:-1], rule, body[-1], overall])


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def write_json(path: str | os.PathLike, value: dict) -> None:
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
