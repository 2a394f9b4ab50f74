"""Checks and times on one TPU chip what fits into the time budget; `make benchmark-tpu` runs it.

    python -m scripts.benchmark.tpu [--budget 580] [--output DIR] [--only PART]

It runs from a checkout and needs jax for the TPU, flax, optax and numpy, and nothing else. It needs
no network. If the machine has several chips, it uses one. A slice of several machines does not
start for one of them alone.

First come checks: whether products of float32 arrays are float32, and whether the deformable
convolutions are those of the definition. Then it times these layers, and what they consist of: one
row that is gathered or added, and one sort. At last come the whole network and the first mask of a
new process. Where the instructions of the same program were counted with the compiler, a floor of
its time stands beside the time.

Compiling for a TPU takes most of the time. As many programs compile at once as the machine has
cores for.

The arguments are on the device before a time begins, and the results stay there.
"""

import sys

from scripts.benchmark.device.command import Benchmark, run

BENCHMARK = Benchmark(
    name="tpu",
    about=__doc__,
    command=(sys.executable, "-m", "scripts.benchmark.tpu.stage"),
    stages={"layers": 0.4, "networks": 0.95, "first_mask": 1.0},
    budget=580,  # just under ten minutes
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 if something failed, 2 without a TPU."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    sys.exit(main())
