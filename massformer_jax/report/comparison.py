"""The page that compares two evaluations of the same images: what got better, what got worse."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from massformer_jax.errors import InputError
from massformer_jax.report import charts, document, tables
from massformer_jax.report.pictures import Picture
from massformer_jax.report.worst import ranked_scores, score_table, worst

_RESAMPLINGS = 2000  # number of them, for the interval of a mean
_SETTINGS = ("classes", "boundary_ratio")


def check_comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Checks that two evaluations have the same images, classes and settings.

    Raises:
        InputError: they differ in one of these. Of tolerances of BF1, one that both have will do.
    """
    for key in _SETTINGS:
        if first[key] != second[key]:
            raise InputError(
                f"{key} is {first[key]} in the first evaluation and {second[key]} in the second; "
                "evaluate both in the same way"
            )
    if _tolerances(first) and _tolerances(second) and not _common(first, second)["tolerances"]:
        raise InputError(
            f"tolerances is {first['tolerances']} in the first evaluation and "
            f"{second['tolerances']} in the second; evaluate both with one of them"
        )
    for mine, other, where in ((first, second, "second"), (second, first, "first")):
        missing = [name for name in mine["images"] if name not in other["images"]]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise InputError(
                f"the {where} evaluation lacks {', '.join(missing[:3])}{more}; evaluate both on "
                "the same images"
            )


def changed_most(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Returns the images to show: those whose scores fell or rose most, for any class and score."""
    first, second = _common(first, second), _common(second, first)
    change = np.subtract(*(_table(summary, first) for summary in (second, first)))
    names = list(first["images"])
    return [names[i] for i in worst(np.concatenate([change, -change], axis=1))]


def comparison_page(
    names: tuple[str, str],
    summaries: tuple[Mapping[str, Any], Mapping[str, Any]],
    pictures: Mapping[str, Picture],
) -> str:
    """Returns HTML of at most `document.MOST_BYTES` that compares two evaluations.

    Args:
        names: what to call the two runs.
        summaries: both evaluations, as `evaluation_page` takes them.
        pictures: pictures by the name of the image, the most wanted first. Their layers are
            `photo`, `truth`, `prediction_a`, `errors_a`, `prediction_b` and `errors_b`.

    Raises:
        InputError: see `check_comparable`.
    """
    first, second = summaries
    check_comparable(first, second)
    first, second = summaries = _common(first, second), _common(second, first)
    classes, measures = first["classes"], ranked_scores(first)
    both = [_table(summary, first) for summary in summaries]
    images = list(first["images"])
    plots = "".join(
        charts.scatter(both[0][:, i, 0], both[1][:, i, 0], images, names, f"m{measure}, %")
        for i, measure in enumerate(measures)
    )
    panels = (
        ("Photograph", ("photo",)),
        (names[0], ("photo", "prediction_a")),
        (f"Errors of {names[0]}", ("photo", "errors_a")),
        ("Truth", ("photo", "truth")),
        (names[1], ("photo", "prediction_b")),
        (f"Errors of {names[1]}", ("photo", "errors_b")),
    )
    chosen = document.told_classes(first, measures, runs=2)
    colours = document.colours_of(first)
    told = [classes[k] for k in chosen], [colours[k] for k in chosen]
    told_tables = [table[:, :, [0, *(1 + k for k in chosen)]] for table in both]
    sections = [
        (
            "scores",
            "Scores",
            _figures(names, summaries, measures, both) + _origins(names, summaries),
        ),
        ("classes-of", "Classes", _class_deltas(summaries)),
        (
            "distribution",
            "Image by image",
            f'<div class="plots">{plots}</div><p class="note">Each dot is an image: above the '
            "line it is better in the second run.</p>",
        ),
        (
            "changed",
            "What changed most",
            document.gallery(*told, measures, ("got worse", "got better")),
        ),
        ("all", "All images", document.image_table()),
    ]
    data = document.script_data(images, names, told[0], measures, told_tables, panels)
    return document.document(f"{names[0]} → {names[1]}", sections, data, pictures)


def mean_change(change: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Computes the mean of the images' changes, and a 95% interval for other images of their kind.

    The interval is that of the bootstrap: n images are drawn from these n again and again, with
    replacement, and their means are ordered.

    Returns:
        The mean and both ends of the interval; NaN where there are no changes.
    """
    if not change.size:
        return math.nan, math.nan, math.nan
    rng = np.random.default_rng(0)
    means = [rng.choice(change, change.size).mean() for _ in range(_RESAMPLINGS)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(change.mean()), float(low), float(high)


def _common(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an evaluation without the scores at tolerances that another does not have.

    An earlier version of the package had fewer tolerances.
    """
    shared = [t for t in _tolerances(mine) if t in _tolerances(other)]
    lacking = {name for name in mine if "BF1" in name and name not in other}
    return {**{k: v for k, v in mine.items() if k not in lacking}, "tolerances": shared}


def _tolerances(summary: Mapping[str, Any]) -> list:
    tolerances = summary.get("tolerances")
    return tolerances if isinstance(tolerances, list) else []


def _table(summary: Mapping[str, Any], like: Mapping[str, Any]) -> np.ndarray:
    """Returns the scores [n, score, mean and classes] of the images in the order of `like`."""
    images = {name: summary["images"][name] for name in like["images"]}
    return score_table(images, ranked_scores(like), len(like["classes"]))


def _figures(names, summaries, measures, both) -> str:
    rows = []
    for i, key in enumerate([*(f"m{measure}" for measure in measures), "aAcc"]):
        values = [tables.number(summary[key]) for summary in summaries]
        cells = f"<td>{tables.percent(values[0])}</td><td>{tables.percent(values[1])}</td>"
        told = ""
        if i < len(measures):
            change = (both[1] - both[0])[:, i, 0]
            change = change[~np.isnan(change)]
            mean, low, high = mean_change(change)
            better, worse = int((change > 0).sum()), int((change < 0).sum())
            interval = (
                f"{_signed(mean)} ({_signed(low)} to {_signed(high)})" if change.size else "-"
            )
            told = f"<td>{interval}</td><td>{better}</td><td>{worse}</td>"
        rows.append(
            f'<tr><th scope="row">{html.escape(key)}</th>{cells}{_delta(*values)}'
            f"{told or '<td></td>' * 3}</tr>"
        )
    head = "".join(
        f'<th scope="col">{html.escape(text)}</th>'
        for text in (
            "",
            *names,
            "change",
            "mean change of images (95% interval)",
            "images better",
            "worse",
        )
    )
    return (
        f'<div class="wide"><table id="summary"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="note">In percent, over '
        f"{len(summaries[0]['images'])} images.</p>"
    )


def _origins(names, summaries) -> str:
    """Returns a table of where both evaluations come from, empty if nothing tells."""
    facts = [
        {**tables.provenance_facts(summary), **tables.ignored_fact(summary)}
        for summary in summaries
    ]
    rows = "".join(
        f'<tr><th scope="row">{html.escape(key)}</th>'
        + "".join(f"<td>{html.escape(of.get(key, '-'))}</td>" for of in facts)
        + "</tr>"
        for key in dict.fromkeys([*facts[0], *facts[1]])
    )
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in ("", *names))
    return (
        f'<details id="origins"><summary>Where they come from</summary><div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _class_deltas(summaries: Sequence[Mapping[str, Any]]) -> str:
    first, second = summaries
    columns = tables.score_columns(first)
    head = "".join(f'<th scope="col" colspan="2">{html.escape(name)}</th>' for name in columns)
    rows = []
    for k, (name, colour) in enumerate(
        zip(first["classes"], document.colours_of(first), strict=True)
    ):
        rows.append(
            f'<tr><th scope="row">{tables.swatch(colour)}{html.escape(name)}</th>'
            + "".join(_pair(first[column][k], second[column][k]) for column in columns)
            + "</tr>"
        )
    means = "".join(_pair(first[f"m{column}"], second[f"m{column}"]) for column in columns)
    return (
        '<div class="wide"><table class="scores" id="classes"><caption>The second run by class, '
        f'in percent, and its change</caption><thead><tr><th scope="col">class</th>{head}</tr>'
        f'</thead><tbody>{"".join(rows)}</tbody><tfoot><tr><th scope="row">mean</th>{means}</tr>'
        "</tfoot></table></div>"
    )


def _pair(before: float | None, after: float | None) -> str:
    was = f'title="before: {tables.percent(before)}"'
    return f"<td {was}>{tables.percent(after)}</td>{_delta(before, after)}"


def _delta(before: float | None, after: float | None) -> str:
    change = tables.number(after) - tables.number(before)
    if math.isnan(change):
        return '<td class="delta">-</td>'
    kind = "better" if change > 0 else "worse" if change < 0 else "same"
    return f'<td class="delta {kind}">{_signed(change)}</td>'


def _signed(change: float) -> str:
    return f"{100 * change:+.2f}"
