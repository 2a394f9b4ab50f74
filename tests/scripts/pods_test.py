"""Tests of what is read from programs compiled for slices, and of the tables made of it."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

import scripts.pods.__main__ as command
from massformer_jax.parallel import sharding
from scripts import ROOT
from scripts.pods import table
from scripts.pods.collectives import Collective, collectives, total_bytes, wire_seconds
from scripts.pods.programs import PROGRAMS
from scripts.program_cost import cost, memory_bytes


def compiled(function, *shapes, axes, specs):
    """Returns the text of a program that is mapped over 8 devices."""
    mesh = sharding.make_mesh(jax.devices(), axes)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(mapped).lower(*arguments).compile().as_text()


def test_collectives_of_a_program_with_loops():
    """A device holds 16 floats of x and 4 of y."""

    def turn(_, x):
        return x * jax.lax.psum(x, "fsdp")

    def function(x, y):
        x = jax.lax.fori_loop(0, 5, turn, x)
        others = jax.lax.all_gather(y, "data", tiled=True)
        ahead = jax.lax.ppermute(y, "data", [(0, 1), (1, 2)])
        return x + others.sum() + ahead.sum() + jax.lax.psum(others[0] * ahead[0], ("data", "fsdp"))

    spec = PartitionSpec(("data", "fsdp"))
    axes = {"data": 4, "fsdp": 2}
    text = compiled(function, (8 * 16,), (8 * 4,), axes=axes, specs=(spec, spec))
    found = {(x.kind, x.bytes, x.devices): x.times for x in collectives(text)}
    assert found == {
        ("all-reduce", 4 * 16, 2): 5,
        ("all-gather", 4 * 4, 4): 1,
        ("collective-permute", 4 * 4, 8): 1,
        ("all-reduce", 4, 8): 1,
    }
    assert total_bytes(collectives(text)) == {
        "all-reduce": 5 * 64 + 4,
        "all-gather": 16,
        "collective-permute": 16,
    }


def test_a_loop_that_its_data_ends_may_hold_no_collective():
    def function(x):
        return jax.lax.while_loop(
            lambda x: x[0] < 9, lambda x: x + jax.lax.psum(x, "data").astype(x.dtype), x
        )

    spec = PartitionSpec("data")
    text = compiled(function, (8,), axes={"data": 8}, specs=(spec,))
    with pytest.raises(ValueError, match="a loop of unknown length holds collectives"):
        collectives(text)


# As the compiler for TPUs writes it, shortened: a loop of 6 turns that its condition alone tells;
# a collective that is spread over other work; a fusion that reads one row of a map and replaces it;
# what lies in S(1) is not in main memory.
TPU_TEXT = """HloModule jit_f, is_scheduled=true, num_partitions=4

%condition (p: (s32[], bf16[8,128])) -> pred[] {
  %six = s32[]{:T(128)} constant(6)
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %six), direction=LT
}

%row (m: bf16[8,128], i: s32[]) -> bf16[8,128] {
  %m = bf16[8,128]{1,0} parameter(0)
  %i.1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = bf16[1,128]{1,0} dynamic-slice(%m, %i.1, %zero), dynamic_slice_sizes={1,128}
  %twice = bf16[1,128]{1,0} add(%slice, %slice)
  ROOT %put = bf16[8,128]{1,0} dynamic-update-slice(%m, %twice, %i.1, %zero)
}

%start (a: f32[32]) -> f32[128] {
  %a = f32[32]{0} parameter(0)
  ROOT %gather.1 = f32[128]{0} all-gather(%a), channel_id=1, replica_groups={{0,1,2,3}}
}

%async_collective_fusion.1 (a: f32[32], b: f32[128]) -> f32[128] {
  %a.1 = f32[32]{0} parameter(0)
  %b.1 = f32[128]{0} parameter(1)
  %gather.2 = f32[128]{0} all-gather(%a.1), channel_id=1, replica_groups={{0,1,2,3}}
  ROOT %two = (f32[128]{0}, f32[128]{0}) tuple(%gather.2, %b.1)
}

%body (q: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %q = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %j = s32[]{:T(128)S(6)} get-tuple-element(%q), index=0
  %map = bf16[8,128]{1,0} get-tuple-element(%q), index=1
  %sum = bf16[8,128]{1,0} all-reduce(%map), channel_id=2, replica_groups=[2,2]<=[4], to_apply=%x
  %new = bf16[8,128]{1,0} fusion(%sum, %j), kind=kLoop, calls=%row, {"estimated_cycles":"100"}
  ROOT %next = (s32[]{:T(128)}, bf16[8,128]{1,0}) tuple(%j, %new)
}

ENTRY %main (x: bf16[8,128], y: f32[32]) -> f32[128] {
  %x.0 = bf16[8,128]{1,0} parameter(0)
  %y.0 = f32[32]{0} parameter(1)
  %near = f32[32]{0:T(128)S(1)} copy(%y.0), {"estimated_cycles":"11"}
  %none = s32[]{:T(128)} constant(0)
  %state = (s32[]{:T(128)}, bf16[8,128]{1,0}) tuple(%none, %x.0)
  %loop = (s32[]{:T(128)}, bf16[8,128]{1,0}) while(%state), condition=%condition, body=%body
  %async-collective-start.1 = f32[128]{0} fusion(%near), kind=kCustom, calls=%start
  %step = (f32[128]{0}, f32[128]{0}) fusion(%near, %near), calls=%async_collective_fusion.1
  ROOT %async-collective-done.1 = f32[128]{0} fusion(%near), kind=kCustom, calls=%start
}
"""


def test_collectives_as_the_compiler_for_tpus_writes_them():
    found = collectives(TPU_TEXT)
    assert [(x.kind, x.bytes, x.devices, x.times) for x in found] == [
        ("all-reduce", 2048, 2, 6),
        ("all-gather", 128, 4, 1),
    ]


def test_cost_counts_turns_and_main_memory_alone():
    """y is read. A turn reduces 2048 bytes, reads and replaces a row, and compares two numbers."""
    moved, cycles = cost(TPU_TEXT)
    assert cycles == 11 + 6 * 100
    # What is no estimate does not count.
    assert cost(TPU_TEXT.replace('"11"', f'"{2**63 - 1}"')).cycles == 6 * 100
    assert moved == 128 + 6 * (2 * 2048 + 256 + 2 * 256 + 9)
    assert memory_bytes("(bf16[3,5]{1,0}, f32[7]{0:T(128)S(1)}, pred[8])") == 30 + 8


def test_seconds_on_rings():
    seconds = functools.partial(wire_seconds, bandwidth=100.0)
    one = Collective("all-reduce", 400, 4, 2, "", "")
    assert seconds([one]) == pytest.approx(2 * 2 * 3 / 4 * 400 / 100)
    assert seconds([one._replace(kind="all-gather", times=1)]) == pytest.approx(3 * 400 / 100)
    assert seconds([one._replace(kind="reduce-scatter", times=1)]) == pytest.approx(3.0)
    assert seconds([one._replace(kind="collective-permute", times=1)]) == pytest.approx(4.0)


RECORD = {
    "task": "train",
    "topology": "v5e:16x16",
    "batch": 256,
    "mesh": {"data": 256, "fsdp": 1, "spatial": 1},
    "size": "1024x1024",
    "model": "massformer_r50",
    "dtype": "bfloat16",
    "flops": 256 * 197e10,
    "hbm_bytes": 819e6,
    "cycles": 1_502_990_723,
    "counted": {
        "gathers": {"bundles": 150_299_072, "waits": 30, "stalls": 0, "unknown": 0},
        "scatters": {"bundles": 300_598_145, "waits": 70_000, "stalls": 70_000_000, "unknown": 0},
        "sorts": {"bundles": 15_029_907, "waits": 0, "stalls": 0, "unknown": 9},
        "others": {"bundles": 1_502_991, "waits": 0, "stalls": 0, "unknown": 0},
        "program": {"bundles": 3_005_981, "waits": 10, "stalls": 5_149_536, "unknown": 2},
    },
    "copy_cycles": 1000,
    "memory": {
        "arguments": 500, "outputs": 400, "aliased": 400, "temporaries": 3_000_000, "code": 0,
    },
    "collectives": [{"kind": "all-reduce", "devices": 256, "count": 10, "bytes": 256_000_000}],
    "versions": {"jax": "0.10.2", "libtpu": "0.0.52"},
    "date": "2026-11-22",
}  # fmt: skip


def test_estimates():
    times = table.estimate(RECORD)
    assert times.products == pytest.approx(0.01)
    assert times.memory == pytest.approx(0.001)
    assert times.compiler == pytest.approx(1.0, rel=1e-6)
    assert times.gathers == pytest.approx(0.1, rel=1e-6)
    assert times.scatters == pytest.approx(0.21, rel=1e-6)
    assert times.others == pytest.approx(0.003, rel=1e-6)
    assert times.core == pytest.approx(1.313, rel=1e-6)
    assert times.waits == pytest.approx(0.05, rel=1e-6)
    assert times.links == pytest.approx(2 * 255 * 1e6 / 200e9)
    assert times.latency == pytest.approx(10 * 2 * 16 * 1e-6)
    assert times.apart == pytest.approx(1.313 + 0.05 + 0.00255 + 0.00032, rel=1e-6)
    assert times.together == pytest.approx(1.313, rel=1e-6)
    # Without wrap-around: half of the links, and hops to the far corner.
    smaller = table.estimate(RECORD, "v5e:4x4")
    assert smaller.links == pytest.approx(2 * 15 / 16 * 256e6 / 100e9)
    assert smaller.latency == pytest.approx(10 * 2 * 6 * 1e-6)
    assert table.estimate(RECORD, "v5e:1x1").apart == pytest.approx(1.363, rel=1e-6)
    assert table.diameter("v5p:4x4x4") == table.diameter("tpu7x:4x4x4") == 6
    assert [table.devices_in(x) for x in ("v5e:4x4", "tpu7x:2x2x2")] == [16, 16]


def test_tables():
    text = table.tables({"train_v5e_256": RECORD})
    assert "| 3.0 MB of 16.00 GB |" in text
    assert "| data 256 |" in text and "| 10 all-reduce 256.0 MB |" in text
    assert (
        "| 256 | v5e:16x16 | this slice | 1,000.0 ms | 100.0 ms | 210.0 ms | 3.0 ms | 50.0 ms | "
        "2.6 ms | 0.3 ms | 1,365.9 ms |"
    ) in text
    assert "| 1,313.0 ms | 70,040: 50.0 ms | 2.6 ms | 0.3 ms | 1,365.9 ms | 1,313.0 ms |" in text
    assert "if a copy takes 1,000 cycles" in text
    assert "(1,503.0 million cycles + 470.4 million bundles + 75.1 million cycles of waits)" in text
    assert "2 · 255/256 · 256.0 MB / 200 GB/s = 2.6 ms" in text
    assert "| 16 | v5e:4x4 | 16x16 |" in text


def test_a_program_that_jaxlib_cannot_read():
    nothing = command.read(None, dumps=None)
    assert nothing["cycles"] is nothing["counted"] is nothing["collectives"] is None
    record = {**RECORD, **nothing, "topology": "v5p:4x4x4"}
    text = table.tables({"train_v5p_64": record})
    assert "unreadable | unreadable |" in text and text.count("v5p:4x4x4") == 1

    assert "| not counted | not counted |" in table.tables({"a": {**RECORD, "counted": None}})

    class Compiled:
        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: async-update")

    assert command._text(Compiled()) is None


def test_the_page_shows_the_results():
    records = table.load()
    assert {"train_v5e_256", "evaluate_v5e_1", "evaluate_v5e_4"} <= records.keys()
    page = table.PAGE.read_text()
    assert table.tables(records) in page, "run python -m scripts.pods.table"


def test_what_was_compiled_is_what_it_says():
    """Programs fit into the chips and, in training, only reduce; splitting rows saves much."""
    records = table.load()
    for name, record in records.items():
        program = PROGRAMS[name]
        assert (record["topology"], record["batch"]) == (program.topology, program.batch)
        assert table.chip_bytes(record) < table.chip_of(program.topology).memory
        if program.task == "train" and record["collectives"] is not None:
            several = table.devices_in(record["topology"]) > 1
            kinds = {"all-reduce"} if several else set()
            assert {x["kind"] for x in record["collectives"]} == kinds
    one, four = (table.estimate(records[f"evaluate_v5e_{n}"]) for n in (1, 4))
    # Each chip packs all rows of the maps that it samples from.
    assert four.apart < 0.31 * one.apart
    memory = [table.chip_bytes(records[f"evaluate_v5e_{n}"]) for n in (1, 4)]
    assert memory[1] < 0.95 * memory[0]


@pytest.mark.slow
def test_the_compiler_for_tpus(tmp_path):
    """Four chips of a v5e share the rows of an image, in a process without fake devices."""
    pytest.importorskip("libtpu", reason="pip install libtpu, the compiler; it needs no TPU")
    code = (
        "import pathlib\n"
        "import scripts.pods.__main__ as command\n"
        "command.find_no_tpu()\n"
        "from massformer_jax.models.build import ARCHITECTURES\n"
        "from tests.helpers.tiny_weights import TINY\n"
        "ARCHITECTURES['tiny'] = TINY\n"
        "program = command.PROGRAMS['evaluate_v5e_4']._replace(model='tiny', size=(512, 512))\n"
        "command.PROGRAMS['small'] = program\n"
        f"command.RESULTS = pathlib.Path({str(tmp_path)!r})\n"
        "command.main(['small'])\n"
    )
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "small.json").read_text())
    assert record["device"] == "TPU v5 lite, 4 devices" and record["mesh"]["spatial"] == 4
    assert record["cycles"] > 0 and record["hbm_bytes"] > 0
    assert all(record["counted"][kind]["bundles"] > 0 for kind in ("gathers", "program"))
    kinds = {x["kind"]: x for x in record["collectives"]}
    assert kinds["all-gather"]["bytes"] > 0 and kinds["collective-permute"]["bytes"] > 0
    # Gathered are the maps that are sampled from, halves of the image's size; nothing as large as
    # all of the encoder's maps.
    assert kinds["all-gather"]["bytes"] * 4 < 256 * 256 * 2 * 4 * 67
