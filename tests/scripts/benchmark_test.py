"""Tests of the benchmark: it measures what is run, and runs where only jax and flax are."""

import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scripts.benchmark.__main__ as command
from massformer_jax.errors import InputError
from massformer_jax.models.build import ARCHITECTURES, abstract_weights, architecture
from massformer_jax.ops import precision
from massformer_jax.parallel import sharding
from scripts import ROOT
from scripts.benchmark import layers, networks, run, table
from scripts.benchmark.values import make_values
from tests.helpers import bare_machine, tiny_config
from tests.helpers.configs import CONFIGS, load

TINY = tiny_config.get_config().architecture.to_dict()


def test_the_recipe_is_that_of_the_configs():
    found = {path.stem: load(path) for path in CONFIGS}
    for name in ARCHITECTURES:
        assert found[name].architecture.to_dict() == architecture(name)
        assert found[name].loss.points == networks.POINTS
    assert command.DTYPES == precision.DTYPES


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_layers_are_those_of_the_network(model):
    leaves = jax.tree_util.tree_leaves_with_path(abstract_weights(architecture(model))[0])
    kernels = sorted(
        leaf.shape
        for path, leaf in leaves
        if jax.tree_util.keystr(path, simple=True, separator="/").endswith("/dcn/kernel")
    )
    found = layers.layers(architecture(model)["decoder_width"])
    assert kernels == sorted((x.taps, x.taps, x.features_in, x.features_out) for x in found)


def test_measure_reports_what_the_compiler_says_and_runs():
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=where)
    calls = []

    def function(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.tanh(x @ x) @ x

    result = run.measure(jax.jit(function), [x], runs=3)
    assert result["flops"] == 2 * 2 * 256**3
    assert result["argument_bytes"] == 4 * 256**2
    assert result["temp_bytes"] >= 4 * 256**2
    assert len(calls) == 1 + 3
    assert result["seconds"] > 0 and result["compile_seconds"] > 0
    compiled = run.measure(jax.jit(function), [x], runs=0)
    assert compiled["seconds"] is None and len(calls) == 4


def test_median_leaves_the_first_run_out(monkeypatch):
    clock = iter([0, 5, 10, 11, 20, 22])  # three runs of 5, 1 and 2 seconds
    monkeypatch.setattr(run.time, "perf_counter", lambda: next(clock))
    times = run.run_seconds(lambda: None, 3)
    assert times == [5, 1, 2]
    assert run.median(times) == 2 and run.median([]) is None


def test_a_donated_argument_is_replaced_by_the_result():
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=where)
    step = jax.jit(lambda state, x: (state + x, x.sum()), donate_argnums=0)
    assert run.measure(step, [state, state], runs=2, donated=0)["seconds"] > 0


@pytest.mark.slow
def test_inference_runs_at_any_size():
    mesh = sharding.make_mesh(jax.devices()[:2])
    function, arguments = networks.inference(TINY, (250, 256), 2, "float32", mesh)
    labels = function(*map(make_values, arguments))
    assert labels.shape == (2, 250, 256) and labels.dtype == jnp.uint8
    assert len(np.unique(labels)) > 1


def test_offsets_are_made_up_and_every_image_has_every_class():
    mesh = sharding.make_mesh(jax.devices()[:2])
    _, (state, batch) = networks.train(TINY, (512, 512), 2, "float32", mesh)
    biases = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(make_values(state.params))
        if "dcn_offset" in jax.tree_util.keystr(path) and "bias" in jax.tree_util.keystr(path)
    ]
    assert len(biases) == 8
    assert all(1 < np.std(bias) < 3 for bias in biases)
    labels = make_values(batch)["label"]
    assert all(len(np.unique(label)) == 7 for label in np.asarray(labels))


def test_devices_share_the_batch():
    assert len(networks.devices_for(None, 1)) == 1
    assert len(networks.devices_for(None, 6)) == 6
    assert len(networks.devices_for(None, 12)) == 6
    assert len(networks.devices_for(None, 16)) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "train", "--size", "300x256"], "multiples of 256"),
        (["--task", "train", "--batch", "1"], "use 2 or more"),
        (["--task", "inference", "--size", "1024"], "is not HxW"),
        (["--task", "inference", "--runs", "0"], "not a positive number"),
        (["--task", "inference", "--model", "r50"], "use one of massformer_r50, massformer_r18_"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last and message in last


def test_a_topology_needs_the_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install libtpu"):
        networks.devices_for("v5e:2x2", 1)


def test_too_little_memory_is_one_line():
    class Function:
        def __init__(self, message):
            self.message = message

        def trace(self):
            return self

        lower = trace

        def compile(self):
            raise jax.errors.JaxRuntimeError(self.message)

    with pytest.raises(InputError, match=r"too little memory: RESOURCE_EXHAUSTED: 25 GB$"):
        run.measure(Function("RESOURCE_EXHAUSTED: 25 GB\nmore"), [], runs=0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        run.measure(Function("INTERNAL: a bug"), [], runs=0)


def run_bare(folder, *arguments):
    """Runs the command as if the machine had only jax, flax and optax."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.benchmark", *arguments],
        cwd=ROOT,
        env=bare_machine.environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow  # compiles in a process of its own
def test_json_on_a_bare_machine(tmp_path):
    arguments = "--task inference --model massformer_r18_lite --size 256x256 --runs 1 --json"
    done = run_bare(tmp_path, *arguments.split())
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["seconds"] > 0
    assert record["flops"] > 1e10
    assert record["argument_bytes"] > 4 * 15_000_000
    assert record["temp_bytes"] > 0
    assert record["versions"]["jax"] == jax.__version__
    assert record["device"].endswith(" cores") or record["device"].endswith(" core")
    assert set(record) == {
        *("seconds", "temp_bytes", "argument_bytes", "flops", "device", "versions"),
        *("task", "model", "size", "batch", "dtype", "topology", "runs", "compile_seconds", "date"),
    }


def test_the_page_shows_the_results():
    tables = table.tables(table.load())
    page = table.PAGE.read_text()
    assert tables in page, "run python -m scripts.benchmark.table"


def test_tables():
    part = {"seconds": 0.0125, "temp_bytes": 24_000_000}
    record = {
        "task": "inference",
        "model": "massformer_r50",
        "size": "3072x4096",
        "batch": 1,
        "dtype": "bfloat16",
        "topology": "v5e:1x1",
        "seconds": None,
        "temp_bytes": 3_612_360_704,
        "flops": 4_666_735_149_056,
        "device": "TPU v5 lite, 1 device",
        "versions": {"jax": "0.10.2", "libtpu": "0.0.52"},
        "date": "2026-11-22",
    }
    layer = {
        "layer": "LSE, 3x3",
        "height": 256,
        "width": 512,
        "features_in": 67,
        "features_out": 64,
        "ours": {"forward": part, "gradient": {**part, "seconds": 1.5}},
        "pytorch": {"forward": part, "gradient": part, "implementation": "torchvision on cpu"},
    }
    compared = {**record, "task": "deform_conv", "topology": None, "layers": [layer]}
    text = table.tables([record, compared])
    conditions = "v5e:1x1 (TPU v5 lite, 1 device), compiled only, libtpu 0.0.52; jax 0.10.2"
    assert (
        "| inference | r50 | 3072x4096 | 1 | bfloat16 | not run | 3.61 GB | 4,667 | "
        f"{conditions}, 2026-11-22 |\n"
    ) in text
    assert "## Deformable convolutions of `massformer_r50` at 3072x4096" in text
    assert "TPU v5 lite, 1 device; jax 0.10.2, 2026-11-22. PyTorch: torchvision on cpu." in text
    cells = "| LSE, 3x3 | 256x512 | 67 → 64 | 12.5 ms | 12.5 ms | 1.50 s | 12.5 ms | 0.02 GB |\n"
    assert cells in text


def test_a_training_step_is_compiled_only(monkeypatch, capsys):
    """benchmark_rehearsal_test.py compiles one, and runs it, where only jax is."""
    asked = []

    def measure_network(task, architecture, size, batch, dtype, devices, *, runs):
        asked.append((task, size, batch, runs))
        report = {"compile_seconds": 1.5, "temp_bytes": 1, "argument_bytes": 1, "flops": 1}
        return {"seconds": None, **report}

    monkeypatch.setattr(networks, "measure_network", measure_network)
    command.main(["--task", "train", "--size", "256x512", "--compile-only"])
    assert asked == [("train", (256, 512), 2, 0)]
    assert "not run; compiled in 1.5 s" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_pytorch_computes_the_same_layers(dtype, tolerance):
    pytest.importorskip("torch")
    records = layers.measure_layers(
        architecture("massformer_r18_lite"),
        (256, 256),
        1,
        dtype,
        jax.devices()[:1],
        runs=1,
        compare=True,
    )
    assert len(records) == 8
    for record in records:
        assert 0 < record["pytorch"]["difference"] < tolerance
        assert record["pytorch"]["gradient"]["seconds"] > 0
    assert layers.total(records)["seconds"] > 0
