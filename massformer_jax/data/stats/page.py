"""The page of plots of `massformer_jax.data.stats`: HTML and SVG that need nothing else."""

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from massformer_jax.classes import MASS13K, Class

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; max-width: 60em; margin: 2em auto; color: #222 }
h2 { margin-top: 2em } figure { margin: 1.5em 0 } figcaption { font-weight: 600 }
svg { width: 100%; height: auto } text { font: 13px system-ui, sans-serif; fill: #222 }
"""
# Widths of a drawing, of its column of names and of its column of values, and the height of a row,
# in pixels.
_WIDTH, _NAMES, _VALUES, _ROW = 760, 130, 150, 24
_NEUTRAL = "#5b7a99"  # colour of what is no class
_MOST_SIZES = 12  # the number of sizes that have a row of their own


def page(summaries: Mapping[str, Mapping[str, Any]], classes: Sequence[Class] = MASS13K) -> str:
    """Returns an HTML page with plots for each split.

    Args:
        summaries: for the name of each split, what `summary.summarise` returned.
        classes: of the dataset.
    """
    parts = [_section(split, summary, classes) for split, summary in summaries.items()]
    return (
        "<!doctype html>\n<html lang='en'><meta charset='utf-8'>"
        f"<title>Dataset statistics</title><style>{_STYLE}</style>\n"
        "<h1>Dataset statistics</h1>\n" + "\n".join(parts) + "\n</html>\n"
    )


def bars(rows: Sequence[tuple[str, int | float, str, str]], caption: str) -> str:
    """Returns a figure of horizontal bars.

    Args:
        rows: for each bar its name, its value (0 or more), the text behind it, and its colour.
        caption: the text above the bars.
    """
    largest = max((value for _, value, _, _ in rows), default=0) or 1
    height = _ROW * len(rows)
    drawn = []
    for index, (name, value, text, colour) in enumerate(rows):
        y = _ROW * index
        length = (_WIDTH - _NAMES - _VALUES) * value / largest
        drawn.append(
            f"<text x='{_NAMES - 8}' y='{y + 16}' text-anchor='end'>{html.escape(name)}</text>"
            f"<rect x='{_NAMES}' y='{y + 3}' width='{length:.1f}' height='{_ROW - 6}' "
            f"fill='{colour}' stroke='#888' stroke-width='0.5'/>"
            f"<text x='{_NAMES + length + 8:.1f}' y='{y + 16}'>{html.escape(text)}</text>"
        )
    return (
        f"<figure><figcaption>{html.escape(caption)}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {height}' role='img'>{''.join(drawn)}</svg></figure>"
    )


def _section(split: str, summary: Mapping[str, Any], classes: Sequence[Class]) -> str:
    """Returns the part of the page that shows one split."""
    colours = {one.name: "#" + bytes(one.colour).hex() for one in classes}
    shares = [
        (name, share or 0, "-" if share is None else f"{100 * share:.2f} %", colours[name])
        for name, share in summary["pixel_share"].items()
    ]
    present = [
        (name, count, str(count), colours[name])
        for name, count in summary["photographs_with"].items()
    ]
    sizes = list(summary["sizes"].items())
    others = sum(count for _, count in sizes[_MOST_SIZES:])
    shown = sizes[:_MOST_SIZES] + [("others", others)] * (others > 0)
    quotients = [
        (
            name,
            ipq["mean"] or 0,
            "-" if ipq["mean"] is None else f"{ipq['mean']:.1f} ± {ipq['deviation']:.1f}",
            colours.get(name, _NEUTRAL),
        )
        for name, ipq in summary["ipq"].items()
    ]
    edges = [f"{edge:g}" for edge in summary["ipq_bins"]]
    names = [f"{a} to {b}" for a, b in itertools.pairwise(edges)] + [f"from {edges[-1]}"]
    names[0] = f"below {edges[1]}"
    histogram = summary["ipq"]["all"]["histogram"]
    masks = [(name, n, str(n), _NEUTRAL) for name, n in zip(names, histogram, strict=True)]
    ignored = summary["ignored_share"]
    return "\n".join(
        (
            f"<h2>{html.escape(split)}: {summary['photographs']} photographs</h2>",
            bars(shares, "Share of the labelled pixels"),
            f"<p>{100 * ignored:.2f} % of all pixels belong to no class.</p>" if ignored else "",
            bars(present, "Photographs that show the class"),
            bars([(name, n, str(n), _NEUTRAL) for name, n in shown], "Sizes, width x height"),
            bars(
                quotients,
                "mIPQ: P²/4πA of the connected masks of at least "
                f"{summary['ipq_least_area']} pixels, mean ± deviation",
            ),
            bars(masks, "Connected masks by P²/4πA"),
        )
    )
