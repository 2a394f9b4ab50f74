"""Reads the JSON of an evaluation, and checks that it is one before anything is made of it."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from massformer_jax.errors import InputError
from massformer_jax.metrics.scores import tolerance_name

# The scores of `scores.summarize` by class, each of which has a mean by the same name with an m.
_BY_CLASS = ("IoU", "Acc", "Dice", "Fscore", "Precision", "Recall", "BIoU")
_OF_AN_IMAGE = ("IoU", "BIoU")  # by class; of the means an image has all
_SETTINGS = ("classes", "boundary_ratio", "tolerances", "confusion", "images")


def read_summary(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what `scores.evaluation_summary` returned and `scores.write_json` wrote.

    Raises:
        InputError: there is no such file, or it holds no JSON, or no evaluation, or a damaged one;
            names what is wrong.
    """
    try:
        summary = json.loads(pathlib.Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(summary, dict) or not all(key in summary for key in (*_SETTINGS, "mIoU")):
        raise InputError(
            f"{path} holds no evaluation image by image; write it with "
            "massformer_jax.evaluate_files --output"
        )
    wrong = _wrong(summary)
    if wrong:
        raise InputError(f"{path} is damaged: {wrong}; evaluate again")
    return summary


def _wrong(summary: Mapping[str, Any]) -> str:
    """Returns what is wrong with an evaluation, "" if nothing is."""
    classes, tolerances = summary["classes"], summary["tolerances"]
    if not _list_of(classes, str) or not 1 <= len(classes) <= 255:
        return "`classes` holds no names"
    palette = summary.get("palette")
    if palette is not None and not _palette(palette, len(classes)):
        return "`palette` holds no colours of the classes"
    if not _number(summary["boundary_ratio"]) or not 0 < summary["boundary_ratio"] <= 1:
        return "`boundary_ratio` is no share"
    if not isinstance(tolerances, list) or not all(_number(t) and t >= 0 for t in tolerances):
        return "`tolerances` holds no tolerances"
    count = len(classes)
    confusion = summary["confusion"]
    if not _list_of(confusion, list, count) or not all(_counts(row, count) for row in confusion):
        return "`confusion` holds no counts of pixels"
    contours = [f"BF1@{tolerance_name(t)}" for t in tolerances]
    # An earlier version had fewer tolerances than those that it lists scores of.
    contours += [key for key in summary if key.startswith("BF1@") and key not in contours]
    by_class = (*_BY_CLASS, *contours)
    wrong = _wrong_scores(summary, by_class, ("aAcc", *_means(by_class)), count)
    if wrong:
        return wrong
    share = summary.get("ignored_share")
    if not _score(share):
        return "`ignored_share` is no share"
    images = summary["images"]
    if not isinstance(images, dict):
        return "`images` holds no scores"
    each = (*_OF_AN_IMAGE, *contours)
    for name, scores in images.items():
        if not pathlib.PurePath(name).name:
            return f"{name[:80]!r} is no name of an image"
        wrong = "it has no scores"
        if isinstance(scores, dict):
            wrong = _wrong_scores(scores, each, ("aAcc", *_means(each)), count)
        if wrong:
            return f"of the image {name[:80]!r} {wrong}"
    return ""


def _wrong_scores(
    scores: Mapping[str, Any], by_class: tuple[str, ...], means: tuple[str, ...], count: int
) -> str:
    for key in by_class:
        values = scores.get(key)
        if not isinstance(values, list) or len(values) != count or not all(map(_score, values)):
            return f"{key[:40]!a} is no score of each class"
    for key in means:
        if key not in scores or not _score(scores[key]):
            return f"{key[:40]!a} is no score"
    return ""


def _means(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"m{name}" for name in names)


def _score(value: Any) -> bool:
    """Tells whether this is a score: 0..1, or None where there is none."""
    return value is None or (_number(value) and 0 <= value <= 1)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e18 and math.isfinite(value)


def _counts(row: list, count: int) -> bool:
    return len(row) == count and all(type(n) is int and 0 <= n < 2**62 for n in row)


def _palette(value: Any, count: int) -> bool:
    return _list_of(value, list, count) and all(
        len(rgb) == 3 and all(type(level) is int and 0 <= level <= 255 for level in rgb)
        for rgb in value
    )


def _list_of(value: Any, kind: type, count: int | None = None) -> bool:
    right = isinstance(value, list) and all(isinstance(item, kind) for item in value)
    return right and count in (None, len(value))
