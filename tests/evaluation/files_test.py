"""The command that scores PNG files: right numbers, and all that is wrong named at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from massformer_jax import evaluate_files
from massformer_jax.classes import CLASSES
from massformer_jax.data.images import encode_mask
from massformer_jax.metrics import published
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
    text = capsys.readouterr().out
    written = json.loads(output.read_text())
    for name, percent in RELEASE["summary"].items():
        assert round(100 * written[name], 2) == pytest.approx(percent, abs=1e-5), name
    labels = [sum(image["label"][k] for image in RELEASE["images"]) for k in range(7)]
    assert [sum(row) for row in written["confusion"]] == labels
    assert list(written["images"]) == ["a.png", "b.PNG", "deep/a.png"]
    assert 0 < written["images"]["a.png"]["mIoU"] < 1
    assert written["tolerances"] == [0.0075, 0.001]
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


def test_a_run_among_the_published(folders, capsys):
    assert run(folders, "--published", "test", "--name", "ours") == 0
    lines = capsys.readouterr().out.splitlines()
    mine = next(i for i, line in enumerate(lines) if line.startswith("> ours"))
    assert lines[mine].split()[-3:-1] == ["61.83", "18.43"]
    assert "BiSeNetv2" in lines[mine - 1], "the only one above 61.83 and below all others"
    assert lines[-1].startswith("| ours | 61.83 | 18.43 | .")


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
        (("--boundary-ratio", "0.02", "--published", "val"), "leave --boundary-ratio out"),
        (("--labels", "nowhere"), "nowhere is no folder"),
    ],
)
def test_wrong_settings_are_refused(folders, capsys, options, message):
    assert run(folders, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_folder_without_labels(tmp_path, capsys):
    assert run((tmp_path, tmp_path)) == 2
    assert "holds no PNG" in capsys.readouterr().err


def test_published_table_is_complete():
    methods = published.published()
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


def test_unknown_scores_are_shown_as_such():
    summary = {"mIoU": float("nan"), "mBIoU": 0.5}
    assert published.markdown_row("x", summary) == "| x | - | 50.00 | - |"
    assert published.table("x", summary, "val").splitlines()[-3].split() == [
        ">",
        "x",
        "this",
        "run",
        "-",
        "50.00",
        "-",
    ]
