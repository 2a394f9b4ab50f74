"""Tests of the benchmark for GPUs: nothing stops it, and it runs where only jax is."""

import json
import pathlib
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

import scripts.benchmark.gpu.__main__ as command
from scripts import ROOT
from scripts.benchmark.gpu import stage as stage_module
from scripts.benchmark.gpu.measurement import Measurement
from scripts.benchmark.gpu.read_png import read_png
from scripts.benchmark.gpu.stage import Stage
from scripts.benchmark.gpu.table import gpu_tables
from tests.helpers import bare_machine, release


def test_pictures_are_read_without_opencv():
    paths = sorted(release.PARITY.rglob("*.png"))
    assert len(paths) > 20
    for path in paths:
        expected = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if expected.ndim == 3:
            expected = expected[..., ::-1]
        np.testing.assert_array_equal(read_png(path), expected)


def read(folder: pathlib.Path) -> dict[str, dict]:
    """Returns all results by file name; every file must be whole."""
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_nothing_is_timed_while_something_compiles(tmp_path, capsys):
    events = []

    def measurement(name, seconds):
        def prepare():
            time.sleep(seconds)
            events.append(f"compiled {name}")
            return lambda: events.append(f"ran {name}") or {"seconds": 1.0, "summary": "1 s"}

        return Measurement(name, prepare)

    stage = Stage(tmp_path, "gpu", time.time() + 60, {"device": "none"})
    stage.together([measurement("quick", 0), measurement("slow", 0.5), measurement("last", 0)])
    assert events == [
        *("compiled quick", "compiled slow", "ran quick", "ran slow"),
        *("compiled last", "ran last"),
    ]
    found = read(tmp_path)
    assert set(found) == {"gpu_quick.json", "gpu_slow.json", "gpu_last.json"}
    assert found["gpu_quick.json"]["device"] == "none"
    assert not any("compiling_beside" in record for record in found.values())
    assert "done quick: 1 s" in capsys.readouterr().out


def test_what_does_not_compile_in_time_is_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stage_module, "TIMINGS", 1)
    ended = threading.Event()
    endless = Measurement("endless", lambda: ended.wait() and None)
    quick = Measurement("quick", lambda: lambda: {"seconds": 1.0})
    try:
        Stage(tmp_path, "gpu", time.time() + 2.5, {}).together([endless, quick])
    finally:
        ended.set()
    assert "skipped endless" in capsys.readouterr().out
    assert read(tmp_path)["gpu_quick.json"]["compiling_beside"]


@pytest.mark.parametrize("way", ["together", "one_by_one"])
def test_an_error_stops_no_other(tmp_path, capsys, way):
    def fails():
        raise RuntimeError("RESOURCE_EXHAUSTED: 25 GB\nand more")

    measurements = [
        Measurement("compiling", fails),
        Measurement("running", lambda: fails),
        Measurement("good", lambda: lambda: {"seconds": 1.0}),
        Measurement("wrong", lambda: lambda: {"equal": 0.5, "error": "half of it"}),
    ]
    getattr(Stage(tmp_path, "gpu", time.time() + 60, {}), way)(measurements)
    found = read(tmp_path)
    for name in ("compiling", "running"):
        assert found[f"gpu_{name}.json"]["error"] == "RuntimeError: RESOURCE_EXHAUSTED: 25 GB"
    assert found["gpu_good.json"]["seconds"] == 1
    assert found["gpu_wrong.json"]["equal"] == 0.5
    said = capsys.readouterr().out
    assert said.count("failed ") == 3 and "failed wrong: half of it" in said


# Stands for a stage's process: dies as XLA's compiler does, or never ends.
FAKE_STAGE = """
import os, sys, time
stage, serial = sys.argv[1], "--serial" in sys.argv
without = sys.argv[sys.argv.index("--without") + 1].split(",")
if stage == "main":
    if "a" not in without:
        print("done a: 1 s", flush=True)
    for name in "bcd":
        if name not in without:
            if serial:
                print("begin", name, flush=True)
            if name == "c":
                os.abort()
            if serial:
                print(f"done {name}", flush=True)
if stage == "more":
    print("done e: 1 s", flush=True)
    time.sleep(60)
"""


def test_a_process_that_dies_and_one_that_does_not_end(tmp_path, monkeypatch, capsys):
    (tmp_path / "stage.py").write_text(FAKE_STAGE)
    monkeypatch.setattr(command, "STAGE_COMMAND", (sys.executable, str(tmp_path / "stage.py")))
    monkeypatch.setattr(command, "GRACE", 0.5)
    output = tmp_path / "results"
    begin = time.time()
    assert command.main(["--budget", "6", "--output", str(output)]) == 1
    assert time.time() - begin < 15
    log = (output / "gpu_run.txt").read_text()
    assert log == capsys.readouterr().out
    assert "main: its process died (SIGABRT); the rest one by one" in log
    assert "failed c: the process died (SIGABRT)" in log
    assert [log.count(f"done {name}") for name in "abde"] == [1, 1, 1, 1]
    assert "more: ended, its time was over" in log
    assert "4 measured, 1 failed, 1 left out" in log


def test_without_a_gpu_it_says_so(tmp_path, capfd):
    assert command.main(["--output", str(tmp_path)]) == 2
    assert capfd.readouterr().err.startswith("error: jax ")
    assert not read(tmp_path)


def test_tables():
    base = {"device": "H100", "versions": {"jax": "0.11.2"}, "date": "2026-11-26"}
    base["measurement"] = "x"
    network = {**base, "task": "inference", "model": "massformer_r50", "size": "3072x4096"}
    network |= {"batch": 1, "dtype": "bfloat16", "seconds": 0.0581, "fastest": 0.057}
    network |= {"temp_bytes": 2.5e9, "argument_bytes": 2e8, "compile_seconds": 31.4}
    cpu = {**network, "device": "AMD EPYC, 2 cores", "seconds": 27.98}
    agreement = {**base, "task": "agreement", "model": "massformer_r50", "dtype": "tf32"}
    agreement["equal"] = 0.9975
    check = {**base, "task": "check_deform_conv", "dtype": "float32", "error": "too much"}
    check["errors"] = {"LSE, 3x3": {"forward": 1e-6, "x": 0.5}}
    broken = {**base, "measurement": "train_r50", "error": "the process died"}
    text = gpu_tables([network, agreement, check, broken], [cpu])
    where = "H100; jax 0.11.2, 2026-11-26"
    assert (
        "| inference | r50 | 3072x4096 | 1 | bfloat16 | 58.1 ms | 57 ms | 27.98 s | 2.50 GB | "
        f"0.20 GB | 31 s | {where} |\n"
    ) in text
    assert f"| tf32 | 99.7500 % |  | {where} |\n" in text
    assert f"| float32 | 5.0e-01 (LSE, 3x3, x), too large | {where} |\n" in text
    assert "- train_r50: the process died\n" in text


@pytest.mark.slow
def test_everything_on_a_bare_machine(tmp_path):
    """The whole command runs on a CPU without PyTorch, tiny, with each kind of measurement once."""
    output = tmp_path / "results"
    arguments = ["--small", "--budget", "1500", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmark.gpu", *arguments],
        cwd=ROOT,
        env=bare_machine.environment(tmp_path),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = read(output)
    tasks = {record["task"] for record in found.values()}
    assert tasks == {
        *("inference", "train", "deform_conv", "agreement", "check_deform_conv", "first_mask")
    }
    assert found["gpu_agreement_r18_lite_float32.json"]["equal"] > 0.9999
    cold, warm = (found[f"gpu_first_mask_{name}.json"] for name in ("cold", "warm"))
    part = "compiling or reading"
    assert warm["parts"][part] < cold["parts"][part] / 2
    assert gpu_tables(list(found.values()), [])
