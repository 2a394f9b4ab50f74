"""The statistics of a split: measured on each label map, added up, and shown as a table."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from massformer_jax.classes import CLASSES, IGNORE
from massformer_jax.data.ahead import map_ahead
from massformer_jax.data.images import decode_mask
from massformer_jax.data.records import dataset_classes, open_split, read_record
from massformer_jax.data.stats.complexity import LEAST_AREA, quotients

# Where the bins of the histogram begin. Quotients range over five powers of ten.
_BINS = 2.0 ** np.arange(15)


class LabelStats(NamedTuple):
    """The statistics of one label map.

    Attributes:
        size: (height, width) in pixels.
        counts: number of pixels for each label 0..255.
        quotients: for each class, the quotients of its connected masks (`complexity.quotients`).
    """

    size: tuple[int, int]
    counts: Int[np.ndarray, " labels"]
    quotients: tuple[Float[np.ndarray, " masks"], ...]


def label_stats(labels: UInt8[np.ndarray, "h w"], classes: int = len(CLASSES)) -> LabelStats:
    """Counts the pixels of a label map and measures the connected masks of each class."""
    # OpenCV counts in float32, which is exact up to 2**24 pixels, so each strip has fewer.
    strips = np.array_split(labels, max(1, labels.size >> 22))
    counts = sum(
        cv2.calcHist([np.ascontiguousarray(strip)], [0], None, [256], [0, 256])
        .ravel()
        .astype(np.int64)
        for strip in strips
    )
    shapes = tuple(
        quotients(labels == index) if counts[index] else np.zeros(0) for index in range(classes)
    )
    return LabelStats(labels.shape, counts, shapes)


def summarise(stats: Iterator[LabelStats], classes: Sequence[str] = CLASSES) -> dict[str, Any]:
    """Adds up the statistics of the label maps of a split.

    Args:
        stats: of each label map.
        classes: names of the classes.

    Returns:
        A dictionary that can be written as JSON, in which None stands for what is undefined:
        `photographs`: their number.
        `sizes`: the number of photographs for each "WIDTHxHEIGHT".
        `pixel_share`: the share of the labelled pixels for each class.
        `photographs_with`: the number of photographs that show it, for each class.
        `ignored_share`: the share of all pixels that belong to no class.
        `ipq`: for "all" and for each class, the number of `masks`, the `mean` of their quotients
            (mIPQ), their standard `deviation`, and their `histogram`.
        `ipq_bins`: where the bins of the histogram begin.
        `ipq_least_area`: masks of fewer pixels are left out.
    """
    sizes: Counter[str] = Counter()
    counts = np.zeros(256, np.int64)
    present = np.zeros(len(classes), np.int64)
    moments = np.zeros((len(classes), 3))
    histogram = np.zeros((len(classes), len(_BINS)), np.int64)
    photographs = 0
    for one in stats:
        height, width = one.size
        photographs += 1
        sizes[f"{width}x{height}"] += 1
        counts += one.counts
        present += one.counts[: len(classes)] > 0
        for index, values in enumerate(one.quotients):
            moments[index] += len(values), values.sum(), (values**2).sum()
            bins = np.searchsorted(_BINS[1:], values, side="right")
            histogram[index] += np.bincount(bins, minlength=len(_BINS))
    labelled = counts[: len(classes)]
    total = labelled.sum()
    shares = (labelled / total).tolist() if total else [None] * len(classes)
    ipq = {
        name: _distribution(*moments[index], histogram[index]) for index, name in enumerate(classes)
    }
    return {
        "photographs": photographs,
        "sizes": dict(sizes.most_common()),
        "pixel_share": dict(zip(classes, shares, strict=True)),
        "photographs_with": dict(zip(classes, present.tolist(), strict=True)),
        "ignored_share": float(counts[IGNORE] / counts.sum()) if counts.sum() else None,
        "ipq": {"all": _distribution(*moments.sum(0), histogram.sum(0)), **ipq},
        "ipq_bins": _BINS.tolist(),
        "ipq_least_area": LEAST_AREA,
    }


def split_stats(data_dir: str | os.PathLike, split: str) -> Iterator[LabelStats]:
    """Measures the label maps of a split in parallel, and returns them in the split's order.

    Args:
        data_dir: the folder given to the build command.
        split: which photographs, see `records.open_split`.

    Raises:
        InputError: there is no such dataset or split. From the iterator: a record or its label map
            is damaged.
    """
    records = open_split(data_dir, split)
    classes = len(dataset_classes(data_dir))

    def measure(number: int) -> LabelStats:
        """Measures the label map of one record."""
        record = read_record(records, number)
        name = record["file_name"].decode()
        labels = decode_mask(record["segmentation_mask"], f"label map of {name}")
        return label_stats(labels, classes)

    return map_ahead(measure, range(len(records)))


def table(split: str, summary: Mapping[str, Any]) -> str:
    """Returns what `summarise` returned as lines for a terminal."""
    width = max(12, *(len(name) + 1 for name in summary["ipq"]))
    lines = [
        f"{split}: {summary['photographs']} photographs, "
        f"{len(summary['sizes'])} sizes, mostly {next(iter(summary['sizes']), 'none')}",
        f"{'':{width}}{'pixels':>9}{'in photographs':>16}{'masks':>9}   mIPQ",
    ]
    for name, ipq in summary["ipq"].items():
        share = summary["pixel_share"].get(name)
        present = summary["photographs_with"].get(name, "")
        pixels = "" if share is None else f"{100 * share:.2f} %"
        quotient = "-" if ipq["mean"] is None else f"{ipq['mean']:.1f} ± {ipq['deviation']:.1f}"
        lines.append(f"{name:{width}}{pixels:>9}{present:>16}{ipq['masks']:>9}   {quotient}")
    if summary["ignored_share"]:
        lines.append(f"{100 * summary['ignored_share']:.2f} % of all pixels are ignored (255)")
    return "\n".join(lines)


def _distribution(
    masks: float, total: float, squares: float, histogram: Int[np.ndarray, " bins"]
) -> dict[str, Any]:
    """Describes a set of quotients by their number, mean, standard deviation and histogram.

    Args:
        masks: number of quotients.
        total: their sum.
        squares: the sum of their squares.
        histogram: number of quotients for each bin.
    """
    mean = total / masks if masks else None
    deviation = np.sqrt(max(squares / masks - mean**2, 0)) if masks else None
    return {
        "masks": int(masks),
        "mean": None if mean is None else float(mean),
        "deviation": None if deviation is None else float(deviation),
        "histogram": histogram.tolist(),
    }
