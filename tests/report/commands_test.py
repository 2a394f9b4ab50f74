"""The commands that write pages: what the pages show, and what is refused."""

import json
import shutil

import cv2
import numpy as np
import pytest

from massformer_jax import compare, evaluate_files
from massformer_jax.data.images import encode_mask
from massformer_jax.errors import InputError
from massformer_jax.report import comparison
from tests.helpers.report_files import carried, write_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with `images`, `labels`, `a`, `b`, and the evaluations a.json and b.json."""
    root = tmp_path_factory.mktemp("runs")
    write_runs(root)
    return root


def score(root, run, *options) -> int:
    return evaluate_files.main(
        ["--predictions", str(root / run), "--labels", str(root / "labels"), *map(str, options)]
    )


def test_report_of_files(runs, capsys):
    page = (runs / "a.html").read_text()
    data = carried(page)
    assert set(data["pictures"]) == {"0.png", "1.png", "deep/2.png"}
    assert all("photo" in p["levels"][0]["layers"] for p in data["pictures"].values())
    assert score(runs, "a", "--report", runs / "plain.html") == 0
    layers = carried((runs / "plain.html").read_text())["pictures"]["0.png"]["levels"][0]["layers"]
    assert set(layers) == {"truth", "prediction", "errors"}


def refused(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    return captured.err


def test_photographs_that_do_not_fit_are_named_at_once(runs, tmp_path, capsys):
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    cv2.imwrite(str(images / "0.jpg"), np.zeros((9, 8, 3), np.uint8))
    for suffix in ("png", "jpg"):
        (images / "deep" / f"2.{suffix}").write_bytes(b"")
    (images / "1.txt").write_text("no photograph")
    output = tmp_path / "report.html"
    assert score(runs, "a", "--report", output, "--images", images) == 2
    first, *lines = refused(capsys).splitlines()
    assert first == "error: nothing was scored; 3 photographs to mend:" and len(lines) == 3
    assert "0.jpg: 9 rows of 8, its label map has 64 of 96" in lines[0]
    assert f"1.png: no photograph in {images}" in lines[1]
    assert "deep/2.jpg and deep/2.png" in lines[2]
    (images / "0.jpg").write_bytes(b"torn")
    assert score(runs, "a", "--report", output, "--images", images) == 2
    assert "0.jpg: not a readable image" in refused(capsys)
    assert not output.exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (("--images", "."), "add --report FILE.html"),
        (("--report", "x.html", "--images", "nowhere"), "nowhere is no folder"),
        (("--report", "/proc/nothing/x.html"), "/proc/nothing"),
    ],
)
def test_reports_that_cannot_be_written(runs, capsys, options, message):
    assert score(runs, "a", *options) == 2
    error = refused(capsys)
    assert message in error and error.count("\n") == 1


def compared(runs, *options) -> int:
    return compare.main([str(runs / "a.json"), str(runs / "b.json"), *map(str, options)])


def test_comparison_of_files(runs, tmp_path, capsys):
    output = tmp_path / "new" / "page.html"
    folders = ("--labels", runs / "labels", "--predictions", runs / "a", runs / "b")
    assert compared(runs, "--output", output, *folders, "--images", runs / "images") == 0
    page = output.read_text()
    data = carried(page)
    assert data["runs"] == ["a", "b"] and len(data["pictures"]) == 3
    layers = data["pictures"]["deep/2"]["levels"][0]["layers"]
    assert set(layers) == {"photo", "truth", "prediction_a", "errors_a", "prediction_b", "errors_b"}
    first, second = (json.loads((runs / f"{run}.json").read_text()) for run in "ab")
    change = 100 * (second["mIoU"] - first["mIoU"])
    assert change < 0 and f'<td class="delta worse">{change:+.2f}</td>' in page
    assert compared(runs, "--output", output, "--names", "old", "new <1>") == 0
    page = output.read_text()
    assert carried(page)["pictures"] == {} and "new &lt;1&gt;" in page and "new <1>" not in page


def test_nothing_that_is_compared_is_written_over(runs, capsys):
    folders = ("--labels", runs / "labels", "--predictions", runs / "a", runs / "b")
    images = ("--images", runs / "images")
    for path in ("a.json", "b.json", "labels/0.png", "b/deep/2.png", "images/1.jpg"):
        before = (runs / path).read_bytes()
        assert compared(runs, "--output", runs / "a" / ".." / path, *folders, *images) == 2
        error = refused(capsys)
        assert "is read" in error and error.count("\n") == 1
        assert (runs / path).read_bytes() == before


def test_evaluations_that_cannot_be_compared(runs, tmp_path, capsys):
    def refuse(change, message, *options):
        other = json.loads((runs / "b.json").read_text())
        change(other)
        (tmp_path / "b.json").write_text(json.dumps(other))
        output = tmp_path / "page.html"
        paths = [str(runs / "a.json"), str(tmp_path / "b.json"), "--output", str(output)]
        assert compare.main([*paths, *map(str, options)]) == 2
        error = refused(capsys)
        assert message in error and error.count("\n") == 1 and not output.exists()

    same = lambda other: None  # noqa: E731
    refuse(lambda other: other["images"].pop("1.png"), "the second evaluation lacks 1;")
    another = json.loads((runs / "b.json").read_text())["images"]["0.png"]
    refuse(lambda other: other["images"].update(other=another), "the first evaluation lacks other;")
    refuse(lambda other: other["images"].update(other="x"), "of the image 'other' it has no scores")
    refuse(lambda other: other.update(boundary_ratio=0.02), "boundary_ratio is 0.001 in the first")
    refuse(lambda other: other.update(classes=list("abcdefg")), "classes is")
    refuse(lambda other: other.update(classes=["x"]), "`confusion` holds no counts of pixels")
    refuse(lambda other: other.pop("confusion"), "holds no evaluation image by image")
    refuse(lambda other: other.update(images=3), "is damaged: `images` holds no scores")
    refuse(same, "need --labels and --predictions", "--labels", runs / "labels")
    refuse(same, "need --labels and --predictions", "--images", runs / "images")
    refuse(
        same,
        f"{tmp_path} holds no ",
        "--labels",
        runs / "labels",
        "--predictions",
        runs / "a",
        tmp_path,
    )
    (tmp_path / "torn.json").write_text("{")
    assert compare.main([str(tmp_path / "torn.json"), "x.json", "--output", "x.html"]) == 2
    assert "torn.json is no JSON" in refused(capsys)
    assert compare.main(["nowhere.json", "x.json", "--output", "x.html"]) == 2
    assert "nowhere.json: No such file" in refused(capsys)


def test_images_are_compared_by_name_whatever_their_order(runs):
    first, second = (compare.read_evaluation(str(runs / f"{run}.json")) for run in "ab")
    turned = {**second, "images": dict(reversed(second["images"].items()))}
    names = ("a", "b")
    page = comparison.comparison_page(names, (first, second), {})
    assert comparison.comparison_page(names, (first, turned), {}) == page
    with pytest.raises(InputError, match="lacks"):
        comparison.comparison_page(names, (first, {**second, "images": {}}), {})


def test_those_that_gained_have_pictures_too():
    def summary(values):
        images = {
            f"{i}": {"mIoU": v, "IoU": [v], "mBIoU": v, "BIoU": [v]} for i, v in enumerate(values)
        }
        return {"classes": ["x"], "images": images}

    changed = comparison.changed_most(summary([0.5] * 10), summary([0.4] * 9 + [0.9]))
    assert sorted(changed) == ["0", "1", "2", "3", "9"]


def test_equal_runs_have_not_changed(runs):
    first = compare.read_evaluation(str(runs / "a.json"))
    page = comparison.comparison_page(("a", "a"), (first, first), {})
    assert "delta better" not in page and "delta worse" not in page


def test_names_that_differ_in_composition_alone_are_one(tmp_path, capsys):
    """é is one letter in the label map, two in the photograph and in one of the predictions."""
    one, two = "caf\u00e9", "cafe\u0301"
    rng = np.random.default_rng(0)
    for folder in ("labels", "a", "b", "images"):
        (tmp_path / folder).mkdir()
    for folder, name in (("labels", one), ("a", two), ("b", one)):
        labels = rng.integers(0, 7, (40, 40), np.uint8)
        (tmp_path / folder / f"{name}.png").write_bytes(encode_mask(labels))
    cv2.imwrite(str(tmp_path / "images" / f"{two}.jpg"), np.zeros((40, 40, 3), np.uint8))
    images = ("--images", tmp_path / "images")
    for run in ("a", "b"):
        files = ("--output", tmp_path / f"{run}.json", "--report", tmp_path / f"{run}.html")
        assert score(tmp_path, run, *files, *images) == 0
        summary = json.loads((tmp_path / f"{run}.json").read_text())
        assert list(summary["images"]) == [f"{one}.png"]
        pictures = carried((tmp_path / f"{run}.html").read_text())["pictures"]
        assert "photo" in pictures[f"{one}.png"]["levels"][0]["layers"]
    # An evaluation of an earlier version has the names of its folder.
    text = (tmp_path / "a.json").read_text().replace(json.dumps(one)[1:-1], json.dumps(two)[1:-1])
    (tmp_path / "a.json").write_text(text)
    folders = ("--labels", tmp_path / "labels", "--predictions", tmp_path / "a", tmp_path / "b")
    assert compared(tmp_path, "--output", tmp_path / "page.html", *folders, *images) == 0
    assert list(carried((tmp_path / "page.html").read_text())["pictures"]) == [one]


def test_masks_of_any_case_are_found(tmp_path, capsys):
    """A file with an upper-case suffix is a PNG, too."""
    for folder in ("labels", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.PNG").write_bytes(encode_mask(np.eye(40, dtype=np.uint8)))
    assert score(tmp_path, "a", "--report", tmp_path / "r.html") == 0
    assert list(carried((tmp_path / "r.html").read_text())["pictures"]) == ["x.PNG"]


def test_runs_whose_files_are_called_alike_are_called_as_their_folders(runs, tmp_path, capsys):
    """Label maps of any case are found, as evaluate_files finds them."""
    for run in ("a", "b"):
        shutil.copytree(runs / run, tmp_path / run / "eval" / "predictions")
        shutil.copy(runs / f"{run}.json", tmp_path / run / "eval" / "metrics.json")
    shutil.copytree(runs / "labels", tmp_path / "labels")
    folders = [tmp_path / "labels", *(tmp_path / run / "eval" / "predictions" for run in "ab")]
    for folder in folders:
        (folder / "1.png").rename(folder / "1.PNG")
    output = tmp_path / "page.html"
    argv = [*(tmp_path / run / "eval" / "metrics.json" for run in "ab"), "--output", output]
    argv += ["--labels", folders[0], "--predictions", *folders[1:]]
    assert compare.main(list(map(str, argv))) == 0, capsys.readouterr().err
    data = carried(output.read_text())
    assert data["runs"] == ["a", "b"] and set(data["pictures"]) == {"0", "1", "deep/2"}
    assert compare._names("x/metrics.json", "x/metrics.json") == ("metrics", "metrics")
