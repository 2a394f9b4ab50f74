"""What the segmentation of many photographs tells: a bar or lines, and a summary at the end."""

import pathlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence

import tqdm

from massformer_jax.command import duration, print_error, say_beside_output
from massformer_jax.files import some_of

_SECONDS_BETWEEN_LINES = 30  # of one clip, where there is no bar


class PredictionProgress:
    """A bar in a terminal, elsewhere a line for each photograph; at the end, a summary.

    A clip counts as one, and has a bar of its own for its frames, or a line every half minute.

    Lines of photographs are printed on the output, everything else on standard error. `done` and
    `failed` may be called by several threads.

    Args:
        total: number of photographs and clips that there are to do.
        skipped: number of others that were done before.
    """

    def __init__(self, total: int, skipped: int = 0):
        self._total, self._skipped = total, skipped
        self._photographs, self._clips, self._frames, self._failed = 0, 0, 0, []
        self._begun = time.monotonic()
        self._lock = threading.Lock()  # so that the counts of the lines go up
        self._lines = not sys.stdout.isatty() or not sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total, unit="photo", leave=False, disable=not sys.stderr.isatty()
        )
        self._clip: _ClipProgress | None = None

    def __enter__(self) -> "PredictionProgress":
        return self

    def __exit__(self, *_) -> None:
        self._end_clip()
        self._bar.close()

    def say(self, line: str) -> None:
        """Prints a line on standard error, above the bar if there is one."""
        with self._bar.external_write_mode(file=sys.stderr):
            say_beside_output(line)

    def frame(self, path: pathlib.Path, done: int, expected: int) -> None:
        """Tells how many frames of a clip have been written, of how many; 0 if nobody knows."""
        if self._clip is None:
            self._clip = _ClipProgress(path, expected)
        if line := self._clip.update(done):
            self.say(line)

    def done(self, path: pathlib.Path, written: Sequence[pathlib.Path], frames: int = 0) -> None:
        """Tells that all files of a photograph, or of a clip of so many frames, are written."""
        with self._lock:
            self._end_clip()
            self._photographs += not frames
            self._clips += bool(frames)
            self._frames += frames
            self._bar.update()
            if self._lines:
                names = some_of([str(name) for name in written], most=1)
                with self._bar.external_write_mode(file=sys.stdout):
                    print(f"{path} -> {names}  ({self._count()})", flush=True)

    def failed(self, path: pathlib.Path, error: Exception | str) -> None:
        """Tells that a photograph or a clip failed, and why."""
        with self._lock:
            self._end_clip()
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
        parts = [f"{_number(self._photographs, 'photograph')} done"]
        if self._clips:
            clips = f"{_number(self._clips, 'video')} ({_number(self._frames, 'frame')}) done"
            parts = [*parts, clips] if self._photographs else [clips]
        if self._skipped:
            parts.append(f"{self._skipped} skipped")
        if self._failed:
            parts.append(f"{len(self._failed)} failed")
        text = f"{', '.join(parts)} in {duration(seconds)}"
        if self._photographs > 1 and not self._clips:
            shares = {part: waited[part] / seconds for part in ("network", "reading")}
            shares["writing"] = max(0, 1 - sum(shares.values()))
            told = ", ".join(f"{100 * share:.0f} % for {part}" for part, share in shares.items())
            text += f", {60 * self._photographs / seconds:.1f} per minute; waited {told}"
        if self._failed:
            text += "".join(f"\nfailed: {path}" for path in sorted(self._failed))
        return text

    def _end_clip(self) -> None:
        if self._clip is not None:
            self._clip.close()
            self._clip = None

    def _count(self) -> str:
        over = self._photographs + self._clips + len(self._failed)
        pace = (time.monotonic() - self._begun) / over
        text = f"{over} of {self._total}, {60 / pace:.1f} per minute"
        left = self._total - over
        return f"{text}, {duration(left * pace)} left" if left else text


class _ClipProgress:
    """What is told while the frames of one clip are segmented.

    Args:
        path: of the clip.
        expected: number of its frames; 0 if nobody knows.
    """

    def __init__(self, path: pathlib.Path, expected: int):
        self._path, self._expected = path, expected
        self._begun = self._told = time.monotonic()
        in_terminal = sys.stderr.isatty()
        self._lines = not in_terminal
        self._bar = tqdm.tqdm(
            total=expected or None,
            desc=path.name,
            unit="frame",
            leave=False,
            disable=not in_terminal,
        )

    def update(self, done: int) -> str:
        """Moves the bar; returns the line that is due, or an empty text."""
        self._bar.update()
        now = time.monotonic()
        if not self._lines or now - self._told < _SECONDS_BETWEEN_LINES:
            return ""
        self._told = now
        pace = (now - self._begun) / done
        text = f"{self._path}: frame {done}"
        if self._expected >= done:
            left = duration((self._expected - done) * pace)
            return f"{text} of {self._expected}, {60 / pace:.1f} per minute, {left} left"
        return f"{text}, {60 / pace:.1f} per minute"

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
