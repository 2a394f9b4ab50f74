"""Compiles a program for a GPU on a machine without one, and tells what the program needs.

    python -m scripts.gpu_compiler --gpu h100 --task inference --model massformer_r50 \\
        --size 1024x1024 --dtype bfloat16 --hlo FILE

It runs from a checkout and needs what `pip install ".[gpu-compiler]"` installs: the compiler, which
needs neither a driver nor cuDNN. So the compiler cannot try anything out on a GPU. There are no
times, and the algorithms of libraries and their memory are not those of a real run.

The compiler runs in a process of its own, since a fault in it ends the process. The output is one
JSON object on one line:
    temp_bytes         temporaries of one device, as the compiler gives them; if there are several
                       programs, the largest
    argument_bytes     arguments of one device, likewise
    output_bytes       results of one device, likewise
    kernels            numbers of kernels in the programs, by kind, see launches.py
    launches           numbers of launches in one run, by kind; the bodies of loops count as often
                       as they run
    kernel_count       sum of kernels
    launch_count       sum of launches
    moved_bytes        what all instructions of one device read and write in one run, if nothing
                       stays in a cache, see scripts/program_cost.py; what a kernel of our own
                       reads again is not in it
    open_loops         number of loops whose end depends on the data; launches counts one turn
    trace_seconds      time from the Python function to the input of the compiler
    compile_seconds    time from there to the compiled program
It also has gpu, task, model, size, batch, dtype, mesh, versions and date. The exit status is 2 if
the command line asks for what is impossible, and 1 if the compiler fails.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Any

from massformer_jax.errors import InputError
from scripts import ROOT
from scripts.arguments import parse_count, parse_size
from scripts.bare_machine import replace_jaxtyping

GPUS = ("h100", "a100")
TASKS = (
    *("inference", "scores", "windows", "evaluation", "counts"),
    *("train", "train_remat", "initialization"),
)


class CompilerError(Exception):
    """A failure of the compiler, or the death of its process; the message names the program."""


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    arguments = sys.argv[1:] if argv is None else argv
    args = _parse(arguments)
    if args.here:
        _compile_here(args)
        return
    try:
        print(json.dumps(compile_apart(arguments)))
    except CompilerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def compile_apart(arguments: list[str]) -> dict[str, Any]:
    """Returns the JSON object for a command line, which another process makes.

    Raises:
        CompilerError: the program does not compile, or the compiler aborts.
        ValueError: the command line asks for what is impossible.
    """
    done = subprocess.run(
        [sys.executable, "-m", "scripts.gpu_compiler", "--here", *arguments],
        cwd=ROOT,
        # Without JAX_PLATFORMS, JAX looks for a driver when it is imported. No flags for other
        # compilers, and no cache: what is asked is whether it compiles.
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode == 2:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    name = _name(_parse(arguments))
    if done.returncode < 0:
        death = signal.Signals(-done.returncode).name
        raise CompilerError(f"{name}: the compiler died of {death}: {_reason(done.stderr)}")
    raise CompilerError(f"{name} does not compile:\n{done.stderr[-4000:]}")


def _reason(stderr: str) -> str:
    """Returns the last line of a compiler that died, which XLA begins with F and the date."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith("F") and line[1:5].isdigit()]
    return (fatal or lines or ["it said nothing"])[-1].strip()


def _name(args: argparse.Namespace) -> str:
    size = "{}x{}".format(*args.size)
    mesh = "".join(f", {axis}={count}" for axis, count in args.mesh.items())
    return f"{args.task} of {args.model}, {args.batch} x {size}, {args.dtype}, for {args.gpu}{mesh}"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.gpu_compiler",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--gpu", default=GPUS[0], choices=GPUS, help="what is compiled for")
    add(
        "--task",
        default=TASKS[0],
        choices=TASKS,
        help="what is compiled, see programs.py",
    )
    add("--model", default="massformer_r50", metavar="NAME", help="of a file in configs/")
    add(
        "--size",
        default=(1024, 1024),
        type=parse_size,
        metavar="HxW",
        help="of the images",
    )
    add("--batch", type=parse_count, metavar="N", help="images; 1 per device, for training 2")
    add("--dtype", default="float32", help="of the computation")
    add("--mesh", default={}, type=_axes, metavar="AXIS=N,…", help="several devices: data=2")
    add(
        "--cublas",
        action="store_true",
        help="products by cuBLAS alone: for some, Triton finds no tiles without a GPU to try",
    )
    add("--hlo", type=pathlib.Path, metavar="FILE", help="write the compiled programs' text there")
    add("--here", action="store_true", help="in this process, which dies if the compiler does")
    args = parser.parse_args(argv)
    each = 2 if args.task.startswith("train") else 1
    args.batch = args.batch or math.prod(args.mesh.values()) * each
    return args


def _axes(text: str) -> dict[str, int]:
    axes = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        axes[name] = parse_count(number)
    return axes


def _compile_here(args: argparse.Namespace) -> None:
    """Compiles and prints the object; ends the process with status 2 if that is impossible."""
    replace_jaxtyping()
    try:
        print(json.dumps(_measure(args)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    # These imports are here because only the process that compiles needs jax.
    import jax

    from massformer_jax.parallel import sharding
    from scripts.conditions import versions
    from scripts.gpu_compiler.launches import count_launches
    from scripts.gpu_compiler.programs import Programs, load_config
    from scripts.gpu_compiler.targets import lower, target_devices
    from scripts.program_cost import cost

    config = load_config(args.model)
    mesh = sharding.make_mesh(target_devices(args.gpu, math.prod(args.mesh.values())), args.mesh)
    programs = Programs(config, args.size, args.batch, args.dtype, mesh)
    memories, texts, trace_seconds, compile_seconds = [], [], 0.0, 0.0
    for function, arguments in getattr(programs, args.task)():
        start = time.perf_counter()
        lowered = lower(function, arguments, mesh)
        traced = time.perf_counter()
        # On several devices the compiler traces the kernels, and reads the same context.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            compiled = lowered.compile({"xla_gpu_enable_triton_gemm": not args.cublas})
        trace_seconds += traced - start
        compile_seconds += time.perf_counter() - traced
        memories.append(compiled.memory_analysis())
        texts.append(compiled.as_text())
    if args.hlo:
        args.hlo.write_text("\n".join(texts))
    found = [count_launches(text) for text in texts]
    kernels = sum((x.kernels for x in found), Counter())
    launches = sum((x.launches for x in found), Counter())
    return {
        "gpu": args.gpu,
        "task": args.task,
        "model": args.model,
        "size": "{}x{}".format(*args.size),
        "batch": args.batch,
        "dtype": args.dtype,
        "mesh": dict(mesh.shape),
        "temp_bytes": max(x.temp_size_in_bytes for x in memories),
        "argument_bytes": max(x.argument_size_in_bytes for x in memories),
        "output_bytes": max(x.output_size_in_bytes for x in memories),
        "kernel_count": kernels.total(),
        "launch_count": launches.total(),
        "kernels": dict(kernels.most_common()),
        "launches": dict(launches.most_common()),
        "open_loops": sum(x.open_loops for x in found),
        "moved_bytes": sum(cost(text).bytes for text in texts),
        "trace_seconds": round(trace_seconds, 1),
        "compile_seconds": round(compile_seconds, 1),
        "versions": versions("jax", "flax", "jax-cuda13-plugin"),
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    main()
