"""Compiles training and evaluation for whole TPU slices with the real compiler, without a TPU.

    python -m scripts.pods train_v5e_256 evaluate_v5e_4    # of PROGRAMS; training takes an hour
    python -m scripts.pods.table                           # then writes the tables

It needs a checkout, jax, flax, optax, numpy and libtpu. The result of a program is one JSON object
in benchmarks/pods/. The figures are for one chip and one run, unless the list says otherwise:
    memory        bytes, as the compiler gives them: arguments, outputs, aliased (outputs in the
                  place of arguments), temporaries, code
    hbm_bytes     bytes that are read and written, see scripts/program_cost.py
    cycles        an estimate: the sum of the compiler's, see scripts/program_cost.py
    counted       what the estimate leaves out, see scripts/pods/uncosted.py: gathers, scatters,
                  sorts, other kernels, and the program around the kernels. Of each:
                      bundles  a floor of its cycles
                      waits    waits for copies between memories
                      stalls   cycles of these waits, if a copy takes `copy_cycles`
                      unknown  branches that depend on data: what they guard counts once
                  It is null if the compiler writes its bundles in another form than v5e's.
    sparsecores   what the SparseCores of v6e and 7x do, which is in none of the others: how often
                  each kind and shape, see `on_sparsecores`
    copy_cycles   cycles that a copy is assumed to take
    collectives   a list with kind, devices, count and bytes put in, see
                  scripts/pods/collectives.py; this, `hbm_bytes`, `cycles`, `counted` and
                  `sparsecores` are null where jaxlib cannot read the compiler's program
    flops         FLOPs of all chips together, see massformer_jax/models/flops.py
The object also says what was compiled, for which slice, and with which versions. While a program is
compiled, its bundles take up to 1 GB of the folder for temporary files (TMPDIR).
"""

import argparse
import datetime
import json
import pathlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from massformer_jax.errors import InputError
from scripts.bare_machine import replace_jaxtyping
from scripts.pods.bundles import COPY_CYCLES
from scripts.pods.collectives import collectives
from scripts.pods.dumps import Dumps
from scripts.pods.programs import PROGRAMS, RESULTS, Program
from scripts.pods.uncosted import on_sparsecores, uncosted
from scripts.program_cost import cost
from scripts.tpu_compiler import find_no_tpu, topology_devices


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.pods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", choices=PROGRAMS, metavar="NAME", help=str([*PROGRAMS]))
    names = parser.parse_args(argv).names
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        find_no_tpu(dumps=pathlib.Path(folder))
        replace_jaxtyping()
        for name in names:
            try:
                result = measure(PROGRAMS[name], Dumps(pathlib.Path(folder)))
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(2)
            (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
            print(name, json.dumps(result["memory"]), flush=True)


def measure(program: Program, dumps: Dumps) -> dict[str, Any]:
    """Compiles the program and returns what the compiler says of it.

    Args:
        program: what to compile.
        dumps: the kernels that the compiler writes.

    Raises:
        InputError: the compiler for TPUs is not installed, or the program does not fit into the
            chips.
    """
    # These imports are here because `main` prepares the environment before jax is imported.
    from massformer_jax.models.build import architecture
    from massformer_jax.models.flops import count_flops
    from massformer_jax.parallel import sharding
    from scripts.benchmark.networks import inference, train
    from scripts.benchmark.run import out_of_memory_in_one_line
    from scripts.conditions import describe

    devices = topology_devices(program.topology)
    mesh = sharding.make_mesh(devices, program.mesh)
    build = train if program.task == "train" else inference
    network = architecture(program.model)
    function, arguments = build(network, program.size, program.batch, program.dtype, mesh)
    start = time.perf_counter()
    traced = function.trace(*arguments)
    with out_of_memory_in_one_line():
        compiled = traced.lower().compile()
    return {
        **described(program, describe(devices), dict(mesh.shape)),
        "compile_seconds": round(time.perf_counter() - start, 1),
        "flops": count_flops(traced.jaxpr),
        "memory": memory(compiled.memory_analysis()),
        **read(_text(compiled), dumps),
    }


def described(program: Program, device: str, mesh: Mapping[str, int]) -> dict[str, Any]:
    """Returns what is compiled, for which devices, when, and with which versions."""
    from scripts.conditions import versions

    return {
        **program._asdict(),
        "size": "{}x{}".format(*program.size),
        "mesh": dict(mesh),
        "device": device,
        "date": datetime.date.today().isoformat(),
        "versions": versions("jax", "jaxlib", "flax", "libtpu"),
    }


def memory(analysis: Any) -> dict[str, int]:
    """Returns the bytes that one chip needs, from `compiled.memory_analysis()`."""
    return {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }


def _text(compiled: Any) -> str | None:
    """Returns the text of a program, or None if jaxlib is too old to read what was compiled."""
    import jax

    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        print(f"unreadable: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


def read(text: str | None, dumps: Dumps) -> dict[str, Any]:
    """Returns traffic, cycles and collectives, read from a compiled program's text and kernels."""
    if text is None:
        names = "hbm_bytes", "cycles", "counted", "sparsecores", "collectives"
        return dict.fromkeys(names) | {"copy_cycles": COPY_CYCLES}
    found = collectives(text)
    count, size = Counter(), Counter()
    for one in found:
        count[one.kind, one.devices] += one.times
        size[one.kind, one.devices] += one.times * one.bytes
    moved, cycles = cost(text)
    return {
        "hbm_bytes": moved,
        "cycles": cycles,
        "counted": _counted(text, dumps),
        "sparsecores": dict(on_sparsecores(text)),
        "copy_cycles": COPY_CYCLES,
        "collectives": [
            {"kind": kind, "devices": devices, "count": count[kind, devices], "bytes": bytes_}
            for (kind, devices), bytes_ in sorted(size.items())
        ],
    }


def _counted(text: str, dumps: Dumps) -> dict[str, dict[str, int]] | None:
    """Returns what the estimate leaves out, or None if the kernels cannot be counted."""
    try:
        return {kind: found._asdict() for kind, found in uncosted(text, dumps.count).items()}
    except ValueError as error:
        # Compiling took long, and the rest of the result holds.
        print(f"not counted: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    main()
