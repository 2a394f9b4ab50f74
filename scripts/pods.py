"""Compiles training and evaluation for whole TPU slices, by the real compiler and without a TPU.

    python scripts/pods.py train_v5e_256 evaluate_v5e_4      # some of PROGRAMS, minutes each
    python scripts/pods_table.py                             # then writes the tables

It needs a checkout, jax, flax, optax, numpy and libtpu. A program's result is one JSON object in
benchmarks/pods/, of one chip unless it says otherwise:
    memory        bytes, by the compiler: arguments, outputs, aliased (outputs in the place of
                  arguments), temporaries, code
    hbm_bytes     read and written in one run, see pods_cost.py
    cycles        of one run by the compiler's estimates, see pods_cost.py
    collectives   a list of kind, devices, count, bytes put in, in one run: see pods_collectives.py;
                  it and the two before are null where jaxlib cannot read the compiler's program
    flops         of all chips, see benchmark_flops.py
and what was compiled, for what and with what.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/pods"


class Program(NamedTuple):
    task: str  # train or evaluate
    topology: str
    batch: int
    mesh: dict[str, int]
    size: tuple[int, int] = (1024, 1024)
    model: str = "massformer_r50"
    dtype: str = "bfloat16"


_ALL = {"data": -1}
_LARGE = (3072, 4096)
# A chip alone takes two crops: the network's global context is normalised over the batch alone.
PROGRAMS = {
    "train_v5e_1": Program("train", "v5e:1x1", 2, _ALL),
    "train_v5e_4": Program("train", "v5e:2x2", 4, _ALL),
    "train_v5e_16": Program("train", "v5e:4x4", 16, _ALL),
    "train_v5e_64": Program("train", "v5e:8x8", 64, _ALL),
    "train_v5e_256": Program("train", "v5e:16x16", 256, _ALL),
    "train_v5p_64": Program("train", "v5p:4x4x4", 64, _ALL),
    "evaluate_v5e_1": Program("evaluate", "v5e:1x1", 1, _ALL, _LARGE),
    "evaluate_v5e_4": Program("evaluate", "v5e:2x2", 1, {"spatial": 4}, _LARGE),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=PROGRAMS, metavar="NAME", help=str([*PROGRAMS]))
    names = parser.parse_args(argv).names
    # Read when jax and libtpu are loaded: the compiler must not look for a TPU, nor lock the one
    # that is not there.
    os.environ.update(
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )
    sys.path.insert(0, str(ROOT))
    from massformer_jax.errors import InputError

    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            result = measure(PROGRAMS[name])
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(result["memory"]), flush=True)


def measure(program: Program) -> dict[str, Any]:
    """Compiles the program and reads what the compiler says of it.

    Raises:
        InputError: there is no compiler for TPUs, or the program does not fit into the chips.
    """
    import benchmark_run
    from benchmark_flops import count_flops

    from massformer_jax import sharding

    devices = benchmark_run.topology_devices(program.topology)
    mesh = sharding.make_mesh(devices, program.mesh)
    build = benchmark_run.train if program.task == "train" else benchmark_run.inference
    model = benchmark_run.MODELS[program.model]
    function, arguments = build(model, program.size, program.batch, program.dtype, mesh)
    start = time.perf_counter()
    traced = function.trace(*arguments)
    with benchmark_run.out_of_memory_in_one_line():
        compiled = traced.lower().compile()
    return {
        **described(program, benchmark_run.describe(devices), dict(mesh.shape)),
        "compile_seconds": round(time.perf_counter() - start, 1),
        "flops": count_flops(traced.jaxpr),
        "memory": memory(compiled.memory_analysis()),
        **read(_text(compiled)),
    }


def described(program: Program, device: str, mesh: Mapping[str, int]) -> dict[str, Any]:
    """What is compiled, for what and with what."""
    return {
        **program._asdict(),
        "size": "{}x{}".format(*program.size),
        "mesh": dict(mesh),
        "device": device,
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{x: importlib.metadata.version(x) for x in ("jax", "jaxlib", "flax", "libtpu")},
        },
    }


def memory(analysis: Any) -> dict[str, int]:
    """Bytes of one chip, from `compiled.memory_analysis()`."""
    return {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }


def _text(compiled: Any) -> str | None:
    """None where the compiler is newer than jaxlib, and writes what that does not know."""
    import jax

    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        print(f"unreadable: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


def read(text: str | None) -> dict[str, Any]:
    """What the text of a compiled program tells."""
    if text is None:
        return {"hbm_bytes": None, "cycles": None, "collectives": None}
    from pods_collectives import collectives
    from pods_cost import cost

    found = collectives(text)
    count, size = Counter(), Counter()
    for one in found:
        count[one.kind, one.devices] += one.times
        size[one.kind, one.devices] += one.times * one.bytes
    moved, cycles = cost(text)
    return {
        "hbm_bytes": moved,
        "cycles": cycles,
        "collectives": [
            {"kind": kind, "devices": devices, "count": count[kind, devices], "bytes": bytes_}
            for (kind, devices), bytes_ in sorted(size.items())
        ],
    }


if __name__ == "__main__":
    main()
