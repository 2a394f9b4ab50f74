"""The pages in a real browser: everything is shown, and nothing is fetched."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from massformer_jax import compare
from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.metrics.published import published
from tests.helpers.browser import NEEDS_CHROMIUM, launched
from tests.helpers.report_files import SIZES, write_runs

pytestmark = NEEDS_CHROMIUM
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[browser]'")

MEASURES = ("IoU", "BIoU", "BF1@1px")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the evaluations of two runs, and the page that compares them."""
    root = tmp_path_factory.mktemp("runs")
    write_runs(root)
    command = [str(root / "a.json"), str(root / "b.json"), "--output", str(root / "both.html")]
    command += ["--labels", str(root / "labels"), "--images", str(root / "images")]
    assert compare.main([*command, "--predictions", str(root / "a"), str(root / "b")]) == 0
    return root


@pytest.fixture(scope="module")
def browser():
    with launched(sync_api) as browser:
        yield browser


@pytest.fixture
def visit(browser):
    """A function visit(path, **settings) that opens a page; errors of the page fail the test."""
    wrong, contexts = [], []

    def open_page(path: pathlib.Path, **settings):
        context = browser.new_context(viewport={"width": 1300, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        fetched: list[str] = []
        page.goto(path.as_uri())
        page.wait_for_function("document.querySelectorAll('#images tbody tr').length > 0")
        page.wait_for_function("[...document.images].every((image) => image.complete)")
        outside = [url for url in fetched if not url.startswith(("blob:", "data:"))]
        assert outside == [path.as_uri()]
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def rows(page, table: str) -> list[list[str]]:
    return page.eval_on_selector_all(
        f"#{table} tbody tr", "rows => rows.map(r => [...r.children].map(c => c.textContent))"
    )


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def close(shown: str, value: float | None) -> bool:
    """Compares two decimals; a number halfway between two of them may be rounded either way."""
    if value is None:
        return shown == "-"
    return abs(float(shown) - 100 * value) < 0.0051


def test_numbers_are_those_of_the_json(runs, visit):
    scores = json.loads((runs / "a.json").read_text())
    page = visit(runs / "a.html")
    figures = page.locator(".figures dd").all_inner_texts()
    means = ("mIoU", "mBIoU", "mBF1@1px", "aAcc")
    assert figures == [percent(scores[name]) for name in means]
    columns = page.locator("#classes thead th").all_inner_texts()[2:]
    for k, (name, _, *cells) in enumerate(rows(page, "classes")):
        assert name == CLASSES[k]
        assert cells == [percent(scores[column][k]) for column in columns]
    confusion = np.array(scores["confusion"])
    counted = confusion.sum(1)
    for k, (_, *cells) in enumerate(rows(page, "confusion")):
        share = confusion[k] / counted[k] if counted[k] else [None] * 7
        assert cells == [percent(value) for value in share]
    page.get_by_label("pixels", exact=True).check()
    assert [row[1:] for row in rows(page, "confusion")] == [
        [f"{pixels:,}" for pixels in row] for row in confusion
    ]
    for name, *cells in rows(page, "images"):
        image = scores["images"][name]
        assert all(map(close, cells, (image[f"m{measure}"] for measure in MEASURES))), name
    page.select_option("#class", label="person")
    for name, *cells in rows(page, "images"):
        image = scores["images"][name]
        assert all(map(close, cells, (image[m][1] for m in MEASURES))), name
    ours = page.locator("#published tr.ours").inner_text().split("\t")
    assert ours[:3] == ["a", "this run", percent(scores["mIoU"])]
    others = [method for method in published() if method.val.miou == method.val.miou]
    assert page.locator("#published tbody tr").count() == 1 + len(others) > 17
    assert percent(scores["mBIoU"]) in page.locator("#markdown").inner_text()


def test_table_is_sorted_and_filtered(runs, visit):
    page = visit(runs / "a.html")

    def column(i):
        return [float(row[i]) for row in rows(page, "images")]

    assert column(1) == sorted(column(1)), "worst first"
    page.get_by_role("button", name="BIoU", exact=True).click()
    assert column(2) == sorted(column(2))
    page.get_by_role("button", name="BIoU", exact=True).press("Enter")
    assert column(2) == sorted(column(2), reverse=True)
    assert page.locator("#images th[aria-sort=descending]").inner_text().startswith("BIoU")
    page.fill("#filter", "DEEP")
    assert [row[0] for row in rows(page, "images")] == ["deep/2.png"]
    page.locator("#images button.link").click()
    assert page.locator(".card").count() == 1
    assert page.locator(".card h4").inner_text() == "deep/2.png"


def test_heat_is_where_the_mistakes_are(runs, visit):
    """The colour of a cell with mistakes deepens with its share."""
    page = visit(runs / "b.html")
    cells = page.eval_on_selector_all(
        "#confusion td.wrong",
        "cells => cells.map(c => [parseFloat(c.textContent), getComputedStyle(c).backgroundColor])",
    )
    assert len(cells) == 42

    def opacity(colour):
        return float(colour[5:-1].replace("/", ",").split(",")[-1]) if "rgba" in colour else 1.0

    cells = sorted((share, opacity(colour)) for share, colour in cells if share == share)
    assert cells[0][1] < 0.05 and cells[-1][0] > 5 and cells[-1][1] > 0.2
    shades = [shade for _, shade in cells]
    assert shades == sorted(shades)


def test_drawings_hold_all_images(runs, visit):
    scores = json.loads((runs / "a.json").read_text())
    page = visit(runs / "a.html")
    assert page.locator("#distribution svg").count() == 3
    told = page.locator("#distribution svg").first.locator("rect.bar title").all_text_contents()
    assert sum(int(text.split(": ")[1].split()[0]) for text in told) == len(scores["images"])
    boxes = page.locator("#distribution svg").first.locator(".box title").all_text_contents()
    worst = min(image["mIoU"] for image in scores["images"].values())
    assert f"mean: 3 images, worst {percent(worst)}" in boxes[0]
    size = page.locator("#distribution .box rect").first.bounding_box()
    assert size["width"] > 0 and size["height"] > 5


def test_pictures_show_and_zoom_to_pixels(runs, visit, tmp_path):
    page = visit(runs / "a.html")
    assert page.eval_on_selector_all(
        ".world img", "images => images.length > 20 && images.every(i => i.naturalWidth > 0)"
    )
    card = page.locator(".card[data-name='deep/2.png']")
    viewer, panels = card.locator(".viewer"), card.locator(".stage")
    assert card.locator(".panel span").all_inner_texts() == [
        "Photograph",
        "Truth",
        "Prediction",
        "Errors at boundaries",
    ]
    card.get_by_role("button", name="Detail 1").click()
    assert float(viewer.get_attribute("data-scale")) > 1
    assert all(
        image.evaluate("i => i.classList.contains('pixels')")
        for image in card.locator(".world img").all()
    )
    viewer.press("+")
    for _ in range(12):
        viewer.press("+")
    assert float(viewer.get_attribute("data-scale")) == pytest.approx(16)

    # The colours on the screen are those of the label map, pixel by pixel, 16 screen pixels each.
    page.locator("#mix").fill("100")
    place = panels.nth(2).evaluate(
        "stage => { const t = new DOMMatrix(getComputedStyle(stage.children[0]).transform);"
        " return [t.e, t.f, stage.clientWidth, stage.clientHeight]; }"
    )
    page.mouse.move(0, 0)
    shot = tmp_path / "prediction.png"
    panels.nth(2).screenshot(path=shot)
    seen = np.array(Image.open(shot).convert("RGB"))
    labels = np.array(Image.open(runs / "a" / "deep" / "2.png"))
    left, top, width, height = place
    compared = 0
    for y in range(20, int(height) - 20, 7):
        for x in range(20, int(width) - 20, 7):
            column, row = (x + 0.5 - left) / 16, (y + 0.5 - top) / 16
            if min(column % 1, row % 1) < 0.2 or max(column % 1, row % 1) > 0.8:
                continue
            found = seen[y, x]
            if np.abs(found.astype(int) - PALETTE[labels[int(row), int(column)]]).max() < 4:
                compared += 1
            else:
                raise AssertionError(f"row {int(row)}, column {int(column)}: {found}")
    assert compared > 50

    viewer.press("0")
    scale = float(viewer.get_attribute("data-scale"))
    assert scale == pytest.approx(width / SIZES["deep/2"][1], rel=0.01)
    before = scale
    box = panels.nth(0).bounding_box()
    page.mouse.dblclick(box["x"] + 30, box["y"] + 40)
    assert float(viewer.get_attribute("data-scale")) == pytest.approx(2 * before)
    page.mouse.wheel(0, -240)
    page.wait_for_function("s => +document.activeElement.dataset.scale > s", arg=3.9 * before)
    transforms = {panel.locator(".world").get_attribute("style") for panel in panels.all()}
    assert len(transforms) == 1, "all panels move together"


def test_worst_of_a_class_and_score(runs, visit):
    scores = json.loads((runs / "a.json").read_text())["images"]
    page = visit(runs / "a.html")
    page.select_option("#measure", label="BIoU")
    page.select_option("#class", label="person")
    assert page.locator("#shown").inner_text() == "Worst by BIoU of person"
    order = sorted(scores, key=lambda name: scores[name]["BIoU"][1])
    shown = page.locator(".card").evaluate_all("cards => cards.map(c => c.dataset.name)")
    assert shown == order
    first = page.locator(".card .told").first.inner_text()
    assert f"BIoU {percent(scores[order[0]]['BIoU'][1])}" in first


def test_comparison(runs, visit):
    first, second = (json.loads((runs / f"{run}.json").read_text()) for run in "ab")
    page = visit(runs / "both.html")
    summary = rows(page, "summary")
    for cells, name in zip(summary, ("mIoU", "mBIoU", "mBF1@1px", "aAcc"), strict=True):
        change = 100 * (second[name] - first[name])
        assert cells[:4] == [name, percent(first[name]), percent(second[name]), f"{change:+.2f}"]
    changes = {
        name: second["images"][name]["mIoU"] - first["images"][name]["mIoU"]
        for name in first["images"]
    }
    better = [name for name, change in changes.items() if change > 0]
    assert better == ["1.png"] and summary[0][5:] == ["1", "2"]
    for name, before, after, change in rows(page, "images"):
        image = f"{name}.png"
        assert close(before, first["images"][image]["mIoU"])
        assert close(after, second["images"][image]["mIoU"])
        assert close(change, changes[image])
    lost = sorted((change, name) for name, change in changes.items() if change < 0)
    assert page.locator(".card h4").all_inner_texts() == [
        f"{i}. {name.removesuffix('.png')}" for i, (_, name) in enumerate(lost, 1)
    ]
    page.select_option("#direction", label="got better")
    assert page.locator(".card h4").all_inner_texts() == ["1. 1"]
    assert page.locator(".card .stage").count() == 6
    assert page.eval_on_selector_all(
        ".world img", "images => images.length > 8 && images.every(i => i.naturalWidth > 0)"
    )
    dots = page.locator("#distribution svg").first
    assert (dots.locator("circle.better").count(), dots.locator("circle.worse").count()) == (1, 2)
    k = CLASSES.index("person")
    cells = rows(page, "classes")[k]
    change = 100 * (second["IoU"][k] - first["IoU"][k])
    assert cells[1:3] == [percent(second["IoU"][k]), f"{change:+.2f}"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes(runs, visit, scheme):
    """The contrast between text and what is below it is at least 4.5 (WCAG 2, AA)."""
    page = visit(runs / "a.html", color_scheme=scheme)

    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    found = page.evaluate(
        """() => ['body', '.note', '#classes th', '#classes caption', 'nav a', 'button.link',
            '.told'].map(s => {
          const parse = (c) => c.match(/[0-9.]+/g).map(Number);
          let node = document.querySelector(s);
          const text = parse(getComputedStyle(node).color);
          let ground = [0, 0, 0, 0];
          for (; node && ground[3] === 0; node = node.parentElement) {
            ground = parse(getComputedStyle(node).backgroundColor);
            if (ground.length === 3) break;
          }
          return [s, text.slice(0, 3), ground.slice(0, 3)];
        })"""
    )
    for selector, text, ground in found:
        one, two = (luminance([c / 255 for c in colour]) for colour in (text, ground))
        contrast = (max(one, two) + 0.05) / (min(one, two) + 0.05)
        assert contrast >= 4.5, (selector, text, ground)
    dark = luminance([c / 255 for c in found[0][2]]) < 0.2
    assert dark == (scheme == "dark")


def test_narrow_screens_do_not_scroll_sideways(runs, visit):
    page = visit(runs / "both.html")
    page.set_viewport_size({"width": 420, "height": 800})
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
