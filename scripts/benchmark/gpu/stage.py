"""A stage of the benchmark for GPUs, in a process of its own."""

import argparse
from collections.abc import Mapping

from scripts.benchmark.device import first_mask
from scripts.benchmark.device.measurement import Measurement
from scripts.benchmark.device.stage import run_stage

# More at once take longer than one after the other: they wait for the GPU, which tries out
# algorithms for each of them. Ten had not compiled after 138 s on an H100 with 16 cores, where one
# takes 17 s.
AT_ONCE = 2


def measurements(args: argparse.Namespace, environment: Mapping[str, str]) -> list[Measurement]:
    """Returns the measurements of a stage, the most important first."""
    # These imports are here because jax reads the environment, which `run_stage` prepares.
    if args.stage == "first_mask":
        what = args.small, environment, args.cache, args.deadline
        return [first_mask.first_mask(f"first_mask_{name}", *what) for name in ("cold", "warm")]
    if args.stage == "torch":
        from scripts.benchmark.gpu import torch_times

        return torch_times.measurements(args.small)
    from scripts.benchmark.gpu import plan

    return (plan.small if args.small else plan.full)(args.stage)


if __name__ == "__main__":
    run_stage("gpu", measurements, AT_ONCE, keep=False)
