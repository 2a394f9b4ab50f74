"""Tables of scores as HTML. All text that is not from here is escaped here."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from massformer_jax.metrics import published, scores

_COLUMNS = ("IoU", "Acc", "Precision", "Dice", "BIoU")
_BENCHMARK = {"val": 500, "test": 1500}  # number of images in each data split


def number(value: float | None) -> float:
    """Returns a score; NaN for None, which stands for it in JSON."""
    return math.nan if value is None else value


def percent(value: float | None) -> str:
    """Returns a fraction in percent with two decimals, `-` if it does not exist."""
    return scores.percent(number(value))


def score_columns(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the scores that tables show for each class, with each BF1."""
    return _COLUMNS + tuple(name for name in summary if name.startswith("BF1@"))


def swatch(colour: str) -> str:
    """Returns a small square in the colour of a class."""
    return f'<i class="swatch" style="background:{colour}"></i>'


def class_table(summary: Mapping[str, Any], colours: Sequence[str]) -> str:
    """Returns a table with the scores of each class, and their means in its foot."""
    columns = score_columns(summary)
    share = np.array(summary["confusion"], np.float64).sum(1)
    share /= max(share.sum(), 1)
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    rows = []
    for k, (name, colour) in enumerate(zip(summary["classes"], colours, strict=True)):
        cells = "".join(_bar(summary[column][k]) for column in columns)
        rows.append(
            f'<tr><th scope="row">{swatch(colour)}{html.escape(name)}</th>'
            f"<td>{percent(float(share[k]))}</td>{cells}</tr>"
        )
    means = "".join(f"<td>{percent(summary[f'm{column}'])}</td>" for column in columns)
    return (
        '<div class="wide"><table class="scores" id="classes"><caption>By class, in percent'
        '</caption><thead><tr><th scope="col">class</th><th scope="col" title="of the labelled '
        f'pixels">pixels</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        f'<tfoot><tr><th scope="row">mean</th><td></td>{means}</tr></tfoot></table></div>'
    )


def confusion_table(summary: Mapping[str, Any], colours: Sequence[str]) -> str:
    """Returns the confusion matrix as a heat map: rows are the truth, columns the prediction.

    Each cell carries its share of the row, its share of the column, and its pixels. The script
    changes which of them is shown.
    """
    pixels = np.array(summary["confusion"], np.float64)
    with np.errstate(invalid="ignore"):
        of_truth = pixels / pixels.sum(1, keepdims=True)
        of_prediction = pixels / pixels.sum(0, keepdims=True)
    names = summary["classes"]
    head = "".join(
        f'<th scope="col">{swatch(colour)}{html.escape(name)}</th>'
        for name, colour in zip(names, colours, strict=True)
    )
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j, other in enumerate(names):
            shares = [of_truth[i, j], of_prediction[i, j]]
            texts = [percent(float(share)) for share in shares]
            heats = [0 if math.isnan(share) else math.sqrt(share) for share in shares]
            told = (
                f"{name} predicted as {other}: {int(pixels[i, j]):,} pixels, "
                f"{texts[0]} % of the true {name}, {texts[1]} % of the predicted {other}"
            )
            kind = "right" if i == j else "wrong"
            cells.append(
                f'<td class="{kind}" style="--heat:{heats[0]:.3f}" title="{html.escape(told)}" '
                f'data-truth="{texts[0]}|{heats[0]:.3f}" '
                f'data-prediction="{texts[1]}|{heats[1]:.3f}" '
                f'data-pixels="{int(pixels[i, j]):,}|{heats[0]:.3f}">{texts[0]}</td>'
            )
        rows.append(
            f'<tr><th scope="row">{swatch(colours[i])}{html.escape(name)}</th>{"".join(cells)}</tr>'
        )
    return (
        '<fieldset class="choice" id="normalised"><legend>Cells show</legend>'
        + "".join(
            f'<label><input type="radio" name="normalised" value="{value}"{checked}> {text}</label>'
            for value, text, checked in (
                ("truth", "% of the true class", " checked"),
                ("prediction", "% of the predicted class", ""),
                ("pixels", "pixels", ""),
            )
        )
        + '</fieldset><div class="wide"><table class="heat" id="confusion"><caption>Rows are the '
        "truth, columns the prediction; colours deepen with the root of the share</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def published_table(name: str, summary: Mapping[str, Any], split: str) -> str:
    """Returns a table of the published methods and the run, the best mIoU first.

    Args:
        name: what to call the run.
        summary: its scores.
        split: data split, "val" or "test".
    """
    given = {key: number(summary.get(key)) for key in ("mIoU", "mBIoU", published.BF1)}
    rows = [
        (getattr(m, split), m.name, m.backbone, f"{m.params:.2f}", f"{m.gmacs:,.0f}")
        for m in published.published()
    ]
    rows.append((published.run_scores(given), name, "this run", "-", "-"))
    rows.sort(key=lambda row: -np.nan_to_num(row[0].miou))
    body = []
    for values, method, backbone, params, gmacs in rows:
        ours = ' class="ours" aria-current="true"' if backbone == "this run" else ""
        cells = [backbone, *published.cells(values), params, gmacs]
        body.append(
            f'<tr{ours}><th scope="row">{html.escape(method)}</th>'
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            + "</tr>"
        )
    head = "".join(
        f'<th scope="col">{text}</th>'
        for text in ("method", "backbone", "mIoU", "BIoU", "BF1", "parameters, M", "GMAC")
    )
    images, asked = len(summary["images"]), _BENCHMARK[split]
    other = f" This run saw {images} images, the benchmark has {asked}." if images != asked else ""
    row = html.escape(published.markdown_row(name, given))
    return (
        f'<p class="note">MaSS13K {split}, as printed in the paper. {html.escape(published.NOTE)}'
        f'{other}</p><div class="wide"><table id="published"><thead><tr>{head}</tr></thead><tbody>'
        f"{''.join(body)}</tbody></table></div><p>As a row in Markdown: "
        f'<code id="markdown">{row}</code> <button type="button" data-copy="markdown">Copy'
        "</button></p>"
    )


def _bar(value: float | None) -> str:
    share = 0 if math.isnan(number(value)) else value
    return f'<td class="bar" style="--share:{share:.4f}">{percent(value)}</td>'
