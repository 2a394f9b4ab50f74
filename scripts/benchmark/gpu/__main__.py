"""Checks and times on one GPU what fits into the time budget; `make benchmark-gpu` runs it.

    python -m scripts.benchmark.gpu [--budget 345] [--output DIR] [--only PART]

It runs from a checkout and needs jax for the GPU, flax, optax and numpy, and nothing else. It needs
no network. Where PyTorch and torchvision are installed, the deformable convolutions are computed by
them as well.

Measurements come in stages, the most important first. A stage is a process of its own: it compiles
two programs at a time, in threads, and times them before it compiles the next two. Every result is
written at once, to DIR/gpu_NAME.json. A measurement that fails is written with its error, and does
not stop the others. If the process of a stage dies, which a fault of XLA's compiler can cause, the
stage goes on with one measurement at a time. What does not fit into the budget is left out and
named. DIR/gpu_run.txt keeps what was printed.

The arguments are on the device before a time begins, and the results stay there.
"""

import argparse
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import TextIO

from scripts import ROOT

STAGE_COMMAND = (sys.executable, "-m", "scripts.benchmark.gpu.stage")
# The stages, and the share of the budget after which each of them must have ended.
STAGES = {
    "main": 0.7,
    "first_mask": 0.9,
    "torch": 0.94,
    "more": 1.0,
}
GRACE = 8  # seconds from the moment when a stage should end until its process is ended


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 if something failed, 2 without a GPU."""
    args = _parse(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    begin = time.time()
    with open(args.output / f"{args.prefix}_run.txt", "w") as log:
        report = Report(log)
        for stage, share in STAGES.items():
            deadline = begin + share * args.budget
            if not _run_stage(stage, args, deadline, report):
                return 2
        report.say(
            f"{len(report.done)} measured, {len(report.failed)} failed, "
            f"{len(report.skipped)} left out; {time.time() - begin:.0f} s"
        )
        for kind, names in (("failed", report.failed), ("left out", report.skipped)):
            if names:
                report.say(f"{kind}: {', '.join(names)}")
    return 1 if report.failed else 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmark.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--budget", type=float, default=345, metavar="SECONDS", help="345: just under six minutes")
    add("--output", type=pathlib.Path, default=ROOT / "benchmarks", metavar="DIR")
    add("--only", default="", metavar="PART", help="what has this in its name")
    add("--prefix", default="gpu", help="of the files' names")
    add("--small", action="store_true", help="a tiny network and tiny images: tries the script out")
    add("--any-device", action="store_true", help="also on a CPU, where the full sizes take hours")
    return parser.parse_args(argv)


class Report:
    """The results of the measurements, which it prints and writes down."""

    def __init__(self, log: TextIO):
        self._log = log
        self.done, self.failed, self.skipped = [], [], []

    def say(self, line: str) -> None:
        """Prints a line, and writes it into the log."""
        print(line, flush=True)
        print(line, file=self._log, flush=True)


def _run_stage(stage: str, args: argparse.Namespace, deadline: float, report: Report) -> bool:
    """Runs the process of a stage, again if it died; tells whether there is a device for it."""
    # Names for the next process to leave out: measured ones, and what the last process died of.
    left_out = []
    serial = False
    while True:
        if time.time() + GRACE > deadline:
            report.say(f"{stage}: left out, no time is left")
            report.skipped.append(stage)
            return True
        current, status = _run_process(stage, args, deadline, left_out, serial, report)
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


def _run_process(stage, args, deadline, left_out, serial, report) -> tuple[str, int]:
    """Runs one process of a stage; returns what it worked on when it ended, and its exit status.

    The names that it has finished are added to `left_out`.
    """
    command = [*STAGE_COMMAND, stage, "--output", str(args.output.resolve())]
    command += ["--prefix", args.prefix, "--only", args.only]
    command += ["--deadline", str(deadline), "--without", ",".join(left_out)]
    command += ["--serial"] * serial + ["--small"] * args.small
    command += ["--any-device"] * (args.any_device or args.small)
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


if __name__ == "__main__":
    sys.exit(main())
