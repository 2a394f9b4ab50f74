import html.parser
import json
import shutil

import cv2
import numpy as np
import pytest

from massformer_jax.classes import CLASSES, IGNORE
from massformer_jax.data.images import decode_mask
from massformer_jax.data.stats.__main__ import main
from massformer_jax.data.stats.complexity import quotients
from massformer_jax.data.stats.page import bars, page
from massformer_jax.data.stats.summary import LabelStats, label_stats, summarise, table


def disc(radius, size=401, centre=(200, 200)):
    """Draws a disc as a boolean mask [size, size]."""
    y, x = np.mgrid[:size, :size]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


@pytest.mark.parametrize("radius", [20, 60, 150])
def test_a_disc_is_as_simple_as_can_be(radius):
    # A circle of pixels is (8√2 - 8)r long instead of 2πr, which is 1.0548 times as long: 1.0548
    # squared is 1.1126.
    (value,) = quotients(disc(radius))
    assert value == pytest.approx(1.1126, rel=0.02)


@pytest.mark.parametrize("side", [11, 99, 1000])
def test_a_square_is_four_over_pi(side):
    (value,) = quotients(np.pad(np.ones((side, side), bool), 3))
    assert value == pytest.approx(16 * (side - 1) ** 2 / (4 * np.pi * side**2), rel=1e-6)


def test_a_thin_line_and_fringes_are_not_simple():
    (line,) = quotients(np.ones((1, 400), bool))
    assert line == pytest.approx((2 * 399) ** 2 / (4 * np.pi * 400), rel=1e-6)
    comb = np.ones((40, 400), bool)
    comb[:30, ::2] = False
    assert quotients(comb)[0] > 40 * quotients(np.ones((40, 400), bool))[0]


def test_holes_lengthen_the_perimeter_and_leave_the_area():
    ring = disc(100) & ~disc(50)
    (value,) = quotients(ring)
    # Without pixels it would be 4π²(100 + 50)² / 4π·π(100² - 50²) = 3.
    assert value == pytest.approx(3 * 1.1126, rel=0.03)
    square = np.ones((60, 60), bool)
    square[20:40, 20:40] = False
    (value,) = quotients(square)
    hole = 4 * 19 + 4 * np.sqrt(2)  # the corners of a hole are cut
    assert value == pytest.approx((4 * 59 + hole) ** 2 / (4 * np.pi * (3600 - 400)), rel=1e-6)


def test_each_connected_mask_counts_alone_and_small_ones_do_not():
    mask = disc(30, centre=(60, 60)) | disc(50, centre=(260, 260))
    mask[:9, :11] = True  # 99 pixels
    alone = [quotients(disc(30, centre=(60, 60)))[0], quotients(disc(50, centre=(260, 260)))[0]]
    np.testing.assert_allclose(sorted(quotients(mask)), sorted(alone), rtol=1e-6)
    assert len(quotients(mask, least_area=99)) == 3
    corner = np.zeros((40, 40), bool)
    corner[:20, :20] = corner[20:, 20:] = True  # touch at a corner
    assert len(quotients(corner)) == 1
    assert len(quotients(np.zeros((9, 9), bool))) == 0


def test_label_stats_counts_every_pixel_once():
    labels = np.random.default_rng(0).choice(np.uint8([0, 3, 6, IGNORE]), (301, 203))
    result = label_stats(labels)
    assert result.size == (301, 203)
    np.testing.assert_array_equal(result.counts, np.bincount(labels.ravel(), minlength=256))
    assert [len(values) > 0 for values in result.quotients] == [
        len(quotients(labels == index)) > 0 for index in range(7)
    ]


def test_summary_by_hand():
    counts = np.zeros((2, 256), np.int64)
    counts[0, [1, 2, IGNORE]] = 30, 50, 20
    counts[1, [1]] = 20
    none = (np.zeros(0),) * 5
    one = LabelStats((10, 10), counts[0], (np.zeros(0), np.float64([2, 4]), *none))
    two = LabelStats((4, 5), counts[1], (np.zeros(0), np.float64([1e9]), *none))
    summary = summarise(iter([one, two, one]))
    assert summary["photographs"] == 3
    assert summary["sizes"] == {"10x10": 2, "5x4": 1}
    assert summary["pixel_share"]["person"] == pytest.approx(80 / 180)
    assert summary["pixel_share"]["building"] == pytest.approx(100 / 180)
    assert summary["photographs_with"]["person"] == 3
    assert summary["photographs_with"]["building"] == 2
    assert summary["ignored_share"] == pytest.approx(40 / 220)
    assert summary["ipq"]["sky"] == {
        "masks": 0, "mean": None, "deviation": None, "histogram": [0] * 15,
    }  # fmt: skip
    person = summarise(iter([one]))["ipq"]["person"]
    assert (person["masks"], person["mean"], person["deviation"]) == (2, 3.0, 1.0)
    assert person["histogram"] == [0, 1, 1] + [0] * 12  # from 2 to below 4, from 4 to below 8
    assert summary["ipq"]["all"]["histogram"][-1] == 1
    json.dumps(summary)


def test_a_split_without_labels_is_no_division_by_zero():
    empty = label_stats(np.full((9, 9), IGNORE, np.uint8))
    summary = summarise(iter([empty]))
    assert summary["ignored_share"] == 1
    assert set(summary["pixel_share"].values()) == {None}
    assert "-" in table("test", summary)
    assert table("test", summary).endswith("\n100.00 % of all pixels are ignored (255)")
    assert page({"test": summary})


class Reader(html.parser.HTMLParser):
    """A parser that collects the tags and texts of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def test_bars_are_as_long_as_their_values_and_text_is_escaped():
    reader = Reader()
    reader.feed(bars([("a<b", 2.0, "two & 2", "red"), ("c", 1.0, "1", "red")], "title"))
    widths = [float(a["width"]) for tag, a in reader.tags if tag == "rect"]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2) and widths[1] > 100
    assert "a<b" in reader.text and "two & 2" in reader.text


def test_command_writes_a_page_that_needs_nothing_else(data_dir, release_dir, tmp_path, capsys):
    output = tmp_path / "new" / "page.html"
    assert main(["--data_dir", str(data_dir), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "train: 7 photographs" in printed and "test: 1 photographs" in printed
    summary = json.loads(output.with_suffix(".json").read_text())
    assert {name: part["photographs"] for name, part in summary.items()} == {
        "train": 7, "validation": 3, "test": 1,
    }  # fmt: skip
    counts = np.zeros(256, np.int64)
    masks = 0
    for path in sorted((release_dir / "annotations" / "train").iterdir()):
        labels = decode_mask(path)
        counts += np.bincount(labels.ravel(), minlength=256)
        sky = np.ascontiguousarray(labels == CLASSES.index("sky"), np.uint8)
        _, _, parts, _ = cv2.connectedComponentsWithStats(sky, connectivity=8)
        masks += (parts[1:, cv2.CC_STAT_AREA] >= 100).sum()
    for index, name in enumerate(CLASSES):
        share = summary["train"]["pixel_share"][name]
        assert share == pytest.approx(counts[index] / counts[:7].sum(), abs=1e-12)
    assert summary["train"]["ipq"]["sky"]["masks"] == masks > 0
    reader = Reader()
    reader.feed(output.read_text())
    assert sum(tag == "svg" for tag, _ in reader.tags) == 3 * 5
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "img", "iframe"}
    assert "http" not in output.read_text()
    assert any("validation: 3 photographs" in text for text in reader.text)


def test_the_dataset_is_never_written_over(data_dir, tmp_path, capsys):
    """`features.json` lies beside the records, where the numbers of a page would go."""
    (dataset,) = (data_dir / "mass13k").iterdir()
    copy = tmp_path / "data" / "mass13k" / dataset.name
    shutil.copytree(dataset, copy)
    before = (copy / "features.json").read_bytes()
    arguments = ["--data_dir", str(tmp_path / "data"), "--split", "test", "--output"]
    assert main([*arguments, str(copy / "features.html")]) == 2
    captured = capsys.readouterr()
    assert "features.json is read and would be written over" in captured.err and not captured.out
    assert (copy / "features.json").read_bytes() == before
    assert not (copy / "features.html").exists()
    # A page that this command wrote there may be written again.
    assert main([*arguments, str(copy / "stats.html")]) == 0
    assert main([*arguments, str(copy / "stats.html")]) == 0


def test_command_takes_a_part_of_a_split(data_dir, capsys):
    assert main(["--data_dir", str(data_dir), "--split", "train[:2]"]) == 0
    assert capsys.readouterr().out.startswith("train[:2]: 2 photographs")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "val"], "no split 'val'; it has train, validation, test"),
        (["--output", "page.pdf"], "--output page.pdf: name a file that ends in .html"),
    ],
)
def test_wrong_use_is_one_line(data_dir, capsys, arguments, message):
    assert main(["--data_dir", str(data_dir), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
