"""Label maps of any method in files, compared with those of the truth: found, checked, counted."""

import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from massformer_jax.classes import IGNORE, Class
from massformer_jax.data.ahead import map_ahead
from massformer_jax.data.images import decode_mask
from massformer_jax.errors import InputError
from massformer_jax.evaluation.one_behind import one_behind
from massformer_jax.files import pngs_below
from massformer_jax.metrics.counts import (
    BOUNDARY_RATIO,
    TOLERANCES,
    Counts,
    add_counts,
    image_counts,
    zero_counts,
)

LabelMap = UInt8[np.ndarray, "h w"]


class Pair(NamedTuple):
    """The two files of one image; `name` is their path below the two folders, in composed
    letters (see `files.composed`)."""

    name: str
    prediction: pathlib.Path
    label: pathlib.Path


def find_pairs(
    predictions: str | os.PathLike, labels: str | os.PathLike
) -> tuple[list[Pair], list[str]]:
    """Returns the PNG files that both folders have, sorted, and what is wrong with the others.

    Hidden files are passed over, as are files that are no PNG. Links to folders are followed.

    Raises:
        InputError: a folder is missing, or there is no PNG in the one with the labels, or a folder
            holds a name twice (see `files.pngs_below`).
        OSError: a folder may not be read.
    """
    for folder in map(pathlib.Path, (predictions, labels)):
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; name one that holds a PNG for each image")
    ours, truths = map(pngs_below, (predictions, labels))
    if not truths:
        raise InputError(f"{labels} holds no PNG; --labels names the folder of the label maps")
    problems = [f"{name}: no prediction" for name in truths.keys() - ours.keys()]
    problems += [f"{name}: a prediction, but no label map" for name in ours.keys() - truths.keys()]
    pairs = [Pair(name, ours[name], truths[name]) for name in sorted(ours.keys() & truths.keys())]
    return pairs, sorted(problems)


def read_pair(
    pair: Pair, num_classes: int, classes: Sequence[Class] = ()
) -> tuple[list[LabelMap], list[str]]:
    """Returns the prediction and the label map, and what is wrong with their files."""
    maps, problems = [], []
    for path, allowed in ((pair.prediction, ()), (pair.label, (IGNORE,))):
        try:
            labels = decode_mask(path, classes=classes or num_classes)
        except InputError as error:
            problems.append(str(error))
            continue
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
            continue
        maps.append(labels)
        pixels = np.bincount(labels.ravel(), minlength=256)
        wrong = [v for v in np.flatnonzero(pixels) if v >= num_classes and v not in allowed]
        if wrong:
            known = " or ".join([f"0..{num_classes - 1}", *map(str, allowed)])
            values = ", ".join(f"{v} ({pixels[v]} pixels)" for v in wrong[:3])
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            problems.append(f"{path}: holds {values}{more}, not {known}")
    if len(maps) == 2 and maps[0].shape != maps[1].shape:
        (h, w), (i, j) = (x.shape for x in maps)
        problems.append(
            f"{pair.name}: the prediction has {h} rows of {w}, the label map {i} of {j}"
        )
    return maps, problems


def evaluate_files(
    predictions: str | os.PathLike,
    labels: str | os.PathLike,
    *,
    num_classes: int = 7,
    classes: Sequence[Class] = (),
    boundary_ratio: float = BOUNDARY_RATIO,
    tolerances: tuple[float, ...] = TOLERANCES,
) -> tuple[list[str], Counts]:
    """Returns the names of all images and their counts (int64 [n ...]), in the same order.

    Files are decoded on all cores, ahead of the counting. Each is read once. A wrong file that is
    found late stops the counting, and the files after it are still checked.

    Args:
        predictions: folder of the predictions.
        labels: folder of the label maps.
        num_classes: number of classes k.
        classes: what is known of them; nothing for seven of MaSS13K, or others without colours.
        boundary_ratio: see `metrics.counts.image_counts`.
        tolerances: likewise.

    Raises:
        InputError: some files cannot be scored; names all of them, one per line.
    """
    pairs, problems = find_pairs(predictions, labels)
    pool = zero_counts(num_classes, len(tolerances))
    read = functools.partial(read_pair, num_classes=num_classes, classes=classes)

    def sound_pairs() -> Iterator[list[LabelMap]]:
        for maps, found in map_ahead(read, pairs):
            problems.extend(found)
            if not problems:
                yield maps

    def count(maps: list[LabelMap]) -> Counts:
        return image_counts(
            *maps, num_classes=num_classes, boundary_ratio=boundary_ratio, tolerances=tolerances
        )

    for _, counts in one_behind(count, sound_pairs()):
        pool = add_counts(pool, counts)
    if problems:
        raise InputError(
            f"nothing was scored; {len(problems)} things to mend:\n  " + "\n  ".join(problems)
        )
    return [pair.name for pair in pairs], pool
