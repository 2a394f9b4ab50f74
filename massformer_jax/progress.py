"""The progress lines of a training run and of an evaluation."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping

import jax
import tqdm

PARTS = ("input", "checkpoint")
LINE_EVERY = 60  # seconds, where a bar cannot be drawn


class Progress:
    """Prints step, losses, speed and time left; evaluations do not count as training time."""

    def __init__(self, step: int, total_steps: int, batch_size: int):
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._step, self._time = step, time.monotonic()
        self._parts = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What the host spends here is waiting for input, or saving, and no time of steps."""
        begun = time.monotonic()
        yield
        self._parts[name] += time.monotonic() - begun

    def pause(self, step: int) -> float:
        """Forgets the time since the last report, in which something else was done; returns it."""
        before, self._step, self._time = self._time, step, time.monotonic()
        self._parts = dict.fromkeys(PARTS, 0.0)
        return self._time - before

    def report(self, step: int, terms: Mapping[str, float]) -> dict[str, float]:
        """Prints the line of `step`.

        Args:
            step: number of the last step, whose results the host has waited for.
            terms: its scalars, see `massformer_jax.step.training_step`.

        Returns:
            `images_per_second` since the last line, and `seconds_input`, `seconds_checkpoint` and
            `seconds_step`, the rest: means a step. Nothing where no step was timed.
        """
        steps, parts = step - self._step, self._parts
        seconds = self.pause(step)
        speed, rate = {}, ""
        if steps:
            speed = {f"seconds_{name}": parts[name] / steps for name in PARTS}
            speed["seconds_step"] = (seconds - sum(parts.values())) / steps
            images = speed["images_per_second"] = steps * self._batch_size / max(seconds, 1e-9)
            left = (self._total_steps - step) * self._batch_size / images
            split = ", ".join(
                f"{name} {speed[f'seconds_{name}']:.3f}" for name in ("input", "step", "checkpoint")
            )
            rate = f"  {images:.2f} images/s (seconds: {split})  {duration(left)} left"
        losses = "  ".join(
            f"{name} {terms[key]:.3f}"
            for name, key in (
                ("class", "loss_cls"),
                ("mask", "loss_mask"),
                ("dice", "loss_dice"),
                ("edge", "edge_loss"),
            )
        )
        skipped = f"  {terms['skipped']:.0f} skipped" if terms["skipped"] else ""
        print(
            f"step {step}/{self._total_steps}  loss {terms['loss']:.2f}  ({losses}){skipped}{rate}",
            flush=True,
        )
        return speed


def duration(seconds: float) -> str:
    """Days, hours, minutes, seconds: the two largest that are not zero, `1 h 12 min`."""
    rest, parts = round(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        amount, rest = divmod(rest, length)
        if amount or (unit == "s" and not parts):
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2])


class EvaluationProgress:
    """Photographs done and the mIoU so far: a bar in a terminal, a line a minute elsewhere."""

    def __init__(self, total: int | None, *, shown: bool = True):
        self._shown = shown
        self._done, self._total = 0, total
        self._begun = self._printed = time.monotonic()
        drawn = shown and terminal()
        self._bar = tqdm.tqdm(
            total=total, unit="photo", desc="evaluation", leave=False, disable=not drawn
        )

    def __enter__(self) -> "EvaluationProgress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def update(self, count: int, mean_iou: float) -> None:
        """`count` more photographs are in the scores, whose mIoU is now this, 0..1."""
        self._done += count
        self._bar.set_postfix_str(f"mIoU {100 * mean_iou:.2f}", refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        if self._shown and self._bar.disable and now - self._printed >= LINE_EVERY:
            self._printed = now
            of = f" of {self._total}" if self._total else ""
            each = (now - self._begun) / self._done
            print(
                f"evaluated {self._done}{of} photographs, {each:.2f} s each; "
                f"mIoU {100 * mean_iou:.2f} so far",
                flush=True,
            )


def say_beside_bar(line: str) -> None:
    """Prints on standard error, on the first process, above a bar if there is one."""
    if jax.process_index() == 0:
        tqdm.tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


def terminal() -> bool:
    """Whether a bar can be drawn on standard error."""
    return sys.stderr.isatty()
