"""Times of the network and of two of its deformable convolutions, on a GPU."""

import functools
from typing import Any

import jax

from massformer_jax.parallel import sharding
from scripts.benchmark.gpu.measurement import Measurement
from scripts.benchmark.gpu.plan import (
    LAYERS,
    NETWORKS,
    R50,
    REMAT,
    RUNS,
    SECONDS,
    SMALL_LAYERS,
    SMALL_NETWORKS,
    architecture,
)
from scripts.benchmark.layers import forward, gradient, layer_arguments, layer_named
from scripts.benchmark.networks import inference, train
from scripts.benchmark.run import compile_program, summary, time_program


def measurements(stage: str, small: bool) -> list[Measurement]:
    """Returns the measurements of a stage, the most important first."""
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


def _network(task, model, size, batch, dtype):
    mesh = sharding.make_mesh(jax.devices()[:1])
    what = architecture(model), size, batch, dtype, mesh
    trains = task in ("train", REMAT)
    function, arguments = train(*what, remat=task == REMAT) if trains else inference(*what)
    program = compile_program(function, arguments)

    def run():
        result = _timed(program, arguments, donated=0 if trains else None)
        shape = {"model": model, "size": "{}x{}".format(*size), "batch": batch, "dtype": dtype}
        return {"task": task, **shape, **result, "summary": _summary(result)}

    return run


def _layer(name, size, dtype):
    mesh = sharding.make_mesh(jax.devices()[:1])
    layer = layer_named(name, architecture(R50)["decoder_width"])
    arguments = [layer_arguments(layer, 1, *size, dtype, mesh)]
    programs = {
        part: compile_program(jax.jit(build(dtype)), arguments)
        for part, build in (("forward", forward), ("gradient", gradient))
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
    """Runs a program; returns its report, and the median and the smallest time in seconds."""
    times = time_program(program, arguments, runs=RUNS, within=SECONDS, donated=donated)
    return {**summary(times), **program.report}


def _summary(result: dict[str, Any]) -> str:
    median, fastest = (f"{1e3 * result[key]:.2f}" for key in ("seconds", "fastest"))
    return (
        f"{median} ms (fastest of {result['runs']} {fastest}), "
        f"{result['temp_bytes'] / 1e9:.2f} GB, compiled in {result['compile_seconds']:.0f} s"
    )
