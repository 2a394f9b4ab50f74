"""The published results of the benchmark, and the row of a run among them.

The data, and where they come from, are in published.csv beside this file.
"""

import csv
import importlib.resources
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

# The paper does not say how far a contour may be off for its BF1. Of all whole numbers of pixels,
# one agrees best with the pairs of BIoU and BF1 that it prints: docs/metrics.md derives it.
BF1 = "mBF1@1px"
NOTE = (
    "BF1: the paper does not tell its tolerance; this run's is 1 pixel (docs/metrics.md).\n"
    "BIoU: boundaries of 0.1% of the diagonal, as in the released evaluator.\n"
    "GMAC: 10^9 multiply-accumulates of a photograph of 4096x3072. This run's include those of\n"
    "deformable convolutions, which the MaSS13K paper's seem to leave out."
)
PAPER = "MaSS13K"
SOURCES = {
    PAPER: "Xie et al., MaSS13K, CVPR 2025, arXiv 2503.18364",
    "CoordFormer": "Curti et al., CoordFormer, arXiv 2609.08660",
    "notes": "the ablation of the MaSS13K paper, each row with one part more than the one before, "
    "from a reader's notes: a secondary source",
}
THIS_RUN = "this run"
COLUMNS = ("mIoU", "BIoU", "BF1", "parameters, M", "GMAC")


class Scores(NamedTuple):
    """Scores in the paper's units: mIoU and BIoU in percent, BF1 in 0..1; NaN if unknown."""

    miou: float
    biou: float
    bf1: float


class Method(NamedTuple):
    """A row of the table.

    `params` are millions, `gmacs` are of a 4096x3072 photograph; NaN if unknown. `source` is a key
    of `SOURCES`.
    """

    name: str
    origin: str
    backbone: str
    val: Scores
    test: Scores
    params: float
    gmacs: float
    source: str


class Row(NamedTuple):
    """A line of the table of a split: names, cells of `COLUMNS`, and whether it is the run."""

    method: str
    backbone: str
    cells: list[str]
    source: str
    ours: bool


def published() -> tuple[Method, ...]:
    """Returns the published methods: the paper's 16 in its order, then those of other sources."""
    text = importlib.resources.files("massformer_jax.metrics").joinpath("published.csv").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]

    def number(text):
        return float(text or "nan")

    def scores(row, split):
        return Scores(*(number(row[f"{split}_{name}"]) for name in ("mIoU", "BIoU", "BF1")))

    return tuple(
        Method(
            row["method"],
            row["origin"],
            row["backbone"],
            scores(row, "val"),
            scores(row, "test"),
            number(row["params"]),
            number(row["gmacs"]),
            row["source"],
        )
        for row in csv.DictReader(lines)
    )


def run_scores(summary: Mapping[str, Any]) -> Scores:
    """Returns scores of `scores.summarize`, or of JSON of it, in the paper's units."""
    miou, biou, bf1 = (
        math.nan if summary.get(key) is None else summary[key] for key in ("mIoU", "mBIoU", BF1)
    )
    return Scores(100 * miou, 100 * biou, bf1)


def run_cells(summary: Mapping[str, Any]) -> list[str]:
    """Returns the cells of `COLUMNS` of a run; what is unknown is `-`.

    Parameters and multiply-accumulates are those of its provenance, if that has them.
    """
    provenance = summary.get("provenance")
    known = provenance if isinstance(provenance, Mapping) else {}
    params, macs = (
        value if isinstance(value := known.get(key), int | float) else math.nan
        for key in ("parameters", "macs")
    )
    return _cells(run_scores(summary), params / 1e6, macs / 1e9)


def comparable(summary: Mapping[str, Any]) -> tuple[str | None, str]:
    """Tells whether a run may stand among the published results, by its provenance.

    Returns:
        The split, "val" or "test", and an empty text; or None and a sentence that says why not.
    """
    provenance = summary.get("provenance")
    dataset = provenance.get("dataset") if isinstance(provenance, Mapping) else None
    if not isinstance(dataset, Mapping):
        reason = "nothing tells which images were evaluated"
    elif dataset.get("mass13k") in ("val", "test"):
        return dataset["mass13k"], ""
    else:
        reason = dataset.get("reason") or "these are MaSS13K's training images"
    return None, f"Not comparable with the published results: {reason}."


def rows(name: str, summary: Mapping[str, Any], split: str) -> list[Row]:
    """Returns the published results of a split and the run's, the best mIoU first.

    Args:
        name: what to call the run.
        summary: its scores, see `scores.summarize`, and its `provenance`.
        split: data split, "val" or "test".
    """
    found = [
        (scores, Row(m.name, m.backbone, _cells(scores, m.params, m.gmacs), m.source, False))
        for m in published()
        if not math.isnan((scores := getattr(m, split)).miou)
    ]
    found.append((run_scores(summary), Row(name, THIS_RUN, run_cells(summary), "", True)))
    found.sort(key=lambda row: -np.nan_to_num(row[0].miou))
    return [row for _, row in found]


def table(name: str, summary: Mapping[str, Any], split: str) -> str:
    """Returns the rows of `rows` as a table to print; the run is marked with `>`."""
    lines = [["", f"MaSS13K {split}", "", *COLUMNS, "source"]]
    for row in rows(name, summary, split):
        lines.append([">" * row.ours, row.method, row.backbone, *row.cells, row.source])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = (0, 1, 2, len(widths) - 1)  # the columns of text
    printed = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    sources = [f"{key}: {text}" for key, text in SOURCES.items()]
    return "\n".join([*printed, NOTE, *sources])


def markdown_row(name: str, summary: Mapping[str, Any]) -> str:
    """Returns the run as a row of the table in Markdown: `| name | mIoU | BIoU | BF1 | … |`."""
    return f"| {name} | {' | '.join(run_cells(summary))} |"


def markdown_table(name: str, summary: Mapping[str, Any]) -> str:
    """Returns the row below its header, as the text of a Markdown file.

    Below a run that may not stand among the published results, a sentence says so.
    """
    columns = ("method", *(BF1[1:] if column == "BF1" else column for column in COLUMNS))
    head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
    _, reason = comparable(summary)
    return f"{head}\n{markdown_row(name, summary)}\n" + (f"\n{reason}\n" if reason else "")


def _cells(scores: Scores, params: float, gmacs: float) -> list[str]:
    """Returns the cells of `COLUMNS` as the paper prints them, `-` for NaN."""
    miou, biou, bf1, params, gmacs = (
        "-" if math.isnan(value) else f"{value:{form}}"
        for value, form in zip(
            (*scores, params, gmacs), (".2f", ".2f", ".4f", ".2f", ",.0f"), strict=True
        )
    )
    return [miou, biou, bf1.removeprefix("0"), params, gmacs]
