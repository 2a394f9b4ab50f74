"""Tests of reading programs compiled for GPUs, and of the messages when the compiler fails."""

import importlib.util
import sys

import pytest

import scripts.gpu_compiler.__main__ as command
from massformer_jax.errors import InputError
from scripts.gpu_compiler import programs, targets
from scripts.gpu_compiler.launches import count_launches

# As the compiler for GPUs writes it, shortened: a loop of 9 turns that starts a fusion beside a
# product; one that ends when its data says so; branches; a graph of kernels; libraries.
TEXT = """HloModule jit_f, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%p)
}

%counted (a: (s32[], f32[8])) -> pred[] {
  %a = (s32[], f32[8]{0}) parameter(0)
  ROOT %asked = pred[] fusion(%a), kind=kLoop, calls=%fused
}

%turn (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %b = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%b), index=1
  %begun = ((f32[8]{0}), f32[8]{0}, u32[]) fusion-start(%x), kind=kLoop, calls=%fused
  %dot = f32[8]{0} fusion(%x), kind=kCustom, calls=%fused, backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}
  %ended = f32[8]{0} fusion-done(%begun)
  ROOT %next = (s32[], f32[8]{0}) tuple(%x, %ended)
}

%until (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]{0}) parameter(0)
  ROOT %question = pred[] fusion(%c), kind=kLoop, calls=%fused
}

%little (d: f32[8]) -> f32[8] {
  %d = f32[8]{0} parameter(0)
  ROOT %d1 = f32[8]{0} copy(%d)
}

%much (e: f32[8]) -> f32[8] {
  %e = f32[8]{0} parameter(0)
  %e1 = f32[8]{0} copy(%e)
  ROOT %e2 = f32[8]{0} sort(%e1), dimensions={0}, to_apply=%fused
}

%command_buffer (g: f32[8]) -> f32[8] {
  %g = f32[8]{0} parameter(0)
  %g1 = (f32[8]{0}, u8[0]{0}) custom-call(%g), custom_call_target="__cudnn$convForward"
  %g2 = f32[8]{0} get-tuple-element(%g1), index=0
  ROOT %g3 = f32[8]{0} custom-call(%g2), custom_call_target="__gpu$xla.gpu.triton"
}

ENTRY %main (x0: f32[8]) -> f32[8] {
  %x0 = f32[8]{0} parameter(0)
  %zero = s32[] constant(0)
  %first = (s32[], f32[8]{0}) tuple(%zero, %x0)
  %nine = (s32[], f32[8]{0}) while(%first), condition=%counted, body=%turn, backend_config={"known_trip_count":{"n":"9"}}
  %some = (s32[], f32[8]{0}) while(%nine), condition=%until, body=%turn
  %y = f32[8]{0} get-tuple-element(%some), index=1
  %either = f32[8]{0} conditional(%zero, %y, %y), branch_computations={%little, %much}
  %graph = f32[8]{0} call(%either), to_apply=%command_buffer
  %sum = f32[8]{0} all-reduce-start(%graph), to_apply=%fused
  %done = f32[8]{0} all-reduce-done(%sum)
  ROOT %same = f32[8]{0} bitcast(%done)
}
"""  # noqa: E501


def test_launches():
    found = count_launches(TEXT)
    once = {"copy": 1, "sort": 1, "convolution": 1, "pallas": 1, "all-reduce": 1}
    # The condition of the second loop is asked once, as its body is counted once.
    assert found.launches == {"fusion": 9 + 2, "product": 9 + 1, **once}
    assert found.kernels == {"fusion": 1 + 2, "product": 2, **once}
    assert found.open_loops == 1


def compiler_that(does: str, tmp_path, monkeypatch) -> None:
    """Replaces the process that compiles by a shell command."""
    shell = tmp_path / "python"
    shell.write_text(f"#!/bin/sh\n{does}\n")
    shell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shell))


ARGUMENTS = ["--task", "train", "--model", "sample", "--size", "256x512", "--mesh", "fsdp=2"]
NAME = "train of sample, 4 x 256x512, float32, for h100, fsdp=2"


@pytest.mark.parametrize(
    ("does", "status", "message"),
    [
        (
            "echo 'F1126 08:24 a.cc:703] Check failed: 64 vs. 1' >&2; echo '*** trace' >&2\n"
            "kill -ABRT $$",
            1,
            f"error: {NAME}: the compiler died of SIGABRT: "
            "F1126 08:24 a.cc:703] Check failed: 64 vs. 1\n",
        ),
        ("kill -KILL $$", 1, f"error: {NAME}: the compiler died of SIGKILL: it said nothing\n"),
        ("echo 'XlaRuntimeError: no' >&2; exit 1", 1, f"{NAME} does not compile:\nXlaRuntimeError"),
        ("echo 'error: size is odd' >&2; exit 2", 2, "error: size is odd\n"),
    ],
)
def test_failures_name_the_program(does, status, message, tmp_path, monkeypatch, capfd):
    compiler_that(does, tmp_path, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        command.main(ARGUMENTS)
    assert ended.value.code == status
    assert message in capfd.readouterr().err


def test_tasks_and_gpus_that_the_command_knows_exist():
    assert command.GPUS == targets.GPUS
    assert all(hasattr(programs.Programs, task) for task in command.TASKS)


def test_an_unknown_config():
    names = "finetune, massformer_r18_lite, massformer_r50, sample"
    for name in ("r50", "coordinates_dinov2_s"):
        with pytest.raises(InputError, match=f"no config '{name}' of a MaSSFormer; use {names}$"):
            programs.load_config(name)


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is not None, reason="it is installed"
)
def test_without_the_compiler():
    with pytest.raises(InputError, match=r"not installed: pip install .*gpu-compiler"):
        targets.target_devices("h100", 1)
