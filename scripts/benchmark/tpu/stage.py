"""A stage of the benchmark for TPUs, in a process of its own."""

import argparse
import os
from collections.abc import Mapping

from scripts.benchmark.device import first_mask
from scripts.benchmark.device.measurement import Measurement
from scripts.benchmark.device.stage import run_stage

# The compiler for TPUs tries nothing out on the device, so only cores and memory limit it.
CORES_PER_PROGRAM = 4


def measurements(args: argparse.Namespace, environment: Mapping[str, str]) -> list[Measurement]:
    """Returns the measurements of a stage, the most important first."""
    if args.stage == "first_mask":
        # The stage before has compiled it, and said how long that took.
        what = args.small, environment, args.cache, args.deadline
        return [first_mask.first_mask("first_mask", *what)]
    # This import is here because jax reads the environment, which `run_stage` prepares.
    from scripts.benchmark.tpu import plan

    return (plan.small if args.small else plan.full)(args.stage)


if __name__ == "__main__":
    at_once = max(2, (os.cpu_count() or 1) // CORES_PER_PROGRAM)
    run_stage("tpu", measurements, at_once, keep=True)
