"""The command that scores PNG files: right numbers, and all that is wrong named at once."""

import html
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from massformer_jax import evaluate_files
from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.data.images import encode_mask
from massformer_jax.evaluation import label_map_files, provenance
from massformer_jax.metrics.counts import BOUNDARY_RATIO

PARITY = Path(__file__).parents[1] / "parity" / "metrics"
RELEASE = json.loads((PARITY / "metrics.json").read_text())


@pytest.fixture
def folders(tmp_path):
    """Three images of two sizes, as grey and palette PNGs, one of them in a folder of its own."""
    ours, truths = tmp_path / "method", tmp_path / "labels"
    for folder, kind in ((ours, "pred"), (truths, "gt")):
        (folder / "deep").mkdir(parents=True)
        for i, name in enumerate(("a.png", "b.PNG", "deep/a.png")):
            labels = np.array(Image.open(PARITY / f"{kind}{i}.png"))
            if i == 1:
                (folder / name).write_bytes(encode_mask(labels))
            else:
                Image.fromarray(labels).save(folder / name, format="png")
        (folder / "notes.txt").write_text("not a label map")
        (folder / "._a.png").write_bytes(b"what a Mac leaves behind")
    return ours, truths


def run(folders, *options) -> int:
    ours, truths = map(str, folders)
    return evaluate_files.main(["--predictions", ours, "--labels", truths, *options])


def test_scores_equal_the_release(folders, tmp_path, capsys):
    output = tmp_path / "new" / "scores.json"
    assert run(folders, "--output", str(output)) == 0
    captured = capsys.readouterr()
    text = captured.out
    assert captured.err.splitlines() == [
        f"{folder}: left out notes.txt; only PNG is read" for folder in folders
    ]
    written = json.loads(output.read_text())
    for name, percent in RELEASE["summary"].items():
        assert round(100 * written[name], 2) == pytest.approx(percent, abs=1e-5), name
    labels = [sum(image["label"][k] for image in RELEASE["images"]) for k in range(7)]
    assert [sum(row) for row in written["confusion"]] == labels
    assert list(written["images"]) == ["a.png", "b.PNG", "deep/a.png"]
    assert 0 < written["images"]["a.png"]["mIoU"] < 1
    assert written["tolerances"] == [0.0075, 0.001, 1.0]
    assert text.splitlines()[10].split()[:3] == ["mean", "61.83", "78.10"]
    assert "3 images of method" in text


def test_defaults_are_those_of_the_metrics():
    """The parser repeats them as numbers: its `--help` does not import JAX."""
    defaults = evaluate_files._parser().parse_args(["--predictions", "a", "--labels", "b"])
    assert (defaults.boundary_ratio, defaults.classes) == (BOUNDARY_RATIO, len(CLASSES))


def test_settings_reach_the_counts(folders, tmp_path):
    outputs = [tmp_path / "usual.json", tmp_path / "wide.json"]
    assert run(folders, "--output", str(outputs[0])) == 0
    options = ("--boundary-ratio", "0.02", "--tolerance", "2", "--tolerance", "0.01")
    assert run(folders, "--output", str(outputs[1]), *options) == 0
    usual, wide = (json.loads(path.read_text()) for path in outputs)
    assert wide["mBIoU"] > usual["mBIoU"] and wide["mIoU"] == usual["mIoU"]
    assert wide["mBF1@1%"] > wide["mBF1@2px"] > 0 and "mBF1@0.1%" not in wide


def test_a_run_among_the_published(folders, capsys, monkeypatch):
    """Three label maps count as MaSS13K's only where MaSS13K is said to consist of them."""
    monkeypatch.setitem(provenance.PHOTOGRAPHS, "test", 3)
    monkeypatch.setattr(provenance, "_is_released", lambda name, size: True)
    assert run(folders, "--published", "test", "--name", "ours") == 0
    lines = capsys.readouterr().out.splitlines()
    mine = next(i for i, line in enumerate(lines) if line.startswith(">  ours"))
    assert lines[mine].split()[4:6] == ["61.83", "18.43"]
    assert lines[mine].split()[-2:] == ["-", "-"], "of files the network is not known"
    assert "BiSeNetv2" in lines[mine - 1], "the only one above 61.83 and below all others"
    assert lines[-1].startswith("| ours | 61.83 | 18.43 | .")


def test_other_label_maps_do_not_stand_among_the_published(folders, tmp_path, capsys):
    report, output = tmp_path / "report.html", tmp_path / "scores.json"
    options = ("--published", "test", "--report", str(report), "--output", str(output))
    assert run(folders, *options) == 0
    text, page = capsys.readouterr().out, report.read_text()
    assert "Mask2Former" not in text and "Mask2Former" not in page
    said = "Not comparable with the published results: 3 images, and MaSS13K's test has 1500."
    assert said in text and said in html.unescape(page)
    told = json.loads(output.read_text())["provenance"]
    assert told["dataset"]["folder"] == str(folders[1]) and told["dataset"]["mass13k"] is None
    assert told["predictions"] == str(folders[0]) and "step" not in told
    assert {"date", "version", "command"} <= set(told)
    assert run(folders) == 0
    assert "not a whole split of MaSS13K" in capsys.readouterr().out


def test_all_that_is_wrong_is_named_at_once(folders, tmp_path, capsys):
    ours, truths = folders
    labels = np.zeros((300, 420), np.uint8)
    extra = {"missing": labels, "size": labels, "colours": labels, "values": labels}
    for name in (*extra, "torn", "empty", "labels"):
        Image.fromarray(labels).save(truths / f"{name}.png")
    Image.fromarray(labels[1:]).save(ours / "size.png")
    Image.fromarray(np.zeros((300, 420, 3), np.uint8)).save(ours / "colours.png")
    labels[0, :3] = 7, 9, 255
    Image.fromarray(labels).save(ours / "values.png")
    sound = (ours / "values.png").read_bytes()
    (ours / "torn.png").write_bytes((ours / "a.png").read_bytes()[:2000])
    (ours / "empty.png").write_bytes(b"")
    Image.fromarray(labels).save(truths / "labels.png")
    Image.fromarray(labels * 0).save(ours / "labels.png")
    (ours / "extra.png").write_bytes(sound)
    output = tmp_path / "scores.json"
    assert run(folders, "--output", str(output)) == 2
    captured = capsys.readouterr()
    assert not captured.out and not output.exists()
    first, *lines = captured.err.splitlines()
    assert first == "error: nothing was scored; 8 things to mend:"
    for words in (
        ("missing.png: no prediction",),
        ("extra.png: a prediction, but no label map",),
        ("size.png: the prediction has 299 rows of 420, the label map 300 of 420",),
        (f"{ours}/colours.png", "RGB"),
        (f"{ours}/values.png: holds 7 (1 pixels), 9 (1 pixels), 255 (1 pixels), not 0..6",),
        (f"{truths}/labels.png: holds 7 (1 pixels), 9 (1 pixels), not 0..6 or 255",),
        (f"{ours}/torn.png", "truncated"),
        (f"{ours}/empty.png", "no PNG"),
    ):
        assert sum(all(word in line for word in words) for line in lines) == 1, words


def test_a_wrong_file_found_late_stops_the_counting(folders, capsys, monkeypatch):
    """It is the last of the files; nothing is printed but the error."""
    labels = np.full((9, 9), 200, np.uint8)
    for folder in folders:
        Image.fromarray(labels).save(folder / "z.png")
    assert run(folders) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("z.png: holds 200 (81 pixels)") == 2


@pytest.mark.parametrize(
    "options, message",
    [
        (("--classes", "0"), "--classes 0"),
        (("--boundary-ratio", "1"), "--boundary-ratio 1"),
        (("--boundary-ratio", "nan"), "--boundary-ratio nan"),
        (("--tolerance", "-1"), "--tolerance -1"),
        (("--tolerance", "0.2"), "--tolerance 0.2"),
        (("--tolerance", "3") * 7, "--tolerance is given 7 times; at most 6"),
        (("--boundary-ratio", "0.02", "--published", "val"), "leave --boundary-ratio out"),
        (("--labels", "nowhere"), "nowhere is no folder"),
    ],
)
def test_wrong_settings_are_refused(folders, capsys, options, message):
    assert run(folders, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_what_is_no_label_map_is_refused_whatever_its_name(folders, capsys):
    """As the builder refuses it: other formats, and palettes that contradict the indices."""
    ours, truths = folders
    labels = np.kron(np.array([[5, 5, 3], [5, 3, 1]], np.uint8), np.ones((9, 9), np.uint8))
    for name in ("jpeg", "gif", "quantised", "bits"):
        for folder in folders:
            Image.fromarray(labels).save(folder / f"{name}.png")
    Image.fromarray(labels).save(ours / "jpeg.png", "JPEG", quality=100)
    Image.fromarray(labels).save(truths / "gif.png", "GIF")
    Image.fromarray(PALETTE[labels]).quantize(3).save(ours / "quantised.png")
    Image.fromarray(labels > 2).save(ours / "bits.png")
    assert run(folders) == 2
    captured = capsys.readouterr()
    first, *lines = captured.err.splitlines()
    assert not captured.out and first == "error: nothing was scored; 4 things to mend:"
    for words in (
        f"{ours}/jpeg.png: is a JPEG, whatever its name; export the label map as PNG",
        f"{truths}/gif.png: is a GIF, whatever its name; export the label map as PNG",
        f"{ours}/quantised.png: its palette shows label 0 in the colour of tree: are its indices",
        f"{ours}/bits.png: the label map holds 1-bit grey pixels; save it as an 8-bit grey PNG",
    ):
        assert sum(words in line for line in lines) == 1, words


def test_folders_behind_links_are_scored_too(folders, capsys, tmp_path):
    """A dataset on another disk; a link may also lead round in a circle."""
    for folder in folders:
        (folder / "deep").rename(tmp_path / f"{folder.name}_elsewhere")
        (folder / "deep").symlink_to(tmp_path / f"{folder.name}_elsewhere")
        (folder / "round").symlink_to(".")
    assert run(folders) == 0
    assert "3 images of method" in capsys.readouterr().out
    (folders[0] / "deep").unlink()
    assert run(folders) == 2
    assert "deep/a.png: no prediction" in capsys.readouterr().err


def test_the_share_of_ignored_pixels_is_told(tmp_path, capsys):
    """As of a mask of 0 and 255, whose second class is ignored, so that all else is right."""
    labels = np.zeros((20, 30), np.uint8)
    labels[5:10, 4:8] = 255
    for folder, content in (("a", labels * 0), ("labels", labels)):
        (tmp_path / folder).mkdir()
        Image.fromarray(content).save(tmp_path / folder / "x.png")
    output, report = tmp_path / "x.json", tmp_path / "x.html"
    folders = (tmp_path / "a", tmp_path / "labels")
    assert run(folders, "--output", str(output), "--report", str(report)) == 0
    told = "3.33 % of all pixels are ignored (255)"
    assert f"1 images of a; {told}" in capsys.readouterr().out
    assert json.loads(output.read_text())["ignored_share"] == pytest.approx(20 / 600)
    assert told in report.read_text()


def test_label_maps_without_labels_are_no_truth(tmp_path, capsys, recwarn):
    for folder, value in (("a", 3), ("labels", 255)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((9, 9), value, np.uint8)).save(tmp_path / folder / "x.png")
    output = tmp_path / "x.json"
    assert run((tmp_path / "a", tmp_path / "labels"), "--output", str(output)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: nothing is labelled in {tmp_path / 'labels'}: all")
    assert captured.err.count("\n") == 1 and not captured.out and not output.exists()
    assert not recwarn.list


@pytest.mark.parametrize("option", ["--output", "--report"])
def test_nothing_that_is_scored_is_written_over(folders, tmp_path, capsys, monkeypatch, option):
    monkeypatch.setattr(label_map_files, "image_counts", lambda *_, **__: pytest.fail("too late"))
    ours, truths = folders
    (tmp_path / "linked").symlink_to(truths)
    for path in (ours / "a.png", truths / "deep" / "a.png", tmp_path / "linked" / "b.PNG"):
        before = path.read_bytes()
        assert run(folders, option, str(path)) == 2
        error = capsys.readouterr().err
        assert f"{path} is read" in error and error.count("\n") == 1
        assert path.read_bytes() == before
    assert run(folders, "--output", str(tmp_path / "x"), "--report", str(tmp_path / "x")) == 2
    assert "are the same file" in capsys.readouterr().err
    listed = tmp_path / "classes.json"
    listed.write_text(json.dumps(CLASSES))
    assert run(folders, "--classes", str(listed), option, str(listed)) == 2
    assert f"{listed} is read and would be written over" in capsys.readouterr().err


def test_a_folder_without_labels(tmp_path, capsys):
    assert run((tmp_path, tmp_path)) == 2
    assert "holds no PNG" in capsys.readouterr().err
