"""Tests of what the benchmarks of accelerators share: nothing stops them, and errors are found."""

import json
import pathlib
import subprocess
import sys
import threading
import time

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.training.state import TrainState
from scripts.benchmark.device import checks, command, times
from scripts.benchmark.device import stage as stage_module
from scripts.benchmark.device.measurement import Measurement
from scripts.benchmark.device.read_png import read_png
from scripts.benchmark.device.stage import Stage
from scripts.benchmark.device.table import device_tables
from scripts.benchmark.gpu.__main__ import BENCHMARK as GPU
from scripts.benchmark.tpu import rows
from scripts.benchmark.tpu.__main__ import BENCHMARK as TPU
from scripts.benchmark.tpu.counted import counted
from scripts.benchmark.tpu.rows import Gather, Scatter, Sort
from scripts.pods.table import load
from tests.helpers import release


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

    stage = Stage(tmp_path, "gpu", time.time() + 60, {"device": "none"}, at_once=2)
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
        Stage(tmp_path, "gpu", time.time() + 2.5, {}, at_once=2).together([endless, quick])
    finally:
        ended.set()
    assert "skipped endless" in capsys.readouterr().out
    assert read(tmp_path)["gpu_quick.json"]["compiling_beside"]


@pytest.mark.parametrize("way", ["together", "one_by_one"])
def test_an_error_stops_no_other(tmp_path, capsys, way):
    def fails():
        raise RuntimeError("RESOURCE_EXHAUSTED: 25 GB\nand more")

    def ends_late():
        raise subprocess.TimeoutExpired("first_mask", 1.0)

    measurements = [
        Measurement("compiling", fails),
        Measurement("running", lambda: fails),
        Measurement("late", lambda: ends_late),
        Measurement("good", lambda: lambda: {"seconds": 1.0}),
        Measurement("wrong", lambda: lambda: {"equal": 0.5, "error": "half of it"}),
    ]
    getattr(Stage(tmp_path, "gpu", time.time() + 60, {}, at_once=2), way)(measurements)
    found = read(tmp_path)
    for name in ("compiling", "running"):
        assert found[f"gpu_{name}.json"]["error"] == "RuntimeError: RESOURCE_EXHAUSTED: 25 GB"
    assert found["gpu_good.json"]["seconds"] == 1
    assert found["gpu_wrong.json"]["equal"] == 0.5
    said = capsys.readouterr().out
    assert said.count("failed ") == 3 and "failed wrong: half of it" in said
    assert "skipped late: it did not end in time" in said and "gpu_late.json" not in found


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
    fake = GPU._replace(command=(sys.executable, str(tmp_path / "stage.py")))
    monkeypatch.setattr(command, "GRACE", 0.5)
    output = tmp_path / "results"
    begin = time.time()
    assert command.run(fake, ["--budget", "6", "--output", str(output)]) == 1
    assert time.time() - begin < 15
    log = (output / "gpu_run.txt").read_text()
    assert log == capsys.readouterr().out
    assert "main: its process died (SIGABRT); the rest one by one" in log
    assert "failed c: the process died (SIGABRT)" in log
    assert [log.count(f"done {name}") for name in "abde"] == [1, 1, 1, 1]
    assert "more: ended, its time was over" in log
    assert "4 measured, 1 failed, 1 left out" in log
    assert "a larger --budget than 6 seconds leaves out less" in log


@pytest.mark.parametrize("benchmark", [GPU, TPU], ids=lambda benchmark: benchmark.name)
def test_without_the_accelerator_it_says_so(benchmark, tmp_path, capfd):
    assert command.run(benchmark, ["--output", str(tmp_path)]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: jax ") and f" sees no {benchmark.name.upper()}, only " in error
    assert not read(tmp_path)


def test_an_error_of_one_result_of_a_layer_is_found(monkeypatch):
    """Each result of the layer in turn is not a number, or off by more than rounding."""
    names = ("forward", "x", "offsets", "modulation", "kernel")

    def check(broken, change):
        def gradient(dtype):
            def run(a):
                results = [a["x"], *(a[name] for name in names[1:])]
                if dtype == "bfloat16" and broken:
                    place = names.index(broken)
                    results[place] = results[place].at[(0,) * 4].add(change)
                return results[0], tuple(results[1:])

            return run

        monkeypatch.setattr(checks, "gradient", gradient)
        case = checks.Case("EGF, 3x3", (8, 8), images=2, rows=4, first_row=2)
        return checks.deform_conv("check", "bfloat16", [case]).prepare()()

    assert "error" not in check(None, 0)
    for name in names:
        result = check(name, jnp.nan)
        (errors,) = result["errors"].values()
        assert "error" in result
        assert [of for of, error in errors.items() if not error < 1] == [name]
        # The largest of the offsets is beyond what an int32 can hold.
        assert "error" in check(name, 1e9)


def test_inexact_products_are_found(monkeypatch):
    exact = checks.products().prepare()()
    assert "error" not in exact
    assert exact["errors"]["convolution"]["float32"] < 1e-6

    convolve = jax.lax.conv_general_dilated

    def inexact(image, *arguments, **named):
        return convolve(jax.lax.reduce_precision(image, 8, 7), *arguments, **named)

    monkeypatch.setattr(jax.lax, "conv_general_dilated", inexact)
    error = checks.products().prepare()()["error"]
    assert "convolution under float32: 0.00" in error and "matrices" not in error


def test_a_step_that_is_not_finite_is_found(monkeypatch):
    """Its loss may be finite: then its gradient was not, and the step counts it as skipped."""

    def train(*_, **__):
        def step(state, batch):
            return state._replace(skipped=state.skipped + 1), {"loss": jnp.ones(())}

        where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        number = jax.ShapeDtypeStruct((), jnp.int32, sharding=where)
        state = TrainState(number, {}, {}, {}, number)
        return jax.jit(step), (state, number)

    monkeypatch.setattr(times, "train", train)
    (measurement,) = times.networks([("train", "tiny", (256, 256), 2, "float32")])
    result = measurement.prepare()()
    assert result["error"] == f"{result['runs'] + 1} steps were not finite"


@pytest.mark.parametrize(
    "what", [Gather("float32", 3, 50), Scatter(3, 50, 40), Sort(40)], ids=lambda what: what.name
)
def test_rows_are_gathered_added_and_sorted(what):
    """The places of each turn are other ones, and only the turns that are asked for are done."""
    turns = 3
    given = [np.array(a) for a in what.arguments(np.random.default_rng(4))]
    places = given[-1][:turns]
    if isinstance(what, Gather):
        given[0] = np.random.default_rng(5).standard_normal((50, 3), np.float32)
        expected = given[0][places[:, 0]].sum(0)
    elif isinstance(what, Scatter):
        expected = np.zeros((50, 3), np.float32)
        for own in places:
            np.add.at(expected, own, given[0])
    else:
        expected = np.argsort(places, 1, kind="stable")[:, 0].sum()
    compiled = rows.program(what, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    np.testing.assert_allclose(compiled(np.int32(turns), *given), expected, rtol=1e-5)


def test_what_was_counted_is_found_for_the_same_device_alone():
    record = load()["evaluate_v5e_1"]
    same = {key: record[key] for key in ("model", "size", "batch", "dtype")} | {"task": "inference"}
    found = counted(same, record["device"])
    assert 0.1 < found.core <= found.apart
    assert found.core < counted(same | {"dtype": "float32"}, record["device"]).core
    assert counted(same, "TPU v6 lite, 1 device") is None
    assert counted(same | {"batch": 3}, record["device"]) is None


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
    text = device_tables([network, agreement, check, broken], [cpu])
    where = "H100; jax 0.11.2, 2026-11-26"
    assert (
        "| inference | r50 | 3072x4096 | 1 | bfloat16 | 58.1 ms | 57 ms | 27.98 s | 2.50 GB | "
        f"0.20 GB | 31 s | {where} |\n"
    ) in text
    assert f"| tf32 | 99.7500 % |  | {where} |\n" in text
    assert f"| float32 | 5.0e-01 (LSE, 3x3, x), too large | {where} |\n" in text
    assert "- train_r50: the process died\n" in text


def test_tables_of_a_tpu():
    base = {"device": "TPU v5 lite, 1 device", "versions": {"jax": "0.11.2"}, "date": "2026-11-26"}
    base["measurement"] = "x"
    network = {**base, "task": "train", "model": "massformer_r50", "size": "1024x1024"}
    network |= {"batch": 2, "dtype": "bfloat16", "seconds": 0.9, "fastest": 0.8}
    network |= {"temp_bytes": 2.5e9, "argument_bytes": 2e8, "compile_seconds": 31.4}
    network["counted"] = {"floor": 0.5, "with_waits": 0.7}
    layer = {**base, "task": "deform_conv", "layer": "LSE, 3x3", "height": 1536, "width": 2048}
    layer |= {"rows": 128, "features_in": 67, "features_out": 64, "dtype": "bfloat16"}
    layer |= {"forward": {"seconds": 0.02}, "gradient": {"seconds": 0.2, "temp_bytes": 1e9}}
    row = {**base, "task": "rows", "what": "sort_of_9", "count": 9, "nanoseconds_per_row": 0.5}
    check = {**base, "task": "check_products", "dtype": "float32"}
    check["errors"] = {"matrices": {"float32": 1e-7, "bfloat16": 0.1}}
    text = device_tables([network, layer, row | {"bundles": 0.65}, check], [])
    assert "## On a TPU\n" in text and "On a GPU" not in text
    where = "TPU v5 lite, 1 device; jax 0.11.2, 2026-11-26"
    cells = "900 ms | 800 ms |  | 500 ms | 2.50 GB | 0.20 GB | 31 s"
    assert f"| train | r50 | 1024x1024 | 2 | bfloat16 | {cells} | {where} |\n" in text
    assert "| LSE, 3x3, 128 rows | 1536x2048 | 67 → 64 | ours |" in text
    assert f"| sort_of_9 | 9 | 0.5 ns | 0.65 | {where} |\n" in text
    assert f"| float32 | 1.0e-07 (matrices) | {where} |\n" in text
