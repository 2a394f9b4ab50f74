"""The command of a benchmark on an accelerator, which runs its stages and keeps to a budget."""

import argparse
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TextIO

from scripts import ROOT

GRACE = 8  # seconds from the moment when a stage should end until its process is ended


HOW = """
Measurements come in stages, the most important first. A stage is a process of its own: it compiles
some programs at a time, in threads, and times them before it compiles the next ones. Every result
is written at once, to DIR/PREFIX_NAME.json. A measurement that fails is written with its error, and
does not stop the others. If the process of a stage dies, which a fault of XLA's compiler can cause,
the stage goes on with one measurement at a time. What does not fit into the budget is left out and
named. DIR/PREFIX_run.txt keeps what was printed.
"""


class Benchmark(NamedTuple):
    """The benchmark of one kind of accelerator.

    Attributes:
        name: of the accelerator, as jax calls its platform; it begins the names of the files.
        about: what `--help` prints before the rest.
        command: the command line of a stage, to which its name and its arguments are added.
        stages: the stages, and the share of the budget after which each of them must have ended.
        budget: seconds.
    """

    name: str
    about: str
    command: Sequence[str]
    stages: Mapping[str, float]
    budget: int


def run(benchmark: Benchmark, argv: list[str] | None = None) -> int:
    """Runs a benchmark; returns its exit status.

    Returns:
        0; 1 if something failed; 2 without such an accelerator.
    """
    args = _parse(benchmark, argv)
    args.output.mkdir(parents=True, exist_ok=True)
    begin = time.time()
    with (
        open(args.output / f"{args.prefix}_run.txt", "w") as log,
        tempfile.TemporaryDirectory(prefix="programs.") as cache,
    ):
        report = Report(log)
        for stage, share in benchmark.stages.items():
            deadline = begin + share * args.budget
            command = [*benchmark.command, stage, *_arguments(args, deadline, cache)]
            if not _run_stage(stage, command, deadline, report):
                return 2
        report.say(
            f"{len(report.done)} measured, {len(report.failed)} failed, "
            f"{len(report.skipped)} left out; {time.time() - begin:.0f} s"
        )
        for kind, names in (("failed", report.failed), ("left out", report.skipped)):
            if names:
                report.say(f"{kind}: {', '.join(names)}")
        if report.skipped:
            report.say(f"a larger --budget than {args.budget:.0f} seconds leaves out less")
    return 1 if report.failed else 0


def _parse(benchmark: Benchmark, argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m scripts.benchmark.{benchmark.name}",
        description=benchmark.about + HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--budget",
        type=float,
        default=benchmark.budget,
        metavar="SECONDS",
        help=f"{benchmark.budget} if it is not given",
    )
    add("--output", type=pathlib.Path, default=ROOT / "benchmarks", metavar="DIR")
    add("--only", default="", metavar="PART", help="what has this in its name")
    add("--prefix", default=benchmark.name, help="of the files' names")
    add("--small", action="store_true", help="a tiny network and tiny images: tries the script out")
    add("--any-device", action="store_true", help="also on a CPU, where the full sizes take hours")
    return parser.parse_args(argv)


def _arguments(args: argparse.Namespace, deadline: float, cache: str) -> list[str]:
    """Returns the arguments of a stage; `cache` is the folder for programs that it shares."""
    found = ["--output", str(args.output.resolve()), "--prefix", args.prefix, "--only", args.only]
    found += ["--deadline", str(deadline), "--cache", cache]
    found += ["--small"] * args.small
    return found + ["--any-device"] * (args.any_device or args.small)


class Report:
    """The results of the measurements, which it prints and writes down."""

    def __init__(self, log: TextIO):
        self._log = log
        self.done, self.failed, self.skipped = [], [], []

    def say(self, line: str) -> None:
        """Prints a line, and writes it into the log."""
        print(line, flush=True)
        print(line, file=self._log, flush=True)


def _run_stage(stage: str, command: Sequence[str], deadline: float, report: Report) -> bool:
    """Runs the process of a stage, again if it died; tells whether there is a device for it."""
    # Names for the next process to leave out: measured ones, and what the last process died of.
    left_out = []
    serial = False
    while True:
        if time.time() + GRACE > deadline:
            report.say(f"{stage}: left out, no time is left")
            report.skipped.append(stage)
            return True
        current, status = _run_process(command, deadline, left_out, serial, report)
        if status == 0:
            return True
        if status == 2:
            return False
        if time.time() >= deadline:
            report.say(f"{stage}: ended, its time was over")
            report.skipped.append(stage)
            return True
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        if serial and not current:
            report.say(f"{stage}: its process died ({how}) before it began")
            report.failed.append(stage)
            return True
        if serial:
            report.say(f"failed {current}: the process died ({how})")
            report.failed.append(current)
            left_out.append(current)
        else:
            report.say(f"{stage}: its process died ({how}); the rest one by one")
        serial = True


def _run_process(
    command: Sequence[str], deadline: float, left_out: list[str], serial: bool, report: Report
) -> tuple[str, int]:
    """Runs one process of a stage; returns what it worked on when it ended, and its exit status.

    The names that it has finished are added to `left_out`.
    """
    command = [*command, "--without", ",".join(left_out), *["--serial"] * serial]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    current = ""
    watch = threading.Timer(max(0, deadline + GRACE - time.time()), process.kill)
    watch.start()
    try:
        for line in process.stdout:
            event, _, rest = line.rstrip("\n").partition(" ")
            name = rest.partition(":")[0]
            if event == "begin":
                current = name
                continue
            report.say(line.rstrip("\n"))
            kept = {"done": report.done, "failed": report.failed, "skipped": report.skipped}
            if event in kept:
                kept[event].append(name)
                left_out.append(name)
                current = ""
        return current, process.wait()
    finally:
        watch.cancel()
        if process.poll() is None:  # the command was interrupted
            process.kill()
            process.wait()
