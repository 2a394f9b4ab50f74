"""One stage of the benchmark for GPUs, in a process of its own.

It prints two lines for each measurement: `begin NAME`, and then `done NAME: …`, `failed NAME: …` or
`skipped NAME: …`. `python -m scripts.benchmark.gpu` reads these lines.
"""

import argparse
import datetime
import json
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

from scripts.bare_machine import replace_jaxtyping
from scripts.benchmark.gpu.measurement import Measurement

TIMINGS = 8  # seconds before the end of a stage that are kept for running compiled programs
AT_ONCE = 2  # programs that compile at the same time


class Stage:
    """A runner of measurements, which writes their results.

    Args:
        output: the folder for the results.
        prefix: the beginning of the files' names.
        deadline: when the stage must have ended, in seconds since 1970.
        conditions: the device and the versions, written into every result.
    """

    def __init__(self, output: pathlib.Path, prefix: str, deadline: float, conditions: dict):
        self._output, self._prefix = output, prefix
        self._deadline, self._conditions = deadline, conditions

    def one_by_one(self, measurements: Sequence[Measurement]) -> None:
        """Compiles and runs each measurement before the next one."""
        for measurement in measurements:
            if time.time() > self._deadline:
                say("skipped", measurement.name, "no time was left")
                continue
            say("begin", measurement.name)
            try:
                run = measurement.prepare()
            except Exception as error:
                self._fail(measurement.name, error)
            else:
                self._record(measurement.name, run)

    def together(self, measurements: Sequence[Measurement]) -> None:
        """Compiles `AT_ONCE` measurements at a time and runs them before the next ones compile.

        More at once take longer than one after the other: they wait for the GPU, which tries out
        algorithms for each of them. Ten had not compiled after 138 s on an H100 with 16 cores,
        where one takes 17 s.
        """
        for first in range(0, len(measurements), AT_ONCE):
            self._compile_and_run(measurements[first : first + AT_ONCE])

    def _compile_and_run(self, measurements: Sequence[Measurement]) -> None:
        """Compiles, and runs when no compiler runs any more or the time of the stage is over."""
        if time.time() > self._deadline - TIMINGS:
            for measurement in measurements:
                say("skipped", measurement.name, "no time was left")
            return
        pool = futures.ThreadPoolExecutor(AT_ONCE)
        waiting = {pool.submit(measurement.prepare): measurement for measurement in measurements}
        seconds = max(1, self._deadline - TIMINGS - time.time())
        ready, late = futures.wait(waiting, timeout=seconds)
        for future in late:
            say("skipped", waiting[future].name, "it was not compiled in time")
        for future in sorted(ready, key=lambda future: measurements.index(waiting[future])):
            try:
                run = future.result()
            except Exception as error:
                self._fail(waiting[future].name, error)
            else:
                self._record(waiting[future].name, run, quiet=not late)

    def _record(self, name: str, run: Callable[[], dict[str, Any]], quiet: bool = True) -> None:
        """Runs and writes the result; `quiet` says whether nothing else ran at the same time."""
        try:
            result = run()
        except Exception as error:
            self._fail(name, error)
            return
        if not quiet:
            result["compiling_beside"] = True
        self._write(name, result)
        if "error" in result:
            say("failed", name, result["error"])
        else:
            say("done", name, result.get("summary", ""))

    def _fail(self, name: str, error: Exception) -> None:
        traceback.print_exception(error)
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]
        self._write(name, {"error": reason})
        say("failed", name, reason)

    def _write(self, name: str, result: dict[str, Any]) -> None:
        record = {"measurement": name, **self._conditions, **result}
        record["date"] = datetime.date.today().isoformat()
        path = self._output / f"{self._prefix}_{name}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.replace(path)


def say(event: str, name: str, text: str = "") -> None:
    """Prints a line for the process that started this one."""
    print(f"{event} {name}" + (f": {text}" if text else ""), flush=True)


def main() -> None:
    """Runs the stage."""
    args = _parse()
    environment = dict(os.environ)
    if args.stage in ("first_mask", "torch"):
        # Other processes use the GPU here, and jax would take three quarters of its memory.
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif "cpu" not in environment.get("JAX_PLATFORMS", "cpu"):
        # The checks compare with results of the CPU.
        os.environ["JAX_PLATFORMS"] += ",cpu"
    replace_jaxtyping()
    measurements, conditions = _measurements(args, environment)
    without = args.without.split(",")
    chosen = [m for m in measurements if args.only in m.name and m.name not in without]
    stage = Stage(args.output, args.prefix, args.deadline, conditions)
    together = args.stage in ("main", "more") and not args.serial
    (stage.together if together else stage.one_by_one)(chosen)
    sys.stdout.flush()
    if together:
        # The normal end of the interpreter would wait for programs that still compile.
        os._exit(0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A part of python -m scripts.benchmark.gpu.")
    add = parser.add_argument
    add("stage", choices=("main", "first_mask", "torch", "more"))
    add("--output", type=pathlib.Path, required=True)
    add("--prefix", required=True)
    add("--deadline", type=float, required=True, help="seconds since 1970")
    add("--only", default="")
    add("--without", default="", help="names, with commas")
    add("--serial", action="store_true")
    add("--small", action="store_true")
    add("--any-device", action="store_true")
    return parser.parse_args()


def _measurements(
    args: argparse.Namespace, environment: dict[str, str]
) -> tuple[list[Measurement], dict[str, Any]]:
    """Returns the measurements of the stage, and the device and versions that they use."""
    # These imports are here because jax reads the environment, which `main` changes, at its import.
    if args.stage == "first_mask":
        from scripts.benchmark.gpu import first_mask

        return first_mask.measurements(args.small, environment, args.deadline), {}
    if args.stage == "torch":
        from scripts.benchmark.gpu import torch_times

        return torch_times.measurements(args.small), {}
    import jax

    if jax.default_backend() != "gpu" and not args.any_device:
        found = ", ".join(sorted({device.device_kind for device in jax.devices()}))
        print(f"error: jax {jax.__version__} sees no GPU, only {found}", file=sys.stderr)
        sys.exit(2)
    from scripts.benchmark.gpu import checks, times
    from scripts.conditions import conditions

    found = times.measurements(args.stage, args.small)
    found += checks.measurements(args.stage, args.small)
    return found, conditions()


if __name__ == "__main__":
    main()
