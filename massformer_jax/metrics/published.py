"""The published results of the benchmark, and the row of a run among them.

The data, and where they come from, are in published.csv beside this file.
"""

import csv
import importlib.resources
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

# The paper does not say how far a contour may be off for its BF1. Its scores are low, so it is
# probably much less than the usual 0.75%. They are shown beside ours at 0.1%, the share that its
# boundary IoU has.
BF1 = "mBF1@0.1%"
NOTE = (
    "BF1: the paper's tolerance is not published; this run's is 0.1% of the diagonal.\n"
    "BIoU: boundaries of 0.1% of the diagonal, as in the released evaluator."
)


class Scores(NamedTuple):
    """Scores in the paper's units: mIoU and BIoU in percent, BF1 in 0..1; NaN if unknown."""

    miou: float
    biou: float
    bf1: float


class Method(NamedTuple):
    """A row of the paper's table; `params` are millions, `gmacs` are of a 4096x3072 photograph."""

    name: str
    origin: str
    backbone: str
    val: Scores
    test: Scores
    params: float
    gmacs: float


def published() -> tuple[Method, ...]:
    """Returns the 16 methods, in the paper's order."""
    text = importlib.resources.files("massformer_jax.metrics").joinpath("published.csv").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]

    def scores(row, split):
        return Scores(*(float(row[f"{split}_{name}"]) for name in ("mIoU", "BIoU", "BF1")))

    return tuple(
        Method(
            row["method"],
            row["origin"],
            row["backbone"],
            scores(row, "val"),
            scores(row, "test"),
            float(row["params"]),
            float(row["gmacs"]),
        )
        for row in csv.DictReader(lines)
    )


def run_scores(summary: Mapping[str, Any]) -> Scores:
    """Returns scores of `scores.summarize` in the paper's units, BF1 at 0.1% of the diagonal."""
    return Scores(100 * summary["mIoU"], 100 * summary["mBIoU"], summary.get(BF1, math.nan))


def table(name: str, summary: Mapping[str, Any], split: str) -> str:
    """Returns a table of the published results and the run's, the best mIoU first.

    The run is marked with `>`.

    Args:
        name: what to call the run.
        summary: its scores, see `scores.summarize`.
        split: data split, "val" or "test".
    """
    rows = [(getattr(method, split), f"  {method.name}", method.backbone) for method in published()]
    rows.append((run_scores(summary), f"> {name}", "this run"))
    rows.sort(key=lambda row: -np.nan_to_num(row[0].miou))
    width = max(len(row[1]) for row in rows)
    lines = [f"{f'  MaSS13K {split}':<{width}}  {'':<8}{'mIoU':>8}{'BIoU':>8}{'BF1':>8}"]
    for scores, method, backbone in rows:
        numbers = "".join(f"{cell:>8}" for cell in cells(scores))
        lines.append(f"{method:<{width}}  {backbone:<8}{numbers}")
    return "\n".join([*lines, NOTE])


def markdown_row(name: str, summary: Mapping[str, Any]) -> str:
    """Returns the run as a row of the paper's table in Markdown: `| name | mIoU | BIoU | BF1 |`."""
    return f"| {name} | {' | '.join(cells(run_scores(summary)))} |"


def markdown_table(name: str, summary: Mapping[str, Any]) -> str:
    """Returns the row below its header, as the text of a Markdown file."""
    return f"| method | mIoU | BIoU | BF1 |\n|---|---|---|---|\n{markdown_row(name, summary)}\n"


def cells(scores: Scores) -> list[str]:
    """Returns mIoU, BIoU and BF1 as the paper prints them, `-` for NaN."""
    miou, biou, bf1 = (
        "-" if math.isnan(value) else f"{value:.{digits}f}"
        for value, digits in zip(scores, (2, 2, 4), strict=True)
    )
    return [miou, biou, bf1.removeprefix("0")]
