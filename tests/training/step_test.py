"""Training from the command line: what it leaves behind, interruptions, other devices."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from massformer_jax import main
from massformer_jax.evaluation.label_map_files import evaluate_files
from massformer_jax.models.weights import load_weights
from massformer_jax.training import checkpoint
from tests.helpers import tiny_config
from tests.helpers.compiling import UNOPTIMIZED_FLAG

pytestmark = pytest.mark.slow  # each program takes a minute to compile

CONFIG = pathlib.Path(tiny_config.__file__)
DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir):
    """Runs main in a process of its own; programs are compiled once for this file."""
    cache = tmp_path_factory.mktemp("compiled")

    def start(workdir, *overrides, devices=1, batch=2, wait=True):
        flags = f"{UNOPTIMIZED_FLAG} --xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(cache)}
        command = [sys.executable, "-m", "massformer_jax.main", f"--config={CONFIG}"]
        command += [f"--workdir={workdir}", f"--config.data.data_dir={data_dir}"]
        command += [f"--config.batch_size={batch}", *overrides]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if not wait:
            return process
        out, err = process.communicate()
        return process.returncode, out, err

    return start


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, run):
    """Workdir and output of a run from beginning to end on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    status, out, err = run(workdir)
    assert status == 0, err
    return workdir, err + out


def last_weights(workdir):
    weights = load_weights(workdir / checkpoint.LAST, DEVICE)
    return weights.step, jax.tree.map(np.asarray, (weights.params, weights.batch_stats))


def losses(printed: str) -> list[float]:
    """The total losses of the progress lines."""
    return [
        float(line.split("loss ")[1].split()[0]) for line in printed.splitlines() if "loss " in line
    ]


def test_a_run_leaves_what_it_promises(undisturbed):
    workdir, printed = undisturbed
    assert "step 4/4" in printed and "images/s" in printed and "left" in printed
    assert "3 photographs" in printed
    compiled = "preparing training steps of 2 crops of 256x256 pixels…\n… compiled and kept in "
    assert compiled in printed and "preparing fresh weights…\n" in printed
    assert "preparing the network for up to " in printed
    assert "mesh data 1 x fsdp 1 x spatial 1; 0 parameters split" in printed
    assert "cls_embed/kernel [16, 8] replicated\n" in (workdir / "shardings.txt").read_text()
    summary = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert len(summary["images"]) == 3 and len(summary["IoU"]) == 7
    assert len(list((workdir / "eval").glob("*.png"))) == 1
    assert list((workdir / "scalars").glob("events*"))
    step, last = last_weights(workdir)
    best = load_weights(workdir, DEVICE)
    assert step == best.step == 4
    jax.tree.map(np.testing.assert_array_equal, last, (best.params, best.batch_stats))


def test_a_finished_run_is_not_trained_again(undisturbed, run):
    workdir, _ = undisturbed
    before = last_weights(workdir)
    status, out, err = run(workdir)
    assert status == 0, err
    assert "step 4 of 4" in out and not losses(out)
    jax.tree.map(np.testing.assert_array_equal, last_weights(workdir), before)


def test_killed_and_continued_equals_undisturbed(undisturbed, tmp_path, run):
    """SIGKILL somewhere after the first checkpoint; the rest is bit for bit the same."""
    workdir = tmp_path / "killed"
    process = run(workdir, wait=False)
    while not list((workdir / checkpoint.LAST).glob("[0-9]*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    time.sleep(random.uniform(0, 1))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    status, _, err = run(workdir)
    assert status == 0, err
    step, weights = last_weights(workdir)
    expected_step, expected = last_weights(undisturbed[0])
    assert step == expected_step == 4
    jax.tree.map(np.testing.assert_array_equal, weights, expected)


@pytest.mark.long  # minutes; tests/training/mesh_test.py compares steps of eight and of one
def test_eight_devices_equal_one(tmp_path, run):
    """The same global batches, split eight ways.

    Each run is killed when it has said its last loss: below, eight devices evaluate as one.
    """

    def losses_on(devices):
        settings = {"devices": devices, "batch": 8, "wait": False}
        process = run(tmp_path / str(devices), "--config.checkpoint_every=4", **settings)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "step 4/4" in line:
                break
        process.kill()
        _, err = process.communicate()
        assert lines and "step 4/4" in lines[-1], err
        out = "".join(lines)
        assert f"; {devices} devices" in out
        return losses(out)

    expected, ours = losses_on(1), losses_on(8)
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-4)
    # From then on Adam's first steps, which follow signs, enlarge the last bits of the gradients.
    np.testing.assert_allclose(ours, expected, rtol=5e-3)


def _table(printed: str) -> str:
    """The printed evaluation without its date, and without the folder of its weights."""
    printed = re.sub(r"\d{4}-\d\d-\d\dT\S+", "DATE", printed[printed.index("\nclass ") :])
    return re.sub(r"(?m)^/\S+/(checkpoints|best)/(?=\d+: )", "", printed)


def test_evaluation_alone_gives_the_same_scores(undisturbed, run):
    workdir, printed = undisturbed
    status, out, err = run(workdir, "--mode=eval")
    assert status == 0, err
    assert _table(out) == _table(printed)
    summary = json.loads((workdir / "eval" / "metrics.json").read_text())
    (best,) = (workdir / "best").glob("[0-9]*")
    assert summary["provenance"]["checkpoint"] == str(best)


def test_evaluation_by_another_protocol_writes_its_label_maps(undisturbed, run, release_dir):
    """Windows at two scales; the scores are those of the files."""
    workdir, _ = undisturbed
    settings = ("resolution=native", "window=256", "scales=(0.5,1.0)", "save_predictions=True")
    status, _, err = run(workdir, "--mode=eval", *(f"--config.eval.{x}" for x in settings))
    assert status == 0, err
    summary = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert summary["protocol"]["scales"] == [0.5, 1.0]
    labels = release_dir / "annotations" / "val"
    names, pool = evaluate_files(workdir / "eval" / "predictions", labels)
    assert pool.confusion.sum(0).tolist() == summary["confusion"]
    assert sorted(summary["images"]) == names


def test_evaluation_on_eight_devices_gives_the_same_scores(undisturbed, run):
    """Two photographs at a time, each over four devices."""
    workdir, printed = undisturbed
    status, out, err = run(workdir, "--mode=eval", "--config.mesh.spatial=4", devices=8)
    assert status == 0, err
    assert _table(out) == _table(printed)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    "override", ["--config.architecture.layers=2", "--config.architecture.queries=9"]
)
def test_another_model_is_refused(undisturbed, data_dir, capsys, mode, override):
    workdir, _ = undisturbed
    arguments = [f"--config={CONFIG}", f"--workdir={workdir}", f"--mode={mode}", override]
    arguments += [f"--config.data.data_dir={data_dir}", "--config.batch_size=8"]
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert str(workdir) in error and override.split(".", 1)[1].split("=")[0] in error
