"""Times of the network and of two of its deformable convolutions; see `benchmark_gpu.py`."""

import functools
import importlib.metadata
import platform
from typing import Any

import benchmark_layers
import benchmark_run
import jax
from benchmark_gpu_stage import Measurement
from benchmark_run import MODELS, compile_program, median, time_program

from massformer_jax import sharding

RUNS, SECONDS = 20, 1.5  # so many runs of a program, fewer if they would take longer together

R50, R18_LITE = "massformer_r50", "massformer_r18_lite"
REMAT = "train_remat"  # a training step that computes again what it does not keep
# task, model, size, batch, dtype; the most important first
NETWORKS = {
    "main": (
        ("inference", R50, (3072, 4096), 1, "bfloat16"),
        ("inference", R50, (1024, 1024), 1, "bfloat16"),
        ("train", R50, (1024, 1024), 8, "bfloat16"),
        ("inference", R18_LITE, (3072, 4096), 1, "bfloat16"),
    ),
    "more": (
        (REMAT, R50, (1024, 1024), 8, "bfloat16"),
        ("inference", R50, (3072, 4096), 1, "float32"),
        ("inference", R50, (3072, 4096), 1, "tf32"),
        ("inference", R50, (8192, 8192), 1, "bfloat16"),
    ),
}
# Deformable convolutions of R50 at 3072x4096: name, rows and columns of the map.
LAYERS = (("EGF, 3x3", (1536, 2048)), ("RFB 7x7", (384, 512)))

TINY = "tiny"
SMALL_NETWORKS = {
    "main": (
        ("inference", TINY, (256, 256), 1, "bfloat16"),
        ("train", TINY, (256, 256), 2, "float32"),
    ),
    "more": (("inference", TINY, (256, 512), 1, "tf32"),),
}
SMALL_LAYERS = (("EGF, 3x3", (24, 32)),)
MODELS[TINY] = {
    **{"encoder_depth": 18, "decoder_width": 8, "ffn_width": 16},
    **{"layers": 1, "queries": 8, "classes": 7},
}


def measurements(stage: str, small: bool) -> list[Measurement]:
    """Those of a stage, the most important first."""
    found = []
    for task, model, size, batch, dtype in (SMALL_NETWORKS if small else NETWORKS)[stage]:
        short = model.removeprefix("massformer_")
        name = f"{task}_{short}_{size[0]}x{size[1]}_{dtype}"
        prepare = functools.partial(_network, task, model, size, batch, dtype)
        found.append(Measurement(name, prepare))
    if stage == "main":
        for dtype in ("bfloat16", "float32"):
            for layer, size in SMALL_LAYERS if small else LAYERS:
                name = f"deform_conv_{layer.split()[-1]}_{size[0]}x{size[1]}_{dtype}"
                prepare = functools.partial(_layer, layer, size, dtype)
                found.append(Measurement(name, prepare))
    return found


def conditions() -> dict[str, Any]:
    """The device and the versions of what computes."""
    libraries = ("jax", "jaxlib", "flax", "numpy")
    return {
        "device": benchmark_run.describe(jax.devices()[:1]),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in libraries},
        },
    }


def _network(task, model, size, batch, dtype):
    mesh = sharding.make_mesh(jax.devices()[:1])
    what = MODELS[model], size, batch, dtype, mesh
    trains = task in ("train", REMAT)
    if trains:
        function, arguments = benchmark_run.train(*what, remat=task == REMAT)
    else:
        function, arguments = benchmark_run.inference(*what)
    program = compile_program(function, arguments)

    def run():
        result = _timed(program, arguments, donated=0 if trains else None)
        shape = {"model": model, "size": "{}x{}".format(*size), "batch": batch, "dtype": dtype}
        return {"task": task, **shape, **result, "summary": _summary(result)}

    return run


def _layer(name, size, dtype):
    mesh = sharding.make_mesh(jax.devices()[:1])
    layer = next(x for x in benchmark_layers.layers(MODELS[R50]["decoder_width"]) if x.name == name)
    arguments = [benchmark_layers.layer_arguments(layer, 1, *size, dtype, mesh)]
    programs = {
        part: compile_program(jax.jit(build(dtype)), arguments)
        for part, build in (
            ("forward", benchmark_layers.forward),
            ("gradient", benchmark_layers.gradient),
        )
    }

    def run():
        parts = {part: _timed(program, arguments) for part, program in programs.items()}
        return {
            "task": "deform_conv",
            **{"layer": name, "height": size[0], "width": size[1], "dtype": dtype},
            **{"features_in": layer.features_in, "features_out": layer.features_out},
            **parts,
            "summary": "; ".join(f"{part} {_summary(r)}" for part, r in parts.items()),
        }

    return run


def _timed(program, arguments, donated=None) -> dict[str, Any]:
    """Runs a program; its report with the median and the least of the runs' seconds."""
    times = time_program(program, arguments, runs=RUNS, within=SECONDS, donated=donated)
    fastest = float(f"{min(times):.4g}")
    return {"seconds": median(times), "fastest": fastest, "runs": len(times), **program.report}


def _summary(result: dict[str, Any]) -> str:
    median_, fastest = (f"{1e3 * result[key]:.2f}" for key in ("seconds", "fastest"))
    return (
        f"{median_} ms (fastest of {result['runs']} {fastest}), "
        f"{result['temp_bytes'] / 1e9:.2f} GB, compiled in {result['compile_seconds']:.0f} s"
    )
