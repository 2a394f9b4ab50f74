"""The whole benchmarks of a GPU and of a TPU, tiny and on a CPU, where only jax is installed.

What both share is run once, in one or the other of them: a program of the network takes long to
compile.
"""

import json
import subprocess
import sys

import pytest

from scripts import ROOT
from scripts.benchmark.device.table import device_tables
from tests.helpers import bare_machine

pytestmark = pytest.mark.slow  # compiles the network several times

# Tracing a training step runs all of its Python; what it compiles to is the same everywhere.
TRACE = """
from scripts.bare_machine import replace_jaxtyping
replace_jaxtyping()
import jax
from massformer_jax.parallel import sharding
from scripts.benchmark.device.models import TINY, architecture
from scripts.benchmark.networks import train
mesh = sharding.make_mesh(jax.devices()[:1])
step, arguments = train(architecture(TINY), (256, 256), 2, "bfloat16", mesh, remat=True)
print(step.trace(*arguments).out_info[1]["loss"])
"""


def run_bare(folder, *arguments):
    """Returns what a Python without the other packages prints."""
    environment = bare_machine.environment(folder)
    # Forward passes are as right, and compile in half of the time. Not so training steps: the
    # gradient of a maximum may be computed from two roundings of the same number.
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rehearse(name, tmp_path):
    """Runs a benchmark; returns its results by the names of their measurements."""
    output = tmp_path / "results"
    arguments = ("--small", "--budget", "1500", "--output", str(output))
    run_bare(tmp_path, "-m", f"scripts.benchmark.{name}", *arguments)
    records = [json.loads(path.read_text()) for path in output.glob(f"{name}_*.json")]
    assert device_tables(records, [])
    return {record["measurement"]: record for record in records}


def test_a_training_step(tmp_path):
    assert "shape=(), dtype=float32" in run_bare(tmp_path, "-c", TRACE)


def test_a_gpu(tmp_path):
    found = rehearse("gpu", tmp_path)
    assert {record["task"] for record in found.values()} == {
        *("deform_conv", "agreement", "check_deform_conv", "check_products", "first_mask")
    }
    assert found["agreement_r18_lite_float32"]["equal"] > 0.9999
    cold, warm = (found[f"first_mask_{name}"] for name in ("cold", "warm"))
    assert warm["warm"] and not cold["warm"]
    part = "compiling or reading"
    assert warm["parts"][part] < cold["parts"][part] / 2


def test_a_tpu(tmp_path):
    found = rehearse("tpu", tmp_path)
    assert {record["task"] for record in found.values()} == {
        *("inference", "deform_conv", "check_deform_conv", "rows", "first_mask")
    }
    assert sum(record["task"] == "rows" for record in found.values()) == 2
    # The stage before compiled what the first mask needs.
    assert found["first_mask"]["warm"]
    compiled = found["inference_tiny_256x256_float32"]["compile_seconds"]
    assert found["first_mask"]["parts"]["compiling or reading"] < compiled / 2
