"""The progress of a training run: lines on the terminal, and scalars for TensorBoard."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping

import jax
from jax.typing import ArrayLike

from massformer_jax.command import duration
from massformer_jax.files import Place
from massformer_jax.parallel import processes
from massformer_jax.parallel.processes import say
from massformer_jax.training.scalars import Scalars

PARTS = ("input", "checkpoint")


class Progress:
    """Says step, losses, speed and time left; evaluations do not count as training time.

    Args:
        folder: where the scalars are written; those of a run that came further are cut off.
        first: number of the step that the run continues from.
        total_steps: number of its last step.
        batch_size: over all devices.
        every: number of steps from one report to the next; the last step has one, too.
        schedule: the learning rate of a step, counted from 0.
    """

    def __init__(
        self,
        folder: Place,
        first: int,
        *,
        total_steps: int,
        batch_size: int,
        every: int,
        schedule: Callable[[int], ArrayLike],
    ):
        self._first, self._total_steps = first, total_steps
        self._batch_size, self._every, self._schedule = batch_size, every, schedule
        self._scalars = Scalars(folder, first + 1) if processes.is_first() else None
        self._step, self._time = first, time.monotonic()
        self._parts = dict.fromkeys(PARTS, 0.0)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        if self._scalars:
            self._scalars.close()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what the host spends here as one of `PARTS`, and not as time of steps."""
        begun = time.monotonic()
        yield
        self._parts[name] += time.monotonic() - begun

    def pause(self, step: int) -> float:
        """Forgets the time since the last report, in which something else was done; returns it."""
        before, self._step, self._time = self._time, step, time.monotonic()
        self._parts = dict.fromkeys(PARTS, 0.0)
        return self._time - before

    def stepped(self, step: int, terms: Mapping[str, ArrayLike]) -> None:
        """Takes note of a step; waits for the first one, whose time is that of its compilation."""
        if step == self._first + 1:
            jax.block_until_ready(terms)
            say(f"the first step, compiled, took {self.pause(step):.0f} s")

    def is_due(self, step: int) -> bool:
        """Tells whether there is a report of this step."""
        return step % self._every == 0 or step == self._total_steps

    def report(self, step: int, terms: Mapping[str, ArrayLike]) -> None:
        """Waits for a step, prints its line and writes its scalars, on the first process.

        Beside the terms the scalars are the learning rate, `images_per_second` since the last
        report, and the means per step of `seconds_input`, `seconds_checkpoint` and
        `seconds_step`, the rest. There is no speed where no step was timed.

        Args:
            step: number of the last step.
            terms: its scalars, see `massformer_jax.training.step.training_step`.
        """
        if not processes.is_first():
            return
        numbers = {name: float(value) for name, value in terms.items()}
        speed = self._speed(step)
        print(self._line(step, numbers, speed), flush=True)
        # Of the step: the optimizer counts those before it that were applied.
        finite = math.isfinite(numbers["loss"]) and math.isfinite(numbers["gradient_norm"])
        applied = step - 1 - (round(numbers["skipped"]) - (not finite))
        numbers |= speed | {"learning_rate": float(self._schedule(applied))}
        self.write(step, {f"train/{name}": value for name, value in numbers.items()})

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars of a step, on the first process."""
        if self._scalars:
            self._scalars.write(step, scalars)

    def _speed(self, step: int) -> dict[str, float]:
        steps, parts = step - self._step, self._parts
        seconds = self.pause(step)
        if not steps:
            return {}
        speed = {f"seconds_{name}": parts[name] / steps for name in PARTS}
        speed["seconds_step"] = (seconds - sum(parts.values())) / steps
        speed["images_per_second"] = steps * self._batch_size / max(seconds, 1e-9)
        return speed

    def _line(self, step: int, terms: Mapping[str, float], speed: Mapping[str, float]) -> str:
        losses = "  ".join(
            f"{name} {terms[key]:.3f}"
            for name, key in (
                ("class", "loss_cls"),
                ("mask", "loss_mask"),
                ("dice", "loss_dice"),
                ("edge", "edge_loss"),
            )
            if key in terms
        )
        skipped = f"  {terms['skipped']:.0f} skipped" if terms["skipped"] else ""
        rate = ""
        if speed:
            images = speed["images_per_second"]
            left = (self._total_steps - step) * self._batch_size / images
            times = ", ".join(
                f"{name} {speed[f'seconds_{name}']:.3f}" for name in ("input", "step", "checkpoint")
            )
            rate = f"  {images:.2f} images/s (seconds: {times})  {duration(left)} left"
        return (
            f"step {step}/{self._total_steps}  loss {terms['loss']:.2f}  ({losses}){skipped}{rate}"
        )
