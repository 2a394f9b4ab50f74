"""Programs for GPUs, compiled without one: the compiler does not abort, and memory does not grow.

make test-gpu-compiler          those not marked long
make test-gpu-compiler-all      every task of every config, in both dtypes, for both GPUs
"""

import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

from compile_for_gpu import GPUS, TASKS, compile_apart  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.gpu_compiler,
    pytest.mark.skipif(
        not importlib.util.find_spec("jax_cuda13_plugin"),
        reason="needs the compiler for GPUs: make test-gpu-compiler",
    ),
]


class Program(NamedTuple):
    gpu: str
    task: str
    model: str
    dtype: str = "float32"
    size: str = "256x256"
    mesh: str = ""


def name(program: Program) -> str:
    return " ".join(filter(None, program))


MODELS = ("massformer_r50", "massformer_r18_lite", "sample")
DTYPES = ("float32", "bfloat16")
LARGE, CROPS = "3072x4096", "1024x1024"

# Temporaries of one device in MB, in float32 and in bfloat16, as jax 0.11.2 makes them for an H100
# (2026-11-26). Another GPU or version may take a little more; who needs less lowers the number.
MEGABYTES = {
    "inference massformer_r50 256x256": (39.4, 39.4),
    "inference massformer_r18_lite 256x256": (39.3, 39.4),
    "inference massformer_r50 3072x4096": (3517.0, 1796.7),
    "inference massformer_r18_lite 3072x4096": (1808.9, 926.5),
    "windows massformer_r18_lite 256x256": (7.3,),
    "evaluation massformer_r18_lite 256x256": (39.6,),
    "counts massformer_r18_lite 256x256": (0.8,),
    "train massformer_r18_lite 256x256": (458.0,),
}  # fmt: skip
MARGIN = 1.25

# The smallest that have met the compiler's faults: both networks in both dtypes, and training.
CHOICE = [
    # The longest first: two processes share them.
    Program("h100", "train", "massformer_r18_lite"),
    *(Program("h100", "inference", model, dtype) for model in MODELS[:2] for dtype in DTYPES),
    Program("a100", "evaluation", "massformer_r18_lite"),
    Program("a100", "windows", "massformer_r18_lite"),
    Program("a100", "counts", "massformer_r18_lite"),
]
EVERYTHING = [
    *(Program(*x) for x in itertools.product(GPUS, TASKS, MODELS, DTYPES)),
    *(
        Program(gpu, "inference", model, dtype, LARGE)
        for gpu, model, dtype in itertools.product(GPUS, MODELS[:2], DTYPES)
    ),
    *(Program(gpu, "train", "massformer_r50", "bfloat16", CROPS) for gpu in GPUS),
]
# Of these, neither the dtype nor, but for its width, the model changes anything.
EVERYTHING = [
    program
    for program in EVERYTHING
    if program not in CHOICE
    and not (program.task in ("windows", "counts", "initialization") and program.dtype != "float32")
]


def two_gpus(task: str, mesh: str) -> Program:
    size = "256x256" if task == "train" else "512x512"
    return Program("h100", task, "massformer_r18_lite", "bfloat16", size, mesh)


# What two GPUs send each other. Parameters are gathered where they are split; rows need their
# neighbours, and the maps that are sampled from.
TWO_GPUS = [
    (two_gpus("train", "data=2"), {"all-reduce"}),
    (two_gpus("train", "fsdp=2"), {"all-gather", "all-reduce"}),
    (two_gpus("train", "spatial=2"), {"all-reduce"}),
    (two_gpus("inference", "data=2"), set()),
    (two_gpus("inference", "fsdp=2"), set()),
    (two_gpus("inference", "spatial=2"), {"all-gather", "collective-permute"}),
]


def compiled(program: Program) -> dict:
    """The record of a program that compiles and does not take more memory than it may."""
    flags = [(f"--{flag}", value) for flag, value in program._asdict().items() if value]
    record = compile_apart([part for flag in flags for part in flag])
    megabytes = record["temp_bytes"] / 1e6
    known = MEGABYTES[name(program._replace(gpu="", dtype=""))][DTYPES.index(program.dtype)]
    assert megabytes < MARGIN * known, f"{megabytes:.1f} MB of temporaries; they were {known}"
    return record


@pytest.mark.parametrize("program", CHOICE, ids=name)
def test_choice(program):
    compiled(program)


@pytest.mark.long
@pytest.mark.parametrize("program", EVERYTHING, ids=name)
def test_everything(program):
    compiled(program)


@pytest.mark.long
@pytest.mark.parametrize(("program", "collectives"), TWO_GPUS, ids=[name(x) for x, _ in TWO_GPUS])
def test_two_gpus(program, collectives):
    assert collectives <= compiled(program)["launches"].keys()


@pytest.mark.parametrize("target", ["h100", "a100", "h100 data=2", "h100 fsdp=2", "a100 spatial=2"])
def test_a_kernel_of_our_own(target):
    """On several devices each runs it on its own part: nothing is gathered."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests/kernel_for_gpu.py", *target.split()],
        env={"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{SCRIPTS}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"product": 1, "pallas": 1}
