"""One stage of a benchmark on an accelerator, in a process of its own.

It prints two lines for each measurement: `begin NAME`, and then `done NAME: …`, `failed NAME: …` or
`skipped NAME: …`. The command, see `command.py`, reads these lines.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

from scripts.bare_machine import replace_jaxtyping
from scripts.benchmark.device.measurement import Measurement

TIMINGS = 8  # seconds before the end of a stage that are kept for running compiled programs
# In these stages other processes use the accelerator, and the process of the stage does not.
WITHOUT_DEVICE = ("first_mask", "torch")

Measurements = Callable[[argparse.Namespace, Mapping[str, str]], list[Measurement]]


class Stage:
    """A runner of measurements, which writes their results.

    Args:
        output: the folder for the results.
        prefix: the beginning of the files' names.
        deadline: when the stage must have ended, in seconds since 1970.
        conditions: the device and the versions, written into every result.
        at_once: the number of programs that compile at the same time.
    """

    def __init__(
        self,
        output: pathlib.Path,
        prefix: str,
        deadline: float,
        conditions: dict[str, Any],
        at_once: int = 2,
    ):
        self._output, self._prefix = output, prefix
        self._deadline, self._conditions = deadline, conditions
        self._at_once = at_once

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
        """Compiles `at_once` measurements at a time and runs them before the next ones compile."""
        for first in range(0, len(measurements), self._at_once):
            self._compile_and_run(measurements[first : first + self._at_once])

    def _compile_and_run(self, measurements: Sequence[Measurement]) -> None:
        """Compiles, and runs when no compiler runs any more or the time of the stage is over."""
        if time.time() > self._deadline - TIMINGS:
            for measurement in measurements:
                say("skipped", measurement.name, "no time was left")
            return
        pool = futures.ThreadPoolExecutor(self._at_once)
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
        except subprocess.TimeoutExpired:
            say("skipped", name, "it did not end in time")
            return
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


def run_stage(name: str, measurements: Measurements, at_once: int, *, keep: bool) -> None:
    """Runs the stage that the arguments of this process name.

    Args:
        name: of the accelerator, as jax calls its platform.
        measurements: returns those of the stage, the most important first, from the arguments of
            the process and from its environment as it was in the beginning. It imports what needs
            jax, since jax reads the environment that this function prepares.
        at_once: the number of programs that compile at the same time.
        keep: whether to keep compiled programs for the stages that follow.
    """
    args = _parse()
    # A program that is read from a folder would tell how long reading takes, not compiling.
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    environment = dict(os.environ)
    uses_device = args.stage not in WITHOUT_DEVICE
    if not uses_device:
        # The other processes could not use the device, or only a quarter of its memory.
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif "cpu" not in environment.get("JAX_PLATFORMS", "cpu"):
        # The checks compare with results of the CPU.
        os.environ["JAX_PLATFORMS"] += ",cpu"
    if uses_device and keep:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(args.cache)
    replace_jaxtyping()
    conditions = _conditions(name, args.any_device) if uses_device else {}
    without = args.without.split(",")
    found = measurements(args, environment)
    chosen = [m for m in found if args.only in m.name and m.name not in without]
    stage = Stage(args.output, args.prefix, args.deadline, conditions, at_once)
    together = uses_device and not args.serial
    (stage.together if together else stage.one_by_one)(chosen)
    sys.stdout.flush()
    if together:
        # The normal end of the interpreter would wait for programs that still compile.
        os._exit(0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A stage of a benchmark on an accelerator.")
    add = parser.add_argument
    add("stage")
    add("--output", type=pathlib.Path, required=True)
    add("--prefix", required=True)
    add("--deadline", type=float, required=True, help="seconds since 1970")
    add("--cache", type=pathlib.Path, required=True, help="folder for compiled programs")
    add("--only", default="")
    add("--without", default="", help="names, with commas")
    add("--serial", action="store_true")
    add("--small", action="store_true")
    add("--any-device", action="store_true")
    return parser.parse_args()


def _conditions(name: str, any_device: bool) -> dict[str, Any]:
    """Returns the device and the versions; ends the process if there is no such accelerator."""
    # These imports are here because jax reads the environment, which `run_stage` prepares.
    import jax

    from scripts.conditions import conditions

    try:
        backend = jax.default_backend()
    except RuntimeError as error:  # it is in use, or JAX_PLATFORMS names one that is not there
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(2)
    if backend != name and not any_device:
        found = ", ".join(sorted({device.device_kind for device in jax.devices()}))
        print(f"error: jax {jax.__version__} sees no {name.upper()}, only {found}", file=sys.stderr)
        sys.exit(2)
    return conditions()
