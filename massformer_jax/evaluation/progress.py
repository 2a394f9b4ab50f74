"""What an evaluation tells about its progress."""

import sys
import time

import jax
import tqdm

from massformer_jax.metrics.scores import percent

LINE_EVERY = 60  # seconds from one line to the next, where no bar can be drawn


class EvaluationProgress:
    """A bar in a terminal, or a line per minute elsewhere: photographs done, and the mIoU so far.

    Args:
        total: number of photographs, or None if it is unknown.
        shown: whether anything is shown at all.
    """

    def __init__(self, total: int | None, *, shown: bool = True):
        self._shown = shown
        self._done, self._total = 0, total
        self._begun = self._printed = time.monotonic()
        drawn = shown and sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total, unit="photo", desc="evaluation", leave=False, disable=not drawn
        )

    def __enter__(self) -> "EvaluationProgress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def update(self, count: int, mean_iou: float) -> None:
        """Adds `count` photographs to those done, and shows the new mIoU, a fraction in 0..1."""
        self._done += count
        self._bar.set_postfix_str(f"mIoU {percent(mean_iou)}", refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        if self._shown and self._bar.disable and now - self._printed >= LINE_EVERY:
            self._printed = now
            of_total = f" of {self._total}" if self._total else ""
            each = (now - self._begun) / self._done
            print(
                f"evaluated {self._done}{of_total} photographs, {each:.2f} s each; "
                f"mIoU {percent(mean_iou)} so far",
                flush=True,
            )


def say_beside_bar(line: str) -> None:
    """Prints a line on standard error of the first process, above the bar if there is one."""
    if jax.process_index() == 0:
        tqdm.tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()
