"""Reads altered files in processes that are watched: none may crash, hang, or take much memory."""

import collections
import contextlib
import dataclasses
import importlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# Kinds of files, and their readers: a module and a class, so that each process imports its own.
KINDS = {
    "photograph": "scripts.soak.readers:Photographs",
    "label map": "scripts.soak.readers:LabelMaps",
    "label map, checksums mended": "scripts.soak.readers:MendedLabelMaps",
    "record": "scripts.soak.folders:Records",
    "checkpoint": "scripts.soak.folders:Checkpoints",
    ".pth": "scripts.soak.readers:TorchFiles",
    ".safetensors": "scripts.soak.readers:SafeTensors",
    "config.json": "scripts.soak.readers:Configs",
    "metrics.json": "scripts.soak.readers:Evaluations",
}
SECONDS = 60  # that reading a file takes at most
BYTES = 4 * 2**30  # of memory, likewise, beyond what the process has before
_PREPARATION = 600  # seconds that making sound files takes at most
_MINUTE = 60  # seconds from one report to the next
_TOGETHER = 100  # files that a process is asked for at once


@dataclasses.dataclass
class Outcome:
    """What became of the altered files of one kind.

    Attributes:
        right: number of right answers.
        refused: number of files that were refused with one line.
        slowest: seconds of the slowest.
        memory: bytes of the largest process.
        findings: everything else, by the number of the file.
    """

    right: int = 0
    refused: int = 0
    slowest: float = 0.0
    memory: int = 0
    findings: dict[int, str] = dataclasses.field(default_factory=dict)

    def files(self) -> int:
        """Returns the number of files that were read."""
        return self.right + self.refused + len(self.findings)


def reader(kind: str, folder: pathlib.Path) -> Any:
    """Returns a reader of a kind of files, which works in a folder of its own."""
    return _reader(KINDS[kind], folder)


def _reader(where: str, folder: pathlib.Path) -> Any:
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)(folder)


def generator(seed: int, kind: str, number: int) -> np.random.Generator:
    """Returns the random numbers that decide how the file of this number is altered."""
    return _generator(seed, list(KINDS).index(kind), number)


def _generator(seed: int, index: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, index, number))


def read_altered(
    kinds: dict[str, int],
    *,
    seed: int,
    folder: pathlib.Path,
    processes: int,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Outcome]:
    """Alters files and reads them.

    Args:
        kinds: how many files of each kind.
        seed: decides all alterations; with the kind and its number, each of them.
        folder: where files are written.
        processes: how many read at the same time.
        say: prints a line: each finding at once, and every minute how far it is.

    Returns:
        What became of them, by kind; after Ctrl-C, of those that were read.
    """
    work = [
        (kind, range(start, min(start + _TOGETHER, count)))
        for kind, count in kinds.items()
        for start in range(0, count, _TOGETHER)
    ]
    work.reverse()  # taken from the end
    outcomes = collections.defaultdict(Outcome)
    workers = [_Worker(folder / f"process{i}", seed) for i in range(min(processes, len(work)))]
    said, total = time.monotonic(), sum(kinds.values())
    try:
        while work or any(worker.busy for worker in workers):
            if time.monotonic() - said > _MINUTE:
                said = time.monotonic()
                done = sum(outcome.files() for outcome in outcomes.values())
                say(f"{done:,} of {total:,} altered files are read")
            for worker in workers:
                if not worker.busy and work:
                    worker.start(*work.pop())
            busy = [worker for worker in workers if worker.busy]
            multiprocessing.connection.wait([worker.connection for worker in busy], timeout=1)
            for worker in busy:
                for kind, number, kept, message, seconds, memory in worker.heard():
                    outcome = outcomes[kind]
                    outcome.slowest = max(outcome.slowest, seconds)
                    outcome.memory = max(outcome.memory, memory)
                    if kept == "found":
                        outcome.findings[number] = message
                        say(f"{kind} {number}: {message}")
                    else:
                        setattr(outcome, kept, getattr(outcome, kept) + 1)
    except KeyboardInterrupt:
        say("interrupted: what follows is of the files that were read")
    finally:
        for worker in workers:
            worker.end()
    return dict(outcomes)


class _Worker:
    """A process that reads, seen from the process that watches it."""

    def __init__(self, folder: pathlib.Path, seed: int):
        self.folder, self.seed, self.busy = folder, seed, False
        self._begin()

    def _begin(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(
            target=_work, args=(theirs, str(self.folder), self.seed), daemon=True
        )
        self.process.start()
        theirs.close()

    def start(self, kind: str, numbers: range) -> None:
        """Asks the process to read the files of these numbers."""
        self.kind, self.numbers, self.next, self.busy = kind, numbers, numbers.start, True
        self.ready, self.since = False, time.monotonic()
        self.connection.send((kind, KINDS[kind], list(KINDS).index(kind), numbers))

    def heard(self) -> Iterator[tuple[str, int, str, str, float, int]]:
        """Yields what the process said since; ends it if it says nothing for too long."""
        problem = ""
        try:
            while self.busy and self.connection.poll():
                message = self.connection.recv()
                self.since = time.monotonic()
                if message == "ready":
                    self.ready = True
                elif message == "done":
                    self.busy = False
                else:
                    self.next = message[0] + 1
                    yield (self.kind, *message)
        except (EOFError, ConnectionError):
            self.process.join()
            problem = f"the process ended with status {self.process.exitcode}"
        waited = time.monotonic() - self.since
        if self.busy and not problem and waited > (SECONDS if self.ready else _PREPARATION):
            self.process.kill()
            self.process.join()
            problem = f"nothing is said for {waited:.0f} seconds"
        if problem:
            if not self.ready:
                raise RuntimeError(f"the sound files of {self.kind} cannot be read: {problem}")
            done = reader_message(self.kind, self.next, self.seed)
            yield self.kind, self.next, "found", f"{problem}; {done}", waited, 0
            self._begin()
            rest = range(self.next + 1, self.numbers.stop)
            self.busy = False
            if rest:
                self.start(self.kind, rest)

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.join()


def reader_message(kind: str, number: int, seed: int) -> str:
    """Returns how a finding is repeated."""
    return f"repeat it: python -m scripts.soak --seed {seed} --repeat '{kind}' {number}"


def _work(connection: Any, folder: str, seed: int) -> None:
    """Reads what it is asked to, in a process of its own."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    quiet = os.open(os.devnull, os.O_WRONLY)  # libraries in C print what they think of each file
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    readers = {}
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            kind, where, index, numbers = connection.recv()
            resource.setrlimit(resource.RLIMIT_AS, unlimited)
            if kind not in readers:
                place = pathlib.Path(folder) / kind.replace(" ", "_")
                readers[kind] = _reader(where, place)
            limit = _address_space() + BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, unlimited[1]))
            connection.send("ready")
            for number in numbers:
                begin = time.monotonic()
                kept, said = readers[kind].try_one(_generator(seed, index, number))
                seconds = time.monotonic() - begin
                memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                connection.send((number, kept, said if kept == "found" else "", seconds, memory))
            connection.send("done")


def _address_space() -> int:
    """Returns the bytes of this process's address space."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()
