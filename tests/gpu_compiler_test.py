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


MODELS = ("massformer_r50", "massformer_r18_lite", "sample")
DTYPES = ("float32", "bfloat16")
LARGE, CROPS = "3072x4096", "1024x1024"

# Temporaries of one device at most, in MB: what jax 0.11.2 takes (2026-11-26; the larger of both
# GPUs and dtypes), and a quarter more. Whoever makes a program smaller lowers its number.
MEGABYTES = {
}  # fmt: skip

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
# What two GPUs send each other. Parameters are gathered where they are split; rows need their
# neighbours, and the maps that are sampled from.
TWO_GPUS = [
    (Program("h100", "train", "massformer_r18_lite", mesh="data=2"), {"all-reduce"}),
    (Program("h100", "train", "massformer_r18_lite", mesh="fsdp=2"), {"all-gather", "all-reduce"}),
    (Program("h100", "train", "massformer_r18_lite", mesh="spatial=2"), {"all-reduce"}),
    (Program("h100", "evaluation", "massformer_r18_lite", mesh="data=2"), set()),
    (Program("h100", "evaluation", "massformer_r18_lite", mesh="fsdp=2"), set()),
    (
        Program("h100", "evaluation", "massformer_r50", size="512x512", mesh="spatial=2"),
        {"all-gather", "collective-permute"},
    ),
]


def compiled(program: Program) -> dict:
    """The record of a program that compiles and does not take more memory than it may."""
    flags = [
        part for name, value in program._asdict().items() if value for part in (f"--{name}", value)
    ]
    record = compile_apart(flags)
    most = MEGABYTES[" ".join(x for x in program[1:] if x and x not in DTYPES)]
    assert record["temp_bytes"] / 1e6 <= most, f"{program}: more temporaries than {most} MB"
    return record


@pytest.mark.parametrize("program", CHOICE, ids=" ".join)
def test_choice(program):
    compiled(program)


@pytest.mark.long
@pytest.mark.parametrize("program", EVERYTHING, ids=" ".join)
def test_everything(program):
    compiled(program)


@pytest.mark.long
@pytest.mark.parametrize(("program", "collectives"), TWO_GPUS, ids=lambda x: " ".join(x))
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
