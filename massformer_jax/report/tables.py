"""Tables of scores as HTML. All text that is not from here is escaped here."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from massformer_jax.metrics import published, scores

_MOST_CONFUSED = 40  # classes in the confusion matrix: more squares than a page has room for
_COLUMNS = ("IoU", "Acc", "Precision", "Dice", "BIoU")


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
    wrong = pixels.sum(0) + pixels.sum(1) - 2 * pixels.diagonal()
    shown = sorted(np.argsort(-wrong, kind="stable")[:_MOST_CONFUSED].tolist())
    head = "".join(
        f'<th scope="col">{swatch(colours[k])}{html.escape(names[k])}</th>' for k in shown
    )
    rows = []
    for i in shown:
        cells, name = [], names[i]
        for j in shown:
            other = names[j]
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
        "truth, columns the prediction; colours deepen with the root of the share"
        f"{_chosen(len(shown), len(names))}</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def published_table(name: str, summary: Mapping[str, Any]) -> str:
    """Returns a table of the published methods and the run, the best mIoU first.

    For a run that may not stand among them (see `published.comparable`), it is a sentence that says
    so.

    Args:
        name: what to call the run.
        summary: its scores and its provenance.
    """
    split, reason = published.comparable(summary)
    row = html.escape(published.markdown_row(name, summary))
    as_row = (
        f'<p>As a row in Markdown: <code id="markdown">{row}</code> '
        '<button type="button" data-copy="markdown">Copy</button></p>'
    )
    if split is None:
        return f'<p class="note" id="incomparable">{html.escape(reason)}</p>{as_row}'
    body = []
    for entry in published.rows(name, summary, split):
        ours = ' class="ours" aria-current="true"' if entry.ours else ""
        cells = "".join(
            f"<td>{html.escape(cell)}</td>"
            for cell in (entry.backbone, *entry.cells, entry.source or published.THIS_RUN)
        )
        body.append(f'<tr{ours}><th scope="row">{html.escape(entry.method)}</th>{cells}</tr>')
    head = "".join(
        f'<th scope="col">{html.escape(text)}</th>'
        for text in ("method", "backbone", *published.COLUMNS, "source")
    )
    sources = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(text)}</dd>"
        for key, text in published.SOURCES.items()
    )
    return (
        f'<p class="note">MaSS13K {split}, as published. {html.escape(published.NOTE)}</p>'
        f'<div class="wide"><table id="published"><thead><tr>{head}</tr></thead><tbody>'
        f'{"".join(body)}</tbody></table></div><dl class="note">{sources}</dl>{as_row}'
    )


def ignored_fact(summary: Mapping[str, Any]) -> dict[str, str]:
    """Returns the share of ignored pixels as a fact; empty if the evaluation does not tell it."""
    share = summary.get("ignored_share")
    return {} if share is None else {"labels": scores.ignored_text(share)}


def provenance_facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """Returns where an evaluation comes from, in texts by what they tell; empty if nothing does."""
    provenance = summary.get("provenance")
    known = provenance if isinstance(provenance, Mapping) else {}
    dataset = known.get("dataset")
    found = dataset if isinstance(dataset, Mapping) else {}
    facts = {key: known.get(key) for key in ("date", "version", "checkpoint", "step")}
    for key, unit, name in (("parameters", 1e6, "parameters, M"), ("macs", 1e9, "GMAC")):
        if isinstance(known.get(key), int | float):
            facts[name] = f"{known[key] / unit:,.2f}"
    if isinstance(known.get("architecture"), Mapping):
        facts["architecture"] = _listed(known["architecture"])
    facts["dataset"] = found.get("name")
    facts["split"] = found.get("split")
    facts["folder of the dataset"] = found.get("folder")
    if found:
        facts["MaSS13K"] = found.get("mass13k") or f"no: {found.get('reason')}"
    facts["predictions"] = known.get("predictions")
    facts["command"] = known.get("command")
    return {key: str(value) for key, value in facts.items() if value is not None}


def config_text(summary: Mapping[str, Any]) -> str:
    """Returns the config of a run as HTML that is closed at first, empty if there is none."""
    provenance = summary.get("provenance")
    config = provenance.get("config") if isinstance(provenance, Mapping) else None
    if not config:
        return ""
    text = html.escape(json.dumps(config, indent=1))
    return f'<details id="config"><summary>config</summary><pre>{text}</pre></details>'


def _chosen(shown: int, all_of_them: int) -> str:
    if shown == all_of_them:
        return ""
    return f". These are the {shown} of {all_of_them} classes that are confused most"


def _listed(values: Mapping[str, Any]) -> str:
    texts = {
        key: f"({_listed(value)})" if isinstance(value, Mapping) else value
        for key, value in values.items()
    }
    return ", ".join(f"{key}={text}" for key, text in texts.items())


def _bar(value: float | None) -> str:
    share = 0 if math.isnan(number(value)) else value
    return f'<td class="bar" style="--share:{share:.4f}">{percent(value)}</td>'
