"""Tests that programs compile for GPUs without one, and that their memory does not grow.

make test-gpu-compiler          runs the tests not marked long
make test-gpu-compiler-all      compiles every task of every config, in both dtypes, for both GPUs
"""

import importlib.util
import itertools
import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from scripts import ROOT
from scripts.gpu_compiler.__main__ import GPUS, compile_apart

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

# Temporaries of one device in MB for an H100, in float32 unless the dtype stands there: bfloat16
# may not take more. Those of 12 megapixels are what jax 0.11.2 makes (2026-11-26), all others what
# jax 0.10.2 makes (2026-11-29). Another GPU or version may take a bit more (an A100 with jax 0.10.2
# 20 % at 12 megapixels). Whoever makes a program smaller lowers its number.
MEGABYTES = {
    "inference massformer_r50 256x256": 35.9,
    "inference massformer_r18_lite 256x256": 21.8,
    "inference sample 256x256": 12.6,
    "inference massformer_r50 float32 3072x4096": 3517.0,
    "inference massformer_r50 bfloat16 3072x4096": 1796.7,
    "inference massformer_r18_lite float32 3072x4096": 1808.9,
    "inference massformer_r18_lite bfloat16 3072x4096": 926.5,
    "inference massformer_r18_lite bfloat16 512x512 data=2": 78.8,
    "inference massformer_r18_lite bfloat16 512x512 fsdp=2": 78.8,
    "inference massformer_r18_lite bfloat16 512x512 spatial=2": 80.4,
    "scores massformer_r50 256x256": 35.4,
    "scores massformer_r18_lite 256x256": 21.8,
    "scores sample 256x256": 12.3,
    "windows massformer_r18_lite 256x256": 7.3,
    "evaluation massformer_r50 256x256": 35.9,
    "evaluation massformer_r18_lite 256x256": 21.8,
    "evaluation sample 256x256": 12.6,
    "counts massformer_r18_lite 256x256": 0.8,
    "train massformer_r50 256x256": 798.6,
    "train massformer_r18_lite 256x256": 445.4,
    "train sample 256x256": 201.6,
    "train massformer_r50 bfloat16 1024x1024": 5161.9,
    "train_remat massformer_r50 bfloat16 1024x1024": 2053.8,
    "train massformer_r18_lite bfloat16 256x256 data=2": 330.4,
    "train massformer_r18_lite bfloat16 256x256 fsdp=2": 333.0,
    "train massformer_r18_lite bfloat16 256x256 spatial=2": 330.4,
    "initialization massformer_r50 256x256": 0.1,
    "initialization massformer_r18_lite 256x256": 0.1,
    "initialization sample 256x256": 0.1,
}
MARGIN = 1.3

# The smallest that have met the compiler's faults: both networks in both dtypes, and training.
CHOICE = [
    # The longest first: two processes share them.
    Program("h100", "train", "massformer_r18_lite", "bfloat16"),
    *(Program("h100", "inference", model, dtype) for model in MODELS[:2] for dtype in DTYPES),
    Program("a100", "evaluation", "massformer_r18_lite"),
    Program("a100", "windows", "massformer_r18_lite"),
    Program("a100", "counts", "massformer_r18_lite"),
]
# Putting windows together and counting know neither the network nor its dtype: they are in the
# choice. Initial weights are float32.
_TASKS = ("inference", "scores", "evaluation", "train")
EVERYTHING = [
    *(Program(*x) for x in itertools.product(GPUS, _TASKS, MODELS, DTYPES)),
    *(Program(gpu, "initialization", model) for gpu, model in itertools.product(GPUS, MODELS)),
    *(Program("h100", task, "massformer_r18_lite") for task in ("windows", "counts")),
    *(
        Program(gpu, "inference", model, dtype, "3072x4096")
        for gpu, model, dtype in itertools.product(GPUS, MODELS[:2], DTYPES)
    ),
    *(
        Program(gpu, task, "massformer_r50", "bfloat16", "1024x1024")
        for gpu, task in itertools.product(GPUS, ("train", "train_remat"))
    ),
]
EVERYTHING = [program for program in EVERYTHING if program not in CHOICE]


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


# Twice 20 queries: without a GPU to try others on, the compiler chooses tiles that do not exist for
# the product that follows their attention (jax#34010).
BY_CUBLAS = [("train", "sample")]


def compiled(program: Program) -> dict:
    """Returns the record of a program, which compiles and takes no more memory than it may."""
    flags = [(f"--{flag}", value) for flag, value in program._asdict().items() if value]
    flags += [("--cublas",)] if (program.task, program.model) in BY_CUBLAS else []
    record = compile_apart([part for flag in flags for part in flag])
    megabytes = record["temp_bytes"] / 1e6
    names = name(program._replace(gpu="")), name(program._replace(gpu="", dtype=""))
    known = next(MEGABYTES[x] for x in names if x in MEGABYTES)
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
    """Each of several devices runs it on its own part, and nothing is gathered."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.kernel_for_gpu", *target.split()],
        cwd=ROOT,
        env={"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"product": 1, "pallas": 1}
