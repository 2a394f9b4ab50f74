"""Times of the network and of single deformable convolutions, on an accelerator."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from massformer_jax.parallel import sharding
from scripts.benchmark.device.measurement import Measurement
from scripts.benchmark.device.models import R50, architecture
from scripts.benchmark.layers import forward, gradient, layer_arguments, layer_named
from scripts.benchmark.networks import inference, train
from scripts.benchmark.run import Program, compile_program, summary, time_program

RUNS, SECONDS = 20, 1.5  # a program runs so often, or less often if this would take longer
REMAT = "train_remat"  # a training step that keeps less and computes it again

# Task, model, rows and columns, batch, and dtype.
Network = tuple[str, str, tuple[int, int], int, str]


def networks(which: Iterable[Network]) -> list[Measurement]:
    """Returns measurements of networks, in their order."""
    found = []
    for task, model, size, batch, dtype in which:
        short = model.removeprefix("massformer_")
        name = f"{task}_{short}_{size[0]}x{size[1]}_{dtype}"
        prepare = functools.partial(_network, task, model, size, batch, dtype)
        found.append(Measurement(name, prepare))
    return found


def layer(name: str, size: tuple[int, int], dtype: str, rows: int | None = None) -> Measurement:
    """Returns the measurement of one of the deformable convolutions of R50.

    Args:
        name: of the layer, see `scripts.benchmark.layers`.
        size: rows and columns of its input.
        dtype: in which it computes.
        rows: the number of rows of its output, if that is a strip at the top.
    """
    short = f"{name.split()[-1]}_{size[0]}x{size[1]}_{dtype}"
    short = short if rows is None else f"{short}_{rows}_rows"
    return Measurement(
        f"deform_conv_{short}", functools.partial(_layer, name, size, dtype, rows or size[0])
    )


def _network(task, model, size, batch, dtype):
    mesh = sharding.make_mesh(jax.devices()[:1])
    what = architecture(model), size, batch, dtype, mesh
    trains = task in ("train", REMAT)
    function, arguments = train(*what, remat=task == REMAT) if trains else inference(*what)
    program = compile_program(function, arguments)

    def run():
        result, last = _timed(program, arguments, donated=0 if trains else None)
        shape = {"model": model, "size": "{}x{}".format(*size), "batch": batch, "dtype": dtype}
        result = {"task": task, **shape, **result, "summary": _summary(result)}
        if trains:
            state, scalars = last
            result |= {"loss": float(scalars["loss"]), "steps": int(state.step)}
            # A step whose loss or gradient is not finite is not applied.
            if not (np.isfinite(result["loss"]) and state.skipped == 0):
                result["error"] = f"{int(state.skipped)} steps were not finite"
        return result

    return run


def _layer(name, size, dtype, rows):
    mesh = sharding.make_mesh(jax.devices()[:1])
    layer = layer_named(name, architecture(R50)["decoder_width"])
    arguments = [layer_arguments(layer, 1, *size, dtype, mesh, rows=rows)]
    programs = {
        part: compile_program(jax.jit(build(dtype)), arguments)
        for part, build in (("forward", forward), ("gradient", gradient))
    }

    def run():
        parts = {part: _timed(program, arguments)[0] for part, program in programs.items()}
        return {
            "task": "deform_conv",
            **{"layer": name, "height": size[0], "width": size[1], "rows": rows, "dtype": dtype},
            **{"features_in": layer.features_in, "features_out": layer.features_out},
            **parts,
            "summary": "; ".join(f"{part} {_summary(r)}" for part, r in parts.items()),
        }

    return run


def _timed(
    program: Program, arguments: list[Any], donated: int | None = None
) -> tuple[dict[str, Any], Any]:
    """Runs a program; returns its report with times in seconds, and the last result."""
    times, last = time_program(program, arguments, runs=RUNS, within=SECONDS, donated=donated)
    return {**summary(times), **program.report}, last


def _summary(result: dict[str, Any]) -> str:
    median, fastest = (f"{1e3 * result[key]:.2f}" for key in ("seconds", "fastest"))
    return (
        f"{median} ms (fastest of {result['runs']} {fastest}), "
        f"{result['temp_bytes'] / 1e9:.2f} GB, compiled in {result['compile_seconds']:.0f} s"
    )
