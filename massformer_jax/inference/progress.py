"""What the segmentation of many photographs tells: a bar or lines, and a summary at the end."""

import pathlib
import sys
import time
from collections import Counter
from collections.abc import Sequence

import tqdm

from massformer_jax.command import duration, print_error, say_beside_output
from massformer_jax.files import some_of


class PredictionProgress:
    """A bar in a terminal, elsewhere a line for each photograph; at the end, a summary.

    Lines of photographs are printed on the output, everything else on standard error.

    Args:
        total: number of photographs that there are to do.
        skipped: number of others that were done before.
    """

    def __init__(self, total: int, skipped: int = 0):
        self._total, self._skipped = total, skipped
        self._done, self._failed = 0, []
        self._begun = time.monotonic()
        self._lines = not sys.stdout.isatty() or not sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total, unit="photo", leave=False, disable=not sys.stderr.isatty()
        )

    def __enter__(self) -> "PredictionProgress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def say(self, line: str) -> None:
        """Prints a line on standard error, above the bar if there is one."""
        with self._bar.external_write_mode(file=sys.stderr):
            say_beside_output(line)

    def done(self, path: pathlib.Path, written: Sequence[pathlib.Path]) -> None:
        """Tells that all files of a photograph have been written."""
        self._done += 1
        self._bar.update()
        if self._lines:
            names = some_of([str(name) for name in written], most=1)
            with self._bar.external_write_mode(file=sys.stdout):
                print(f"{path} -> {names}  ({self._count()})", flush=True)

    def failed(self, path: pathlib.Path, error: Exception | str) -> None:
        """Tells that a photograph failed, and why."""
        self._failed.append(path)
        self._bar.update()
        with self._bar.external_write_mode(file=sys.stderr):
            print_error(error)

    def summary(self, waited: Counter) -> str:
        """Returns lines that say what was done, what failed, and what took the time.

        Args:
            waited: seconds that were waited for "reading" and for the "network".
        """
        seconds = time.monotonic() - self._begun
        count = f"{self._done} photograph{'s' * (self._done != 1)} done"
        parts = [count]
        if self._skipped:
            parts.append(f"{self._skipped} skipped")
        if self._failed:
            parts.append(f"{len(self._failed)} failed")
        text = f"{', '.join(parts)} in {duration(seconds)}"
        if self._done > 1:
            shares = {part: waited[part] / seconds for part in ("network", "reading")}
            shares["writing"] = max(0, 1 - sum(shares.values()))
            told = ", ".join(f"{100 * share:.0f} % for {part}" for part, share in shares.items())
            text += f", {60 * self._done / seconds:.1f} per minute; waited {told}"
        if self._failed:
            text += "".join(f"\nfailed: {path}" for path in self._failed)
        return text

    def _count(self) -> str:
        over = self._done + len(self._failed)
        pace = (time.monotonic() - self._begun) / over
        text = f"{over} of {self._total}, {60 / pace:.1f} per minute"
        left = self._total - over
        return f"{text}, {duration(left * pace)} left" if left else text
