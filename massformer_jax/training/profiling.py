"""Traces of a few steps, for xprof and TensorBoard."""

import contextlib
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from massformer_jax.errors import InputError
from massformer_jax.files import Place, in_bucket, upload


def parse_steps(steps: str) -> range:
    """Reads `profile_steps`: "10:13" stands for the steps 10, 11 and 12, "" for none.

    Raises:
        InputError: it is neither of these.
    """
    if not steps:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", steps)
    if not match or not 1 <= int(match[1]) < int(match[2]):
        raise InputError(
            f"profile_steps is {steps!r}; use FIRST:END, as 10:13 for the steps 10, 11 and 12"
        )
    return range(int(match[1]), int(match[2]))


class Profile:
    """A trace of some steps.

    Args:
        steps: which ones.
        folder: where each process writes one file.
    """

    def __init__(self, steps: range, folder: Place):
        self._steps, self._folder, self._running = steps, folder, False
        self._written: tempfile.TemporaryDirectory | None = None  # of a trace for a bucket

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_) -> None:
        """Ends a trace that the run's end has cut short."""
        if self._running:
            self._stop()
            print(
                f"the trace of the steps from {self._steps.start} is in {self._folder}", flush=True
            )

    @contextlib.contextmanager
    def step(self, i: int) -> Iterator[None]:
        """Encloses all that the host does for step `i`, from its input on."""
        if i in self._steps and not self._running:
            self._start()
        with jax.profiler.StepTraceAnnotation("train", step_num=i):
            yield

    def stop_after(self, i: int, results: Any) -> bool:
        """Ends the trace if `i` is its last step, once its results exist; tells whether it did."""
        if not self._running or i + 1 in self._steps:
            return False
        jax.block_until_ready(results)
        self._stop()
        print(f"the trace of steps {self._steps.start} to {i} is in {self._folder}", flush=True)
        return True

    def _start(self) -> None:
        """Begins the trace. JAX writes it into folders of this machine alone."""
        folder = self._folder
        if in_bucket(folder):
            self._written = tempfile.TemporaryDirectory()
            folder = self._written.name
        jax.profiler.start_trace(folder)
        self._running = True

    def _stop(self) -> None:
        """Ends the trace, and takes it to where it belongs."""
        jax.profiler.stop_trace()
        self._running = False
        if self._written is not None:
            with self._written as written:
                upload(pathlib.Path(written), self._folder)
