"""What the instructions of the same program were counted to take, beside the time that it took."""

import functools
from collections.abc import Iterable
from typing import Any

import jax

from scripts.benchmark.device.measurement import Measurement
from scripts.conditions import describe
from scripts.pods.table import Estimate, estimate, load

_TASKS = {"evaluate": "inference", "train": "train"}  # what scripts/pods calls them, and we


def with_counted(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Returns measurements of networks whose results also say what was counted, if it was."""
    return [Measurement(name, functools.partial(_prepare, make)) for name, make in measurements]


def _prepare(make):
    run = make()

    def with_count():
        result = run()
        found = counted(result, describe(jax.devices()[:1]))
        if found is None:
            return result
        floor, waiting = found.core, found.apart
        text = f"counted: {1e3 * floor:.0f} ms at the least, {1e3 * waiting:.0f} ms with waits"
        result["counted"] = {"floor": round(floor, 4), "with_waits": round(waiting, 4)}
        return result | {"summary": f"{result['summary']}; {text}"}

    return with_count


def counted(result: dict[str, Any], device: str) -> Estimate | None:
    """Returns the seconds that the result of `scripts.pods` for one such device tells, if any.

    Args:
        result: a result of `scripts.benchmark.device.times.networks`.
        device: as `scripts.conditions.describe` says it.
    """
    same = ("model", "size", "batch", "dtype")
    for record in load().values():
        if (
            record["device"] == device
            and _TASKS[record["task"]] == result["task"]
            and all(record[key] == result[key] for key in same)
            and record["cycles"] is not None
        ):
            return estimate(record)
    return None
