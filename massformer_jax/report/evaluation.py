"""The page that shows one evaluation."""

import html
from collections.abc import Mapping
from typing import Any

from massformer_jax.report import charts, document, tables
from massformer_jax.report.pictures import Picture
from massformer_jax.report.worst import ranked_scores, score_table, worst

_PANELS = (
    ("Photograph", ("photo",)),
    ("Truth", ("photo", "truth")),
    ("Prediction", ("photo", "prediction")),
    ("Errors at boundaries", ("photo", "errors")),
)


def evaluation_page(
    name: str,
    summary: Mapping[str, Any],
    pictures: Mapping[str, Picture],
    *,
    among_published: bool = False,
    details: Mapping[str, str] | None = None,
) -> str:
    """Returns HTML of at most `document.MOST_BYTES` that shows an evaluation.

    Args:
        name: name of the run or the method.
        summary: what `scores.evaluation_summary` returns, or what was read from JSON of it; with
            its `provenance`, if that is known.
        pictures: pictures by the name of the image; images may lack one.
        among_published: whether to show the run among the published methods, or why it may not
            stand there.
        details: further facts that are shown above the scores.
    """
    classes, images = summary["classes"], summary["images"]
    measures = ranked_scores(summary)
    table = score_table(images, measures, len(classes))
    colours = document.colours_of(summary)
    names = list(images)
    order = [names[i] for i in worst(table)]
    wanted = {key: pictures[key] for key in [*order, *pictures] if key in pictures}
    plots = "".join(
        charts.distribution(
            table[:, i], ["mean", *classes], ["var(--accent)", *colours], f"{measure}, %"
        )
        for i, measure in enumerate(measures)
    )
    chosen = document.told_classes(summary, measures, runs=1)
    told = [classes[k] for k in chosen], [colours[k] for k in chosen]
    told_table = table[:, :, [0, *(1 + k for k in chosen)]]
    sections = [
        ("scores", "Scores", _head(summary, measures, details or {})),
        ("classes-of", "Classes", tables.class_table(summary, colours)),
        ("confused", "Confusion", tables.confusion_table(summary, colours)),
        (
            "distribution",
            "Distribution over images",
            f'<div class="plots">{plots}</div><p class="note">Bars count images by the mean over '
            "their classes. Below, each class over the images that have it: the box holds the "
            "middle half, the line 90%, the dot is the worst.</p>",
        ),
        ("worst", "Worst images", document.gallery(*told, measures, ())),
        ("all", "All images", document.image_table()),
    ]
    if among_published:
        among = tables.published_table(name, summary)
        sections.append(("methods", "Among the published", among))
    data = document.script_data(names, [name], told[0], measures, [told_table], _PANELS)
    return document.document(f"Evaluation of {name}", sections, data, wanted)


def _head(summary, measures, details: Mapping[str, str]) -> str:
    figures = [(f"m{measure}", summary[f"m{measure}"]) for measure in measures]
    shown = "".join(
        f"<div><dt>{html.escape(key)}</dt><dd>{tables.percent(value)}</dd></div>"
        for key, value in [*figures, ("aAcc", summary["aAcc"])]
    )
    facts = {
        **tables.provenance_facts(summary),
        **details,
        "images": str(len(summary["images"])),
        **tables.ignored_fact(summary),
        "boundaries of BIoU": f"{100 * summary['boundary_ratio']:g}% of the diagonal",
    }
    listed = "".join(
        f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd></div>"
        for key, value in facts.items()
    )
    config = tables.config_text(summary)
    return f'<dl class="figures">{shown}</dl><dl class="facts">{listed}</dl>{config}'
