"""Checks and times on one GPU what fits into the time budget; `make benchmark-gpu` runs it.

    python -m scripts.benchmark.gpu [--budget 345] [--output DIR] [--only PART]

It runs from a checkout and needs jax for the GPU, flax, optax and numpy, and nothing else. It needs
no network. Where PyTorch and torchvision are installed, the deformable convolutions are computed by
them as well.

The arguments are on the device before a time begins, and the results stay there.
"""

import sys

from scripts.benchmark.device.command import Benchmark, run

BENCHMARK = Benchmark(
    name="gpu",
    about=__doc__,
    command=(sys.executable, "-m", "scripts.benchmark.gpu.stage"),
    stages={"main": 0.7, "first_mask": 0.9, "torch": 0.94, "more": 1.0},
    budget=345,  # just under six minutes
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 if something failed, 2 without a GPU."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    sys.exit(main())
