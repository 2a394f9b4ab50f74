"""The programs that are compiled for slices of TPUs, and the folder of the results."""

from typing import NamedTuple

from scripts import ROOT

RESULTS = ROOT / "benchmarks/pods"


class Program(NamedTuple):
    """A program and the slice that it is compiled for."""

    task: str  # train or evaluate
    topology: str
    batch: int
    mesh: dict[str, int]
    size: tuple[int, int] = (1024, 1024)
    model: str = "massformer_r50"
    dtype: str = "bfloat16"


_ALL = {"data": -1}
_LARGE = (3072, 4096)
# A single chip gets two crops: the network normalises its global context over the batch, and needs
# at least two.
PROGRAMS = {
    "train_v5e_1": Program("train", "v5e:1x1", 2, _ALL),
    "train_v5e_4": Program("train", "v5e:2x2", 4, _ALL),
    "train_v5e_16": Program("train", "v5e:4x4", 16, _ALL),
    "train_v5e_64": Program("train", "v5e:8x8", 64, _ALL),
    "train_v5e_256": Program("train", "v5e:16x16", 256, _ALL),
    "train_v5p_64": Program("train", "v5p:4x4x4", 64, _ALL),
    "train_v6e_16": Program("train", "v6e:4x4", 16, _ALL),
    # A chip of 7x is two devices, so these eight chips train sixteen crops.
    "train_7x_8": Program("train", "tpu7x:2x2x2", 16, _ALL),
    "evaluate_v5e_1": Program("evaluate", "v5e:1x1", 1, _ALL, _LARGE),
    "evaluate_v5e_1_float32": Program("evaluate", "v5e:1x1", 1, _ALL, _LARGE, dtype="float32"),
    "evaluate_v5e_4": Program("evaluate", "v5e:2x2", 1, {"spatial": 4}, _LARGE),
    "evaluate_v6e_1": Program("evaluate", "v6e:1x1", 1, _ALL, _LARGE),
    "evaluate_7x_1": Program("evaluate", "tpu7x:1x1x1", 1, {"spatial": 2}, _LARGE),
}
