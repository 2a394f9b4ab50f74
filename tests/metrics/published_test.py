"""The published results, the row of a run among them, and the tolerance of their BF1."""

import math

import numpy as np
import pytest

from massformer_jax.data.sample.scenes import render_scene
from massformer_jax.metrics import published
from massformer_jax.metrics.counts import TOLERANCES
from massformer_jax.metrics.scores import tolerance_name
from scripts.benchmark import tolerance


def of(source):
    return [method for method in published.published() if method.source == source]


def run(**scores):
    """The scores of a run on MaSS13K's val split, with a network."""
    dataset = {"mass13k": "val", "reason": ""}
    provenance = {"parameters": 37_580_000, "macs": 2_268_270_000_000, "dataset": dataset}
    return {"mIoU": 0.885, "mBIoU": 0.5, published.BF1: 0.51234, "provenance": provenance} | scores


def test_the_papers_table_is_complete():
    methods = of("MaSS13K")
    assert published.published()[:16] == tuple(methods)
    assert len(methods) == len({method.name for method in methods}) == 16
    # The best and second best of each column, as the paper marks them.
    for split, column, best, second in (
        ("val", "miou", "MaSSFormer", "Mask2Former"),
        ("val", "biou", "MaSSFormer", "MPFormer"),
        ("val", "bf1", "MaSSFormer", "MPFormer"),
        ("test", "miou", "MaSSFormer", "SegNeXt"),
        ("test", "biou", "MaSSFormer", "MPFormer"),
        ("test", "bf1", "MaSSFormer", "MPFormer"),
    ):
        order = sorted(methods, key=lambda m: -getattr(getattr(m, split), column))
        assert [order[0].name, order[1].name] == [best, second], (split, column)
    ours = methods[-1]
    assert ours.val == (88.97, 48.97, 0.5639) and ours.test == (88.21, 48.39, 0.5593)
    assert all(1 < m.params < 100 and 100 < m.gmacs < 12000 for m in methods)


def test_other_sources_are_marked():
    assert {method.source for method in published.published()} == set(published.SOURCES)
    best = of("CoordFormer")[0]
    assert (best.val, best.test) == ((92.53, 53.24, 0.5965), (92.30, 52.40, 0.5916))
    assert (best.params, best.gmacs) == (29.92, 6430)
    ablation = of("notes")
    assert [(m.val.miou, m.val.biou, m.gmacs) for m in ablation] == [
        (85.54, 42.69, 1298),
        (88.11, 44.42, 1348),
        (88.29, 45.23, 1692),
        (88.02, 47.36, 1928),
        (88.97, 48.97, 2036),
    ]
    assert all(math.isnan(x) for m in ablation for x in (*m.test, m.val.bf1, m.params))


def test_rows_have_their_sources_and_a_run_its_network():
    rows = published.rows("mine", run(), "val")
    mine = next(row for row in rows if row.ours)
    assert mine == ("mine", "this run", ["88.50", "50.00", ".5123", "37.58", "2,268"], "", True)
    miou = [float(row.cells[0]) for row in rows]
    assert miou == sorted(miou, reverse=True) and len(rows) == 1 + len(published.published())
    shown = {row.method: row for row in rows}
    assert shown["CoordFormer"].source == "CoordFormer" and shown["STDC2"].source == "MaSS13K"
    assert shown["ablation: + CST"].cells == ["88.11", "44.42", "-", "-", "1,348"]
    tested = {row.method for row in published.rows("mine", run(), "test")}
    assert "CoordFormer-B" in tested and not any(":" in name for name in tested), "val only"


def test_printed_table():
    lines = published.table("mine", run(), "val").splitlines()
    head, mine = lines[0].split(), next(line for line in lines if line.startswith(">"))
    assert head == ["MaSS13K", "val", "mIoU", "BIoU", "BF1", "parameters,", "M", "GMAC", "source"]
    assert mine.split() == [">", "mine", "this", "run", "88.50", "50.00", ".5123", "37.58", "2,268"]
    baseline = next(line for line in lines if "baseline  " in line)
    assert baseline.index("85.54") == mine.index("88.50"), "columns stand below each other"
    assert baseline.endswith("notes")
    assert all(f"{name}: {text}" in lines for name, text in published.SOURCES.items())


def test_unknown_scores_are_shown_as_such():
    summary = {"mIoU": None, "mBIoU": 0.5}
    assert published.markdown_row("x", summary) == "| x | - | 50.00 | - | - | - |"
    assert published.rows("x", summary, "val")[-1].cells == ["-", "50.00", "-", "-", "-"]
    assert published.run_cells({"mIoU": math.nan, "mBIoU": 0.5})[0] == "-"


def test_row_in_a_file():
    text = published.markdown_table("mine", run())
    assert text == (
        "| method | mIoU | BIoU | BF1@1px | parameters, M | GMAC |\n"
        "|---|---|---|---|---|---|\n"
        "| mine | 88.50 | 50.00 | .5123 | 37.58 | 2,268 |\n"
    )
    dataset = {"mass13k": None, "reason": "8 images"}
    other = published.markdown_table("mine", run(provenance={"dataset": dataset}))
    assert other.endswith("\n\nNot comparable with the published results: 8 images.\n")


def test_published_bf1_is_counted_by_default():
    assert f"mBF1@{tolerance_name(TOLERANCES[-1])}" == published.BF1
    assert TOLERANCES[:2] == (0.0075, 0.001), "as earlier versions"


def test_published_pairs_lie_on_a_line():
    slope, offset = tolerance.published_line()
    assert slope == pytest.approx(1.06, abs=0.05) and offset == pytest.approx(4, abs=1)
    assert tolerance.from_line(tolerance.published_pairs()) < 1
    assert tolerance.from_line(tolerance.published_pairs("CoordFormer")) < 2


def test_displacements_are_of_the_size_that_they_are_said_to_have():
    """A vertical edge, displaced by a field: its places have the field's standard deviation."""
    labels = np.zeros((2048, 400), np.uint8)
    labels[:, 200:] = 1
    for amount in (2, 4):
        moved = tolerance.warped(labels, amount, "normal", 24, np.random.default_rng(0))
        places = 400 - moved.sum(1).astype(float)
        assert places.mean() == pytest.approx(200, abs=amount / 2)
        # Between the cells the field is interpolated, so it varies a little less.
        assert 0.6 * amount < places.std() < amount
    wrong = tolerance.mistaken(labels, 0.1, np.random.default_rng(0)) != labels
    assert wrong.mean() == pytest.approx(0.1, abs=0.001)
    assert (tolerance.reduced(labels, 8) == labels).all(), "an edge between pixels stays"


def test_one_pixel_is_the_tolerance_whose_pairs_lie_on_the_line():
    """A label map displaced by known amounts gives pairs of BIoU and BF1.

    Those of one pixel are near the published line, those of two lie far above it, and those of 0.1%
    of a 12-megapixel photograph's diagonal farther still.
    """
    label = render_scene(np.random.default_rng(0), 768, 1024, water=True)[1]
    slope, offset = tolerance.published_line()
    above = []
    for tail, amount in (("normal", 4), ("laplace", 5), ("student", 4)):

        def displaced(labels, rng, tail=tail, amount=amount):
            return tolerance.mistaken(tolerance.warped(labels, amount, tail, 48, rng), 0.06, rng)

        biou, bf1 = tolerance.pair(displaced, [label])
        assert 25 < biou < 55
        chosen = published.BF1.removeprefix("mBF1@")
        above.append([bf1[name] - slope * biou - offset for name in (chosen, "2px", "5.12px")])
    one, two, wide = np.abs(above).mean(0)
    assert one < 5 and one < two / 2 < wide / 4
