"""The frame of a page: its head, style, scripts and data, and the place where it shows images."""

import base64
import html
import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from massformer_jax.classes import class_palette
from massformer_jax.report.pictures import ERROR_COLOURS, FOUND, INVENTED, MISSED, WRONG, Picture
from massformer_jax.report.tables import swatch
from massformer_jax.report.worst import WORST

MOST_BYTES = 4_900_000  # size of a page at most, whatever it shows
_MOST_SCORES = 400_000  # of images, by score and class: two thirds of what a page may have
_MARGIN = 20_000  # bytes around the pictures that are not counted one by one
_SCRIPTS = ("viewer.js", "page.js")

# Everything is in the page. A browser that is told this policy refuses to fetch anything else.
_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
_ERRORS = (
    (FOUND, "boundary found"),
    (MISSED, "boundary missed"),
    (INVENTED, "boundary where there is none"),
    (WRONG, "boundary of another class"),
    (1, "wrong elsewhere"),
)


def document(
    title: str,
    sections: Sequence[tuple[str, str, str]],
    data: Mapping[str, Any],
    pictures: Mapping[str, Picture],
) -> str:
    """Returns a complete page of at most `MOST_BYTES`.

    Pictures that do not fit are left out, the least wanted first.

    Args:
        title: title of the page.
        sections: (id, heading, HTML) of each section.
        data: what the script needs, see page.js.
        pictures: pictures by name, the most wanted first.
    """
    files = importlib.resources.files("massformer_jax.report")
    style, *scripts = (files.joinpath(name).read_text() for name in ("page.css", *_SCRIPTS))
    contents = "".join(f'<a href="#{key}">{html.escape(head)}</a>' for key, head, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{html.escape(head)}</h2>{text}</section>'
        for key, head, text in sections[1:]
    )
    before = (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<style>{style}</style></head>\n<body><header><h1>{html.escape(title)}</h1>"
        f"<nav>{contents}</nav></header><main>"
        f'<section id="{sections[0][0]}"><h2>{html.escape(sections[0][1])}</h2>{sections[0][2]}'
        f"</section>{body}</main>\n"
        "<noscript>Without scripts, the pictures and the table of images stay empty.</noscript>"
    )
    after = "".join(f"<script>\n{script}</script>\n" for script in scripts) + "</body></html>\n"
    told = _json({**data, "pictures": {}})
    room = MOST_BYTES - _MARGIN - sum(len(text.encode()) for text in (before, told, after))
    shown = {}
    for name, picture in pictures.items():
        entry = _picture(picture)
        room -= len(_json({name: entry}).encode())
        if room < 0:
            break
        shown[name] = entry
    carried = _json({**data, "pictures": shown})
    return f'{before}\n<script type="application/json" id="data">{carried}</script>\n{after}'


def colours_of(summary: Mapping[str, Any]) -> list[str]:
    """Returns the CSS colours of the classes of an evaluation, which may not tell them."""
    palette = summary.get("palette") or class_palette(len(summary["classes"]))
    return ["#" + bytes(rgb).hex() for rgb in palette]


def in_percent(table: Float[np.ndarray, "n c k1"]) -> list[list[list[float | None]]]:
    """Returns a table for the script: [score, image, mean and classes] in percent, None for NaN."""

    def told(value):
        return None if math.isnan(value) else round(100 * value, 4)

    return [[[told(v) for v in row] for row in column] for column in table.swapaxes(0, 1).tolist()]


def told_classes(summary: Mapping[str, Any], measures: Sequence[str], *, runs: int) -> list[int]:
    """Returns the labels of the classes whose scores a page tells of each image, in order.

    They are all classes, unless these would take more than a page may have. Then they are those
    with the most pixels.

    Args:
        summary: an evaluation.
        measures: names of the scores.
        runs: number of evaluations whose scores the page tells.
    """
    count = len(summary["classes"])
    room = _MOST_SCORES // max(1, runs * len(summary["images"]) * len(measures)) - 1
    if count <= room:
        return list(range(count))
    pixels = np.array(summary["confusion"], np.float64).sum(1)
    return sorted(np.argsort(-pixels, kind="stable")[: max(room, 0)].tolist())


def gallery(
    classes: Sequence[str],
    colours: Sequence[str],
    measures: Sequence[str],
    directions: Sequence[str],
) -> str:
    """Returns the choice of score and class, the legends, and the place where images are shown.

    Args:
        classes: names of the classes.
        colours: their CSS colours.
        measures: names of the scores.
        directions: what images can have done, for instance "got worse"; empty for no such choice.
    """

    def select(key, label, options):
        listed = "".join(
            f'<option value="{i}">{html.escape(option)}</option>'
            for i, option in enumerate(options)
        )
        return f'<label>{label} <select id="{key}">{listed}</select></label>'

    known = "".join(
        f"<span>{swatch(colour)}{html.escape(name)}</span>"
        for name, colour in zip(classes, colours, strict=True)
    )
    wrong = "".join(
        f"<span>{swatch('#' + bytes(ERROR_COLOURS[code][:3]).hex())}{text}</span>"
        for code, text in _ERRORS
    )
    way = select("direction", "Images that", directions) if directions else ""
    return (
        f'<div class="controls">{way}{select("measure", "Score", measures)}'
        f"{select('class', 'Class', ('all classes', *classes))}"
        '<label>Colour over photograph <input type="range" id="mix" min="0" max="100" value="60">'
        f'</label></div><p class="legend">{known}</p><p class="legend">{wrong}</p>'
        '<p class="note" id="hint">Drag to move, double-click or <kbd>+</kbd> <kbd>-</kbd> to '
        "zoom; the wheel zooms a picture that was clicked. Whole images are shown reduced; the "
        "numbered squares, where most boundary pixels are wrong, have all their pixels "
        "(<kbd>1</kbd> <kbd>2</kbd> <kbd>3</kbd>, and <kbd>0</kbd> for the whole).</p>"
        '<h3 id="shown" aria-live="polite"></h3><div id="cards"></div>'
    )


def image_table() -> str:
    """Returns the place of the table of all images, which the script fills."""
    return (
        '<div class="controls"><label>Name contains <input type="search" id="filter"></label>'
        '<output id="matching"></output></div><div class="wide tall" tabindex="0" role="region" '
        'aria-label="All images"><table id="images"><thead></thead><tbody></tbody></table></div>'
    )


def script_data(
    names: Sequence[str],
    runs: Sequence[str],
    classes: Sequence[str],
    measures: Sequence[str],
    tables: Sequence[Float[np.ndarray, "n c k1"]],
    panels: Sequence[tuple[str, tuple[str, ...]]],
) -> dict[str, Any]:
    """Returns what page.js needs, without the pictures.

    Args:
        names: names of the images.
        runs: names of the evaluations, one or two.
        classes: names of the classes.
        measures: names of the scores.
        tables: scores of each evaluation by image, score, and mean and classes.
        panels: (title, layers from bottom to top) of what is shown side by side of an image.
    """
    return {
        "names": list(names),
        "runs": list(runs),
        "classes": ["all classes", *classes],
        "measures": list(measures),
        "scores": [in_percent(table) for table in tables],
        "panels": [{"title": title, "layers": layers} for title, layers in panels],
        "worst": WORST,
    }


def _picture(picture: Picture) -> dict[str, Any]:
    return {
        "width": picture.width,
        "height": picture.height,
        "parts": picture.parts,
        "levels": [
            {
                "x": level.x,
                "y": level.y,
                "step": level.reduction,
                "width": level.width,
                "height": level.height,
                "layers": {k: base64.b64encode(v).decode() for k, v in level.layers.items()},
            }
            for level in picture.levels
        ],
    }


def _json(value: Any) -> str:
    """Returns JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
