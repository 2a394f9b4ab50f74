"""The parts of pages without a browser: what is drawn, of which images, and how large it is."""

import io
import json
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from massformer_jax.classes import IGNORE, PALETTE
from massformer_jax.errors import InputError
from massformer_jax.metrics import scores
from massformer_jax.metrics.counts import (
    TOLERANCES,
    Counts,
    add_counts,
    boundary_radius,
    image_counts,
    zero_counts,
)
from massformer_jax.ops import boundaries
from massformer_jax.report import charts, collect, comparison, document, pictures, worst
from massformer_jax.report.evaluation import evaluation_page
from tests.helpers.report_files import carried


def random_labels(rng, shape, *, ignored=False):
    """Makes blobs of all classes, and a line that is one pixel wide."""
    coarse = rng.integers(0, 7, (shape[0] // 6 + 1, shape[1] // 6 + 1)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((6, 6), np.uint8))[: shape[0], : shape[1]].copy()
    labels[:, shape[1] // 3] = 5
    if ignored:
        labels[: shape[0] // 4, : shape[1] // 2] = IGNORE
    return labels


@pytest.mark.parametrize("shape", [(7, 9), (64, 50), (33, 1)])
@pytest.mark.parametrize("radius", [1, 2, 5])
def test_boundary_on_the_host_is_that_of_the_metrics(shape, radius):
    labels = random_labels(np.random.default_rng(radius), shape, ignored=True)
    expected = np.asarray(boundaries.boundary(jnp.asarray(labels), radius))
    np.testing.assert_array_equal(pictures.boundary(labels, radius), expected)


def test_errors_are_what_boundary_iou_counts():
    rng = np.random.default_rng(0)
    truth = random_labels(rng, (60, 90), ignored=True)
    prediction = np.roll(np.where(truth == IGNORE, 2, truth), 1, 1)
    prediction[40:50, 30:60] = 3
    codes = pictures.errors(truth, prediction, 0.02)
    assert boundary_radius(60, 90, 0.02) == 2
    pixels = np.bincount(codes.ravel(), minlength=6)
    assert pixels.min() > 0, "each kind occurs"
    counts = image_counts(prediction, truth, boundary_ratio=0.02, tolerances=())
    assert counts.boundary_intersect.sum() == pixels[pictures.FOUND]
    # A pixel on the boundaries of two classes is in the union of both.
    assert counts.boundary_union.sum() == pixels[pictures.FOUND :].sum() + pixels[pictures.WRONG]
    away = (codes == pictures.ELSEWHERE) | (codes == pictures.NOTHING)
    known = truth != IGNORE
    wrong = away & known & (truth != prediction)
    np.testing.assert_array_equal(codes == pictures.ELSEWHERE, wrong)


def test_parts_are_where_most_is_wrong():
    wrong = np.zeros((3000, 2000), bool)
    wrong[2500:2600, 1900:2000] = True
    wrong[100:140, 300:340] = True
    wrong[1000, 1000] = True
    parts = pictures.worst_parts(wrong)
    assert len(parts) == 3
    for (x, y, side), inside in zip(
        parts,
        ((2500, 2600, 1900, 2000), (100, 140, 300, 340), (1000, 1001, 1000, 1001)),
        strict=True,
    ):
        top, bottom, left, right = inside
        assert side == 256 and 0 <= x <= 2000 - side and 0 <= y <= 3000 - side
        assert y <= top and bottom <= y + side and x <= left and right <= x + side
    assert pictures.worst_parts(np.zeros((500, 500), bool)) == ()
    assert pictures.worst_parts(np.ones((5, 900), bool)) == ()
    (part, *_) = pictures.worst_parts(np.ones((480, 640), bool))
    assert part[2] == 160, "a quarter of a small image's longer side"


def decoded(layer: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(layer)).convert("RGBA"))


def test_picture_of_a_large_image():
    """1300 x 1000 are reduced to a third, which divides neither side; the parts are not reduced."""
    rng = np.random.default_rng(1)
    truth = np.full((1000, 1300), 5, np.uint8)
    truth[500:] = 4
    truth[0, 0] = IGNORE
    prediction = np.where(truth == IGNORE, 0, truth)
    prediction[495:500, 700:760] = 4
    prediction[498, 30] = 1
    image = rng.integers(0, 256, (1000, 1300, 3), dtype=np.uint8) // 2 + 60
    picture = pictures.draw(
        image, truth, {"": prediction}, boundary_ratio=0.001, palette=PALETTE.tolist()
    )
    overview, *parts = picture.levels
    assert (picture.width, picture.height) == (1300, 1000)
    assert (overview.reduction, overview.width, overview.height) == (3, 434, 334)
    assert set(overview.layers) == {"photo", "truth", "prediction", "errors"}
    assert all(decoded(layer).shape == (334, 434, 4) for layer in overview.layers.values())
    assert abs(decoded(overview.layers["photo"])[..., :3].mean() - image.mean()) < 3
    # The centre of each three by three pixels; the last row stands for one row and its copies.
    seen = decoded(overview.layers["truth"])[..., :3]
    np.testing.assert_array_equal(seen[:-1, :-1], PALETTE[truth[1::3, 1::3]][:333, :433])
    # Every wrong pixel shows in what is reduced: these five rows, and one at the map's corner.
    wrong = decoded(overview.layers["errors"])[..., 3] == 255
    assert wrong[165:167, 234:253].all()
    gravest = pictures.ERROR_COLOURS[pictures.WRONG]
    assert tuple(decoded(overview.layers["errors"])[166, 10]) == gravest, "one pixel, off centre"
    assert len(parts) == len(picture.parts)
    x, y, side = picture.parts[0]
    part = parts[0]
    assert (part.x, part.y, part.reduction, part.width) == (x, y, 1, side) and side == 256
    window = np.s_[y : y + side, x : x + side]
    shown = decoded(part.layers["prediction"])[..., :3]
    np.testing.assert_array_equal(shown, PALETTE[prediction[window]])
    codes = pictures.errors(truth, prediction, 0.001)[window]
    expected = np.array(pictures.ERROR_COLOURS, np.uint8)[codes]
    np.testing.assert_array_equal(decoded(part.layers["errors"])[..., 3], expected[..., 3])
    assert np.abs(decoded(part.layers["photo"])[..., :3].astype(int) - image[window]).mean() < 30


def test_small_images_are_shown_as_they_are():
    truth = random_labels(np.random.default_rng(0), (90, 70))
    picture = pictures.draw(
        None, truth, {"_a": truth, "_b": truth * 0}, boundary_ratio=0.001, palette=PALETTE.tolist()
    )
    (level,) = picture.levels
    assert level.reduction == 1 and "photo" not in level.layers
    assert set(level.layers) == {"truth"} | {
        f"{kind}{run}" for kind in ("prediction", "errors") for run in ("_a", "_b")
    }
    np.testing.assert_array_equal(decoded(level.layers["truth"])[..., :3], PALETTE[truth])
    assert picture.parts and picture.parts[0][2] == 16


def random_pool(rng, images: int, classes: int = 3) -> Counts:
    """Makes counts of images of a few pixels, in which classes are missing."""
    pool = zero_counts(classes)
    shapes = [field.shape[1:] for field in pool]
    confusion = rng.integers(0, 5, (images, *shapes[0])) * rng.integers(0, 2, (images, *shapes[0]))
    union = rng.integers(0, 9, (images, *shapes[1]))
    contours = rng.integers(0, 4, (images, classes))
    matched = [np.minimum(rng.integers(0, 4, (images, *shapes[5])), contours[:, None])] * 2
    return Counts(confusion, union // 2, union, contours, contours, *matched)


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_a_gallery_ends_with_the_worst_of_all(images, batch, seed):
    """This holds however many images came before, and whatever was dropped in between."""
    pool = random_pool(np.random.default_rng(seed), images)
    names = [f"{i}.png" for i in range(images)]
    gallery = collect.Gallery(3, 0.001)
    labels = np.zeros((1, 1), np.uint8)
    drawn = 0
    for first in range(0, images, batch):
        upto = names[: first + batch]
        for i in gallery.choose(upto, Counts(*(field[: first + batch] for field in pool))):
            gallery.draw(upto[first + i], np.zeros((1, 1, 3), np.uint8), labels, labels)
            drawn += 1
        assert gallery._pictures.keys() <= gallery._scores.keys(), "others are dropped"
    summary = scores.evaluation_summary(names, pool, boundary_ratio=0.001, tolerances=TOLERANCES)
    table = worst.score_table(summary["images"], ("IoU", "BIoU", "BF1@1px"), 3)
    expected = [names[i] for i in worst.worst(table)]
    assert list(gallery.pictures(summary)) == expected
    for values in table.reshape(images, -1).T:
        lowest = sorted(values[~np.isnan(values)])[: worst.WORST]
        chosen = [values[names.index(name)] for name in expected]
        assert sorted(value for value in chosen if value == value)[: len(lowest)] == lowest
    assert drawn >= len(expected)


def test_pictures_survive_being_packed():
    level = pictures.Level(1, 2, 3, 4, 5, {"photo": b"\x00\xff", "truth": b""})
    mine = {
        "a": pictures.Picture(7, 8, (level, level), ((1, 2, 3),)),
        "b": pictures.Picture(1, 2, (), ()),
    }
    assert collect.unpacked(collect.packed(mine)) == mine


def test_worst_first_of_every_column():
    table = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, math.nan], [0.2, 0.3]])
    assert worst.worst(table, 1) == [1, 0]
    assert worst.worst(table, 2) == [1, 0, 3]
    assert worst.worst(table[:0], 2) == []
    assert worst.worst(np.array([[0.9, math.nan], [0.2, math.nan]]), 1) == [1]


@pytest.fixture(scope="module")
def summary():
    """An evaluation of three images; the third has no person and no water."""
    rng = np.random.default_rng(4)
    pool = zero_counts()
    for i in range(3):
        truth = random_labels(rng, (64, 64))
        if i == 2:
            truth[(truth == 1) | (truth == 6)] = 0
        prediction = truth.copy()
        prediction[: 8 * (i + 1)] = 3
        pool = add_counts(pool, image_counts(prediction, truth))
    names = ["one.png", "</script><script>alert(1)</script>.png", "three.png"]
    return scores.evaluation_summary(names, pool, boundary_ratio=0.001, tolerances=TOLERANCES)


def with_provenance(summary, mass13k, reason="") -> dict:
    """The summary of a model that was evaluated on a split of MaSS13K, or on other images."""
    dataset = {"folder": "/data/<b>", "name": "mass13k/1.1.0", "split": "validation"}
    dataset |= {"images": 3, "mass13k": mass13k, "reason": reason}
    return {
        **summary,
        "provenance": {
            "date": "2026-11-26T12:00:00+00:00",
            "version": "0.1.0",
            "command": "python -m massformer_jax.main --mode=eval",
            "checkpoint": "/runs/<i>one</i>",
            "step": 4711,
            "architecture": {"encoder_depth": 50},
            "parameters": 37_580_000,
            "macs": 2_268_000_000_000,
            "config": {"seed": 12, "name": "</pre>"},
            "dataset": dataset,
        },
    }


def test_page_of_an_evaluation(summary):
    told = with_provenance(summary, "val")
    page = evaluation_page(
        "a <b>run</b>", told, {}, among_published=True, details={"step": "7 & 8"}
    )
    assert "<b>run" not in page and "<script>alert" not in page and "7 &amp; 8" in page
    data = carried(page)
    assert data["names"] == list(summary["images"])
    for i, measure in enumerate(("IoU", "BIoU", "BF1@1px")):
        assert data["measures"][i] == measure
        image = summary["images"]["three.png"]
        expected = [image[f"m{measure}"], *image[measure]]
        for shown, value in zip(data["scores"][0][i][2], expected, strict=True):
            assert (shown is None) == math.isnan(value)
            assert shown is None or abs(shown - 100 * value) < 1e-4
    assert data["scores"][0][0][2][2] is None, "the third has no person"
    assert f"<dd>{100 * summary['mBIoU']:.2f}</dd>" in page
    assert page.count('class="right"') == 7 and page.count('class="wrong"') == 42
    assert "MaSSFormer-Lite" in page and "MaSS13K val, as published" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page), "nothing to fetch"
    assert "MaSSFormer-Lite" not in evaluation_page("x", summary, {})


def test_page_of_json_is_the_page_of_the_summary(summary, tmp_path):
    """NaN has become null in between."""
    path = tmp_path / "scores.json"
    scores.write_json(path, summary)
    read = json.loads(path.read_text())
    assert read["images"]["three.png"]["IoU"][1] is None
    assert evaluation_page("x", read, {}, among_published=True) == evaluation_page(
        "x", summary, {}, among_published=True
    )


def test_a_page_tells_where_its_evaluation_comes_from(summary):
    page = evaluation_page("x", with_provenance(summary, "test"), {}, among_published=True)
    for text in (
        "<dt>date</dt><dd>2026-11-26T12:00:00+00:00</dd>",
        "<dt>version</dt><dd>0.1.0</dd>",
        "<dt>checkpoint</dt><dd>/runs/&lt;i&gt;one&lt;/i&gt;</dd>",
        "<dt>step</dt><dd>4711</dd>",
        "<dt>parameters, M</dt><dd>37.58</dd>",
        "<dt>GMAC</dt><dd>2,268.00</dd>",
        "<dt>architecture</dt><dd>encoder_depth=50</dd>",
        "<dt>dataset</dt><dd>mass13k/1.1.0</dd>",
        "<dt>split</dt><dd>validation</dd>",
        "<dt>folder of the dataset</dt><dd>/data/&lt;b&gt;</dd>",
        "<dt>MaSS13K</dt><dd>test</dd>",
        "<dt>command</dt><dd>python -m massformer_jax.main --mode=eval</dd>",
        "&quot;seed&quot;: 12",
    ):
        assert text in page, text
    assert page.count("</pre>") == 1, "the config cannot end its own element"
    row = re.search(r'<tr class="ours".*?</tr>', page)[0]
    assert re.findall(r"<td>(.*?)</td>", row)[-3:] == ["37.58", "2,268", "this run"]


def test_other_images_do_not_stand_among_the_published(summary):
    told = with_provenance(summary, None, "3 images, and MaSS13K's val has 500")
    for page, reason in (
        (evaluation_page("x", told, {}, among_published=True), "3 images, and MaSS13K&#x27;s val"),
        (evaluation_page("x", summary, {}, among_published=True), "nothing tells which images"),
        (
            evaluation_page("x", with_provenance(summary, "train"), {}, among_published=True),
            "these are MaSS13K&#x27;s training images",
        ),
    ):
        assert f"Not comparable with the published results: {reason}" in page
        assert "Mask2Former" not in page and 'id="markdown"' in page
    assert "Not comparable" not in evaluation_page("x", told, {})


@pytest.mark.parametrize("damaged", [None, 3, [], {"dataset": 5, "macs": "x", "config": []}])
def test_a_damaged_provenance_is_passed_over(summary, damaged):
    page = evaluation_page("x", {**summary, "provenance": damaged}, {}, among_published=True)
    assert "nothing tells which images were evaluated" in page


def test_comparisons_show_where_both_come_from(summary):
    first, second = with_provenance(summary, "val"), dict(summary)
    page = comparison.comparison_page(("a", "b"), (first, second), {})
    assert '<tr><th scope="row">step</th><td>4711</td><td>-</td></tr>' in page
    assert 'id="origins"' not in comparison.comparison_page(("a", "b"), (second, second), {})


def test_evaluations_of_fewer_tolerances_are_compared_at_those(summary):
    """An earlier version had two; of none in common there is no comparison."""
    earlier = {k: v for k, v in summary.items() if not k.endswith("@1px")}
    earlier["tolerances"] = [0.0075, 0.001]
    for pair in ((summary, earlier), (earlier, summary)):
        page = comparison.comparison_page(("a", "b"), pair, {})
        assert carried(page)["measures"] == ["IoU", "BIoU", "BF1@0.1%"]
        assert "BF1@0.75%" in page and "BF1@1px" not in page
        comparison.changed_most(*pair)
    with pytest.raises(InputError, match="evaluate both with one of them"):
        comparison.check_comparable(summary, {**earlier, "tolerances": [3.0]})


def test_classes_and_tolerances_of_another_dataset():
    labels = np.eye(9, dtype=np.uint8)
    counts = image_counts(labels, 2 * labels, num_classes=3, tolerances=(2.0,))
    other = scores.evaluation_summary(
        ["x.png"], add_counts(zero_counts(3, 1), counts), boundary_ratio=0.02, tolerances=(2.0,)
    )
    data = carried(evaluation_page("x", other, {}))
    assert data["measures"] == ["IoU", "BIoU", "BF1@2px"] and data["classes"][1] == "class 0"
    assert worst.ranked_scores({"IoU": [], "BIoU": []}) == ("IoU", "BIoU")


def test_pages_stay_below_five_megabytes(summary):
    """The most wanted pictures stay, and the last of those that fit is not one too few."""
    names = [f"{i}.png" for i in range(50)]
    images = {name: summary["images"]["one.png"] for name in names}
    bytes_each = 150_000
    picture = pictures.Picture(
        4096, 3072, (pictures.Level(0, 0, 7, 586, 439, {"photo": bytes(bytes_each)}),), ()
    )
    page = evaluation_page("x", {**summary, "images": images}, dict.fromkeys(names, picture))
    assert 5_000_000 - 2 * bytes_each < len(page.encode()) < 5_000_000
    kept = carried(page)["pictures"]
    assert list(kept) == names[: len(kept)] and len(kept) > 20


def test_scores_of_many_images_and_classes_stay_below_five_megabytes():
    """Of one run and of two, whose numbers have all their digits."""
    rng, count = np.random.default_rng(0), 150
    measures = ("IoU", "BIoU", "BF1@1px")
    by_class = ("IoU", "Acc", "Dice", "Precision", "BIoU", "BF1@1px")

    def evaluation():
        values = dict(zip(by_class, rng.random((len(by_class), count)).tolist(), strict=True))
        images = {}
        for i, table in enumerate(rng.random((2000, len(measures), 1 + count)).tolist()):
            told = zip(measures, table, strict=True)
            images[f"a/photograph/{i:05}.png"] = {
                key: value for m, row in told for key, value in ((f"m{m}", row[0]), (m, row[1:]))
            }
        return {
            "classes": [f"class {k}" for k in range(count)],
            "boundary_ratio": 0.001,
            "tolerances": [1.0],
            "aAcc": 0.5,
            **values,
            **{f"m{name}": 0.5 for name in by_class},
            "confusion": rng.integers(0, 10**9, (count, count)).tolist(),
            "images": images,
        }

    first, second = evaluation(), evaluation()
    pages = (
        evaluation_page("x", first, {}),
        comparison.comparison_page(("a", "b"), (first, second), {}),
    )
    assert document.MOST_BYTES < 5_000_000
    for page in pages:
        assert len(page.encode()) < document.MOST_BYTES
        assert 10 < len(carried(page)["classes"]) < 1 + count


def test_axes_have_few_ticks():
    for lowest in (0, 0.13, 0.5, 0.8, 0.97, 0.999):
        low, spacing = charts._scale(np.array([lowest, 1.0]))
        assert low <= lowest and 1 <= (1 - low) / spacing <= 9.01
        assert abs(low / spacing - round(low / spacing)) < 1e-9


def test_mean_change():
    assert comparison.mean_change(np.full(9, 0.25)) == (0.25, 0.25, 0.25)
    rng = np.random.default_rng(0)
    change = rng.normal(0.1, 1, 400)
    mean, low, high = comparison.mean_change(change)
    assert mean == pytest.approx(change.mean())
    error = 1.96 * change.std() / math.sqrt(400)
    assert mean - low == pytest.approx(error, rel=0.1) == high - mean
    assert all(math.isnan(value) for value in comparison.mean_change(np.zeros(0)))
