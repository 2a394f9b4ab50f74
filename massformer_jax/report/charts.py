"""Drawings of scores, as SVG inside a page, whose style sheet gives the colours."""

import html
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_WIDTH, _LEFT, _RIGHT = 400, 78, 12  # widths of a drawing and its margins, in pixels
_BINS = 25
_HISTOGRAM, _ROW, _AXIS = 96, 22, 20  # heights, in pixels
_SCATTER = 400  # width of a scatter plot, in pixels
_SPACINGS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # of the ticks of an axis


def distribution(
    table: Float[np.ndarray, "n k1"], rows: Sequence[str], colours: Sequence[str], title: str
) -> str:
    """Draws a histogram of the images' mean scores, and below it a box for each class.

    Args:
        table: scores 0..1 of each image: the mean, then each class; NaN where one does not exist.
        rows: names of the columns of `table`, which become rows of the drawing.
        colours: their CSS colours.
        title: what the scores are.

    Returns:
        HTML of a figure.
    """
    numbers = table[~np.isnan(table)]
    low, spacing = _scale(numbers)
    height = _HISTOGRAM + _AXIS + _ROW * len(rows)
    parts = [_axis(low, spacing, _HISTOGRAM, height)]
    means = table[:, 0][~np.isnan(table[:, 0])]
    if means.size:
        parts.append(_histogram(means, low))
    for i, (name, colour) in enumerate(zip(rows, colours, strict=True)):
        y = _HISTOGRAM + _AXIS + _ROW * i + _ROW / 2
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{html.escape(name)}</text>'
        )
        values = table[:, i][~np.isnan(table[:, i])]
        if values.size:
            parts.append(_box(values, low, y, name, colour))
    return _figure(title, (_WIDTH, height), "".join(parts), f"{title} of the images, by class")


def scatter(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    names: Sequence[str],
    axes: tuple[str, str],
    title: str,
) -> str:
    """Draws a dot for each image: its score in one run (across) and in the other (up).

    Args:
        first: scores 0..1 in the one run; NaN where one does not exist.
        second: scores in the other, likewise.
        names: names of the images.
        axes: names of the two runs.
        title: what the scores are.

    Returns:
        HTML of a figure.
    """
    exists = ~(np.isnan(first) | np.isnan(second))
    low, spacing = _scale(np.concatenate([first[exists], second[exists]]))
    size, left = _SCATTER, 46
    side = size - left - 16

    def place(value):
        return (value - low) / (1 - low) * side

    ticks = []
    for value in np.arange(round(low / spacing), round(1 / spacing) + 1) * spacing:
        at, text = place(value), f"{100 * value:.3g}"
        x, y = left + at, 10 + side - at
        ticks.append(
            f'<path class="grid" d="M{x:.1f} 10V{10 + side}M{left} {y:.1f}H{left + side}"/>'
            f'<text x="{x:.1f}" y="{side + 26}" text-anchor="middle">{text}</text>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )
    dots = []
    for i in np.flatnonzero(exists):
        a, b = float(first[i]), float(second[i])
        kind = "better" if b > a else "worse" if b < a else "same"
        told = f"{names[i]}: {100 * a:.2f} → {100 * b:.2f} ({100 * (b - a):+.2f})"
        dots.append(
            f'<circle class="{kind}" cx="{left + place(a):.1f}" cy="{10 + side - place(b):.1f}" '
            f'r="4"><title>{html.escape(told)}</title></circle>'
        )
    across, up = map(html.escape, axes)
    parts = (
        f'{"".join(ticks)}<path class="even" d="M{left} {10 + side}L{left + side} 10"/>'
        f'<text x="{left + side / 2}" y="{side + 44}" text-anchor="middle">{across}</text>'
        f'<text x="12" y="{10 + side / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {10 + side / 2})">{up}</text>{"".join(dots)}'
    )
    return _figure(title, (size, side + 54), parts, f"{title} of every image in both runs")


def _scale(numbers: np.ndarray) -> tuple[float, float]:
    """Returns where an axis up to 1 begins, and the spacing of its four to eight ticks."""
    lowest = numbers.min() if numbers.size else 0.0
    spacing = next((s for s in _SPACINGS if s * 8 >= 1 - lowest), _SPACINGS[-1])
    low = min(float(lowest) // spacing * spacing, 1 - spacing)
    return max(0.0, low), spacing


def _x(value: float, low: float) -> float:
    return _LEFT + (value - low) / (1 - low) * (_WIDTH - _LEFT - _RIGHT)


def _axis(low: float, spacing: float, top: int, bottom: int) -> str:
    parts = []
    for value in np.arange(round(low / spacing), round(1 / spacing) + 1) * spacing:
        x = _x(value, low)
        parts.append(
            f'<path class="grid" d="M{x:.1f} 0V{top}M{x:.1f} {top + _AXIS}V{bottom}"/>'
            f'<text x="{x:.1f}" y="{top + 14}" text-anchor="middle">{100 * value:.3g}</text>'
        )
    return "".join(parts)


def _histogram(values: np.ndarray, low: float) -> str:
    heights, edges = np.histogram(values, _BINS, (low, 1))
    parts = []
    for images, start, stop in zip(heights, edges, edges[1:], strict=False):
        if images:
            length = (_HISTOGRAM - 14) * images / heights.max()
            x, width = _x(start, low), _x(stop, low) - _x(start, low)
            parts.append(
                f'<rect class="bar" x="{x:.1f}" y="{_HISTOGRAM - length:.1f}" '
                f'width="{max(width - 1, 1):.1f}" height="{length:.1f}">'
                f"<title>{100 * start:.1f} to {100 * stop:.1f}: {images} images</title></rect>"
            )
    middle = float(np.median(values))
    x = _x(middle, low)
    return (
        f'<text x="{_LEFT - 8}" y="{_HISTOGRAM - 4}" text-anchor="end">images</text>'
        + "".join(parts)
        + f'<path class="median" d="M{x:.1f} 4V{_HISTOGRAM}">'
        f"<title>median {100 * middle:.2f}</title></path>"
    )


def _box(values: np.ndarray, low: float, y: float, name: str, colour: str) -> str:
    """Draws the middle 90% as a line, the middle half as a box, and the worst as a dot."""
    points = np.quantile(values, (0, 0.05, 0.25, 0.5, 0.75, 0.95))
    worst, start, first, middle, third, end = (_x(float(value), low) for value in points)
    told = (
        f"{name}: {values.size} images, worst {100 * points[0]:.2f}, "
        f"quarter below {100 * points[2]:.2f}, half below {100 * points[3]:.2f}, "
        f"quarter above {100 * points[4]:.2f}"
    )
    return (
        f'<g class="box"><title>{html.escape(told)}</title>'
        f'<path d="M{start:.1f} {y}H{end:.1f}"/>'
        f'<rect x="{first:.1f}" y="{y - 6:.1f}" width="{max(third - first, 1):.1f}" height="12" '
        f'rx="2" style="fill:{colour}"/>'
        f'<path class="halo" d="M{middle:.1f} {y - 6:.1f}v12"/>'
        f'<path class="middle" d="M{middle:.1f} {y - 6:.1f}v12"/>'
        f'<circle cx="{worst:.1f}" cy="{y}" r="2.5"/></g>'
    )


def _figure(title: str, size: tuple[int, int], parts: str, label: str) -> str:
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{html.escape(label)}">'
        f"{parts}</svg></figure>"
    )
