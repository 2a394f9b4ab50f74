"""The evaluation of a model: what it counts, writes and says, with a stand-in for the network."""

import base64
import html
import io
import json
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.data.bad_records import BadRecords
from massformer_jax.data.images import decode_mask, encode_mask
from massformer_jax.errors import InputError
from massformer_jax.evaluation import evaluate, output, progress, provenance
from massformer_jax.evaluation.label_map_files import evaluate_files
from massformer_jax.evaluation.one_behind import one_behind
from massformer_jax.inference import views
from massformer_jax.inference.protocol import Protocol
from massformer_jax.metrics import scores
from massformer_jax.metrics.counts import (
    BOUNDARY_RATIO,
    TOLERANCES,
    add_counts,
    image_counts,
    zero_counts,
)
from massformer_jax.parallel import sharding
from tests.helpers import stand_in, tiny_config

TINY = tiny_config.get_config().architecture.to_dict()
SIZES = [(60, 90), (41, 33), (60, 90), (60, 90), (41, 33)]


@pytest.fixture(scope="module")
def examples():
    random = np.random.default_rng(0)
    return [
        {
            "image": random.integers(0, 256, (*size, 3), np.uint8),
            "label": random.choice([0, 1, 2, 3, 5, 255], size).astype(np.uint8),
            "file_name": f"{i:05}_photo.jpg",
        }
        for i, size in enumerate(SIZES)
    ]


def run(examples, folder, *, devices, protocol, patch, **settings):
    stand_in.replace_network(patch)
    mesh = sharding.make_mesh(jax.devices()[:devices])
    evaluate_batch = evaluate.evaluation_function(TINY, mesh, protocol=protocol)
    dataset = provenance.Dataset("/data", "mass13k/1.1.0", "validation")
    settings = {"pictures": 0, "save_predictions": True, "dataset": dataset, **settings}
    return evaluate.evaluate(
        evaluate_batch,
        np.zeros(()),
        np.zeros(()),
        examples,
        mesh=mesh,
        classes=CLASSES,
        protocol=protocol,
        output=folder,
        **settings,
    )


@pytest.mark.parametrize(
    ("devices", "protocol"),
    [
        (1, Protocol()),
        pytest.param(
            8,
            Protocol(resolution="50x50", window="32", blend="smooth", scales=(0.5, 1.0)),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_scores_are_those_of_the_written_label_maps(
    devices, protocol, examples, tmp_path, monkeypatch
):
    """Counted on the devices or from the files, they are the same for each image."""
    folder = tmp_path / "ours" / "eval"
    labels = tmp_path / "labels"
    labels.mkdir()
    for example in examples:
        path = labels / example["file_name"].replace("jpg", "png")
        path.write_bytes(encode_mask(example["label"]))
    summary = run(
        examples,
        folder,
        devices=devices,
        protocol=protocol,
        patch=monkeypatch,
        pictures=2,
        model=provenance.Model("/runs/ours", 7, TINY, {"seed": 3}, source={"file": "x.pth"}),
    )
    names, pool = evaluate_files(folder / "predictions", labels)
    expected = scores.evaluation_summary(
        names, pool, boundary_ratio=BOUNDARY_RATIO, tolerances=TOLERANCES
    )
    scores.write_json(tmp_path / "expected.json", expected)
    written = json.loads((folder / "metrics.json").read_text())
    for key, value in json.loads((tmp_path / "expected.json").read_text()).items():
        if key in ("images", "classes"):
            assert written[key] == value
        else:
            # Means over the images are summed in another order.
            np.testing.assert_allclose(*(np.array(x, float) for x in (written[key], value)))
    assert written["protocol"]["window"] == protocol.window
    assert written["mIoU"] == pytest.approx(summary["mIoU"]) and 0 < summary["mIoU"] < 1
    row = (folder / "row.md").read_text().splitlines()
    assert row[2].startswith("| ours | ")
    assert len(list(folder.glob("*.png"))) == 2
    page = (folder / "report.html").read_text()
    reason = "Not comparable with the published results: 5 images, and MaSS13K's val has 500."
    assert "Mask2Former" not in page and reason in html.unescape(page) and row[-1] == reason
    told = written["provenance"]
    assert (told["checkpoint"], told["step"], told["config"]) == ("/runs/ours", 7, {"seed": 3})
    assert told["architecture"] == TINY and told["source"] == {"file": "x.pth"}
    assert 1e6 < told["parameters"] < 1e8 < told["macs"]
    assert told["dataset"]["name"] == "mass13k/1.1.0" and told["dataset"]["images"] == 5
    assert row[2].endswith(f"| {told['parameters'] / 1e6:.2f} | {told['macs'] / 1e9:,.0f} |")
    printed = evaluate.evaluation_text(summary, CLASSES)
    assert "/runs/ours: " in printed and "mass13k/1.1.0 validation of /data" in printed
    drawn = json.loads(page.split('id="data">')[1].split("</script>")[0])["pictures"]
    assert set(drawn) == set(names), "all are among the worst of so few"
    for example in examples:
        name = output.mask_name(example)
        layer = base64.b64decode(drawn[name]["levels"][0]["layers"]["prediction"])
        seen = np.array(Image.open(io.BytesIO(layer)).convert("RGB"))
        assert (seen == PALETTE[decode_mask(folder / "predictions" / name)]).all()
    answer = views.label_function(stand_in.GRAPH, protocol)
    for example in examples:
        shown = jax.device_put(views.show(protocol, [example["image"]]))
        labels = decode_mask(folder / "predictions" / output.mask_name(example))
        assert (labels == np.asarray(answer(None, None, shown, labels.shape)[0])).mean() > 0.999


def test_what_was_left_out_is_counted_and_named(examples, tmp_path, monkeypatch):
    bad_records = BadRecords(20, "skip", 1.0)

    def read():
        """Reads all but some, as the pipeline does: what is bad is known when it has been read."""
        for number, example in enumerate(examples[:3]):
            bad_records.add(17 - number, InputError(f"bad{number}.jpg: the JPEG is truncated"))
            yield example

    settings = {"devices": 1, "protocol": Protocol(), "patch": monkeypatch}
    summary = run(read(), tmp_path / "a", **settings, bad_records=bad_records)
    written = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert written["skipped"] == [f"bad{i}.jpg: the JPEG is truncated" for i in (2, 1, 0)]
    lines = evaluate.evaluation_text(summary, CLASSES).splitlines()
    at = lines.index("3 photographs could not be read, and the scores are those of all others:")
    assert lines[at + 1 : at + 4] == [f"  {line}" for line in written["skipped"]]

    for number in range(10):
        bad_records.add(number, InputError(f"{number}.jpg: no image"))
    summary = run(examples[:1], tmp_path / "b", **settings, bad_records=bad_records)
    assert "  9.jpg: no image\n  and 3 more, named in" in evaluate.evaluation_text(summary, CLASSES)
    summary = run(examples[:1], tmp_path / "c", **settings)
    assert summary["skipped"] == []
    assert "could not be read" not in evaluate.evaluation_text(summary, CLASSES)


def test_nothing_left_is_an_error_and_no_score(tmp_path, monkeypatch):
    bad_records = BadRecords(1, "skip", 1.0)
    bad_records.add(0, InputError("a.jpg: the JPEG is truncated"))
    settings = {"devices": 1, "protocol": Protocol(), "patch": monkeypatch}
    with pytest.raises(InputError, match=r"^none of the photographs .* a\.jpg: the JPEG is trunc"):
        run([], tmp_path, **settings, bad_records=bad_records)
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("shape", [(2000, 1), (1, 2000)])
def test_the_thinnest_photographs_are_drawn(shape, tmp_path):
    example = {
        "image": np.zeros((*shape, 3), np.uint8),
        "label": np.zeros(shape, np.uint8),
        "file_name": "thin.jpg",
    }
    output.draw_comparison(tmp_path, example, example["label"], CLASSES, PALETTE)
    with Image.open(tmp_path / "thin.png") as picture:
        assert min(picture.size) > 0


def test_two_photographs_of_one_name_are_refused_before_anything_is_lost(
    examples, tmp_path, monkeypatch
):
    """As in two splits, where they also may differ in their suffix; no later one is read."""

    def read():
        yield from examples[:2]
        yield {**examples[2], "file_name": "00001_photo.png"}
        pytest.fail("too late")

    settings = {"devices": 1, "protocol": Protocol(), "patch": monkeypatch}
    with pytest.raises(InputError, match=r"^00001_photo\.png is the label map of two photographs"):
        run(read(), tmp_path, **settings)
    assert not (tmp_path / "metrics.json").exists()
    # Where they are in shares of two processes, it is found when these are put together.
    with pytest.raises(InputError, match=r"^b\.png is the label map of two"):
        evaluate.check_names(["a.png", "b.png", "c.png", "b.png"])


def test_the_next_batch_is_started_before_one_is_finished():
    happened = []

    def start(batch):
        happened.append(f"start {batch}")
        return -batch

    for batch, result in one_behind(start, [1, 2, 3]):
        assert result == -batch
        happened.append(f"finish {batch}")
    assert happened == ["start 1", "start 2", "finish 1", "start 3", "finish 2", "finish 3"]
    assert list(one_behind(start, [])) == []


def test_writing_goes_on_beside_and_waits_when_too_much_is_left():
    done, go = [], threading.Event()

    def write(i):
        assert go.wait(10)
        done.append(i)

    with output.Writer(threads=1, waiting=3) as writer:
        for i in range(3):
            writer.submit(write, i)
        assert not done
        late = threading.Thread(target=writer.submit, args=(write, 3))
        late.start()
        late.join(0.2)
        assert late.is_alive(), "three wait already"
        go.set()
        late.join(10)
    assert done == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [1, 5])
def test_what_cannot_be_written_is_not_passed_over(count):
    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), output.Writer(1, 2) as writer:
        for _ in range(count):
            writer.submit(fail)


def test_running_mean_iou_is_that_of_the_summary():
    random = np.random.default_rng(4)
    pool = zero_counts()
    assert np.isnan(scores.mean_iou(pool))
    for _ in range(3):
        prediction, label = random.choice([0, 1, 4, 6], (2, 30, 40)).astype(np.uint8)
        pool = add_counts(pool, image_counts(prediction, label))
        assert scores.mean_iou(pool) == pytest.approx(scores.summarize(pool)["mIoU"])


def test_a_bar_in_a_terminal_shows_the_running_score(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(progress, "LINE_EVERY", 0)
    with progress.EvaluationProgress(3) as bar:
        bar.update(2, 0.5)
        bar.update(1, 0.256)
        bar._bar.refresh()
    assert "3/3" in screen.getvalue() and "mIoU 25.60" in screen.getvalue()
    assert not capsys.readouterr().out


def test_lines_now_and_then_elsewhere(monkeypatch, capsys):
    clock = iter([0, 30, 60, 80, 130])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.EvaluationProgress(8) as lines:
        for _ in range(4):
            lines.update(2, 0.5)
    printed = capsys.readouterr()
    assert not printed.err
    assert printed.out.splitlines() == [
        "evaluated 4 of 8 photographs, 15.00 s each; mIoU 50.00 so far",
        "evaluated 8 of 8 photographs, 16.25 s each; mIoU 50.00 so far",
    ]
