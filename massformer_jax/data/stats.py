"""What a dataset holds: shares of the classes, sizes, and how intricate its masks are.

    python -m massformer_jax.data.stats --data_dir DIR [--split train] [--output page.html]

Prints a table, and writes a page of plots that needs nothing but a browser, with the same numbers
beside it as JSON. The label maps of all photographs are read, on all cores: about a second a
photograph of 12 megapixels and core.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from massformer_jax.data.charts import page
from massformer_jax.data.classes import CLASSES, IGNORE
from massformer_jax.data.complexity import LEAST_AREA, quotients
from massformer_jax.data.images import decode_mask
from massformer_jax.data.pipeline import open_split, split_names
from massformer_jax.errors import InputError
from massformer_jax.files import write_whole

# Bounds of the histogram of quotients, which range over five powers of ten.
_BINS = 2.0 ** np.arange(15)


class LabelStats(NamedTuple):
    """Of one label map."""

    size: tuple[int, int]  # height and width, pixels
    counts: Int[np.ndarray, " labels"]  # pixels of each label 0..255
    quotients: tuple[Float[np.ndarray, " masks"], ...]  # by class


def label_stats(labels: UInt8[np.ndarray, "h w"]) -> LabelStats:
    """Counts pixels, and measures the connected masks of each class."""
    # In strips, since OpenCV counts in float32: exact up to 2**24.
    strips = np.array_split(labels, max(1, labels.size >> 22))
    counts = sum(
        cv2.calcHist([np.ascontiguousarray(strip)], [0], None, [256], [0, 256])
        .ravel()
        .astype(np.int64)
        for strip in strips
    )
    shapes = tuple(
        quotients(labels == index) if counts[index] else np.zeros(0)
        for index in range(len(CLASSES))
    )
    return LabelStats(labels.shape, counts, shapes)


def summarise(stats: Iterator[LabelStats]) -> dict[str, Any]:
    """Adds up the label maps of a split.

    Returns:
      JSON-ready: `photographs`; `sizes` {"WIDTHxHEIGHT": count}; `pixel_share` and
      `photographs_with` by class, shares of the labelled pixels; `ignored_share` of all pixels;
      `ipq` by class and for "all": number of `masks`, `mean` and `deviation` (mIPQ), and the
      `histogram` of the quotients, whose bins begin at `ipq_bins`. What is undefined is None.
    """
    sizes: Counter[str] = Counter()
    counts = np.zeros(256, np.int64)
    present = np.zeros(len(CLASSES), np.int64)
    moments = np.zeros((len(CLASSES), 3))
    histogram = np.zeros((len(CLASSES), len(_BINS)), np.int64)
    photographs = 0
    for (height, width), image_counts, shapes in stats:
        photographs += 1
        sizes[f"{width}x{height}"] += 1
        counts += image_counts
        present += image_counts[: len(CLASSES)] > 0
        for index, values in enumerate(shapes):
            moments[index] += len(values), values.sum(), (values**2).sum()
            bins = np.searchsorted(_BINS[1:], values, side="right")
            histogram[index] += np.bincount(bins, minlength=len(_BINS))
    labelled = counts[: len(CLASSES)]
    total = labelled.sum()
    shares = (labelled / total).tolist() if total else [None] * len(CLASSES)
    ipq = {name: _moments(*moments[index], histogram[index]) for index, name in enumerate(CLASSES)}
    return {
        "photographs": photographs,
        "sizes": dict(sizes.most_common()),
        "pixel_share": _by_class(shares),
        "photographs_with": _by_class(present.tolist()),
        "ignored_share": float(counts[IGNORE] / counts.sum()) if counts.sum() else None,
        "ipq": {"all": _moments(*moments.sum(0), histogram.sum(0)), **ipq},
        "ipq_bins": _BINS.tolist(),
        "ipq_least_area": LEAST_AREA,
    }


def split_stats(data_dir: str | os.PathLike, split: str) -> Iterator[LabelStats]:
    """Statistics of the label maps of a split, in its order, made by one thread a CPU.

    Raises:
      InputError: no such dataset or split, or a damaged label map.
    """
    records = open_split(data_dir, split)

    def measure(number: int) -> LabelStats:
        record = records[number]
        name = record["file_name"].decode()
        return label_stats(decode_mask(record["segmentation_mask"], f"label map of {name}"))

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        # A few at a time: each waiting one holds its label map.
        for start in range(0, len(records), 8 * workers):
            yield from pool.map(measure, range(start, min(start + 8 * workers, len(records))))


def table(split: str, summary: Mapping[str, Any]) -> str:
    """The summary as lines for a terminal."""
    lines = [
        f"{split}: {summary['photographs']} photographs, "
        f"{len(summary['sizes'])} sizes, mostly {next(iter(summary['sizes']), 'none')}",
        f"{'':12}{'pixels':>9}{'in photographs':>16}{'masks':>9}   mIPQ",
    ]
    for name, ipq in summary["ipq"].items():
        share = summary["pixel_share"].get(name)
        present = summary["photographs_with"].get(name, "")
        pixels = "" if share is None else f"{100 * share:.2f} %"
        quotient = "-" if ipq["mean"] is None else f"{ipq['mean']:.1f} ± {ipq['deviation']:.1f}"
        lines.append(f"{name:12}{pixels:>9}{present:>16}{ipq['masks']:>9}   {quotient}")
    return "\n".join(lines)


def _moments(
    masks: float, total: float, squares: float, histogram: Int[np.ndarray, " bins"]
) -> dict[str, Any]:
    mean = total / masks if masks else None
    deviation = np.sqrt(max(squares / masks - mean**2, 0)) if masks else None
    return {
        "masks": int(masks),
        "mean": None if mean is None else float(mean),
        "deviation": None if deviation is None else float(deviation),
        "histogram": histogram.tolist(),
    }


def _by_class(values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(CLASSES, values, strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m massformer_jax.data.stats",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_dir", required=True, type=Path, help="folder given to the build")
    parser.add_argument("--split", help="one split, or a slice as train[:10%%]; all by default")
    parser.add_argument("--output", type=Path, help="page to write (.html); JSON goes beside it")
    args = parser.parse_args(argv)
    try:
        if args.output is not None and args.output.suffix != ".html":
            raise InputError(f"--output {args.output}: name a file that ends in .html")
        splits = [args.split] if args.split else split_names(args.data_dir)
        summaries = {}
        for split in splits:
            summaries[split] = summarise(split_stats(args.data_dir, split))
            print(table(split, summaries[split]), flush=True)
        if args.output is not None:
            write_whole(args.output, page(summaries).encode())
            data = json.dumps(summaries, indent=1).encode()
            write_whole(args.output.with_suffix(".json"), data)
            print(f"wrote {args.output} and {args.output.with_suffix('.json')}")
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
