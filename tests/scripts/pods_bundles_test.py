"""Tests of the count of what the compiler for TPUs does not estimate."""

import json
import os
import subprocess
import sys

import pytest

from scripts import ROOT
from scripts.pods import layer
from scripts.pods.bundles import COPY_CYCLES, Count, count
from scripts.pods.dumps import Dumps
from scripts.pods.uncosted import on_sparsecores, uncosted

# The counts of one layer, [1, 512, 512, 64] to 64 channels, may not exceed these: the compiler's
# estimate and one cycle for each bundle of what it does not estimate. They are 17.6 and 70.8
# million; before the corners were packed they were 117 and 660 million.
LAYER_CYCLES = {"forward": 19.5e6, "backward": 78e6}

# As the compiler for TPUs writes a gather, shortened: a loop of five turns, in which the copy of
# the next indices and the work on the last ones overlap. The first turn only copies, the last one
# only works. Two flags take turns. The four bundles after a branch are executed in any case.
LOOP = """
= control target key start
LB: loop body
PF: predicated region fallthrough
= control target key end

     0   :  { %3 = vsyncpa [#allocation1], 0  ;;  %s40_s9 = smov.u32 0 /* copy for cssa */ } /* Start region 9 :: End region 9 */
   0x1 LB: > { %s22_s10 = sadd.s32 4294967295, %s41_s9 /* stage = 1 */  ;;  %s41_s9 = sphi %s40_s9, %s44_s9 /* phi copy */ } /* Start region 10 :: Start region 17 */
   0x2   : > { %s23_s11 = sand.u32 1, %s41_s9 /* smod.u32 w/div 2 */  ;;  %p1_p0 = scmp.lt.s32.totalorder %s41_s9, 4  ;;  %p2_p1 = scmp.lt.s32.totalorder %s41_s9, 1 }
   0x3   : > { %s24_s20 = scalar_lea.sflag [#allocation1], %s23_s11 }
   0x4   : > { %7 = dma.vmem_to_smem (%p1_p0), /*vmem=*/%s34_s18, /*size_in_granules=*/32, /*smem=*/%s27_s19, /*dst_syncflagno=*/%s24_s20 /*
base_bounds: (8)
window_bounds: (1) */ }
   0x5   : > { %50 = sbr.rel (%p2_p1) target = $region20  ;;  %s42_s21 = sand.u32 (!%p2_p1), 1, %s22_s10 } /* End region 17 */
   0x6   : > { %s43_s24 = scalar_lea.sflag (!%p2_p1), [#allocation1], %s42_s21 }
   0x7   :  {}
   0x8   :  {}
   0x9   :  {} /* End region 18 */
   0xa   : > { %51 = dma.done.wait %s43_s24, 32 /* pipeline-emitter-dma-wait */ } /* Start region 19 */
   0xb   : > { %v91_v0 = vld [vmem:[%s74_s21] sm:$0x1]  ;;  %s20848_s24 = sshll.u32 %s20846_s16, 2 }
   0xc   : > { %92 = vst [vmem:[#allocation2] sm:$0x1] /*vst_source=*/%v91_v0 } /* End region 19 */
   0xd PF: > { %s44_s9 = sadd.s32 1, %s41_s9 /* copy for cssa */ } /* Start/End empty region 20 :: Start region 6 */
   0xe   : > { %p8_p3 = scmp.ge.s32.totalorder %s44_s9, 5 /* loop exit test */ } /* End region 6 */
   0xf   :  { %10 = sbr.rel (!%p8_p3) target = $region10 }
  0x10   :  {}
  0x11   :  {}
  0x12   :  {}
  0x13   :  {} /* End region 10 */
  0x14   :  { %17443 = vsyncpa [#allocation1], 1 } /* exit bundle: %gather_fusion = fusion(%map, %rows) */
"""  # noqa: E501

# A loop of three turns whose counter is kept in memory; in it a condition that depends on data, and
# one that holds in one turn and leads to bundles without a note of their region.
SPILLED = """
     0   :  { %s1_s1 = smov.u32 0 }
   0x1   :  { %2 = sst [smem:[#allocation71_spill]] %s1_s1 }
   0x2 LB: > { %s3_s1 = sld [smem:[#allocation71_spill]] /* phi copy */ } /* Start region 4 */
   0x3   : > { %s5_s2 = sld [smem:[%s9_s24 + %s3_s1]]  ;;  %p6_p0 = scmp.eq.s32.totalorder %s3_s1, 1 }
   0x4   : > { %p7_p1 = scmp.lt.s32.totalorder %s5_s2, 7  ;;  %s8_s3 = sadd.s32 1, %s3_s1 }
   0x5   : > { %10 = sst [smem:[#allocation71_spill]] %s8_s3  ;;  %11 = sbr.rel (%p7_p1) target = $region12 }
   0x6   :  {}
   0x7   :  {}
   0x8   :  {}
   0x9   :  {}
   0xa   : > { %13 = sfence }
   0xb PF: > { %14 = sbr.rel (%p6_p0) target = $region15 } /* Start/End empty region 12 */
   0xc   :  {}
   0xd   :  {}
   0xe   :  {}
   0xf   :  {}
  0x10   : > { %16 = sfence }
  0x11 PF: > { %p17_p2 = scmp.ge.s32.totalorder %s8_s3, 3 /* loop exit test */ }
  0x12   :  { %18 = sbr.rel (!%p17_p2) target = $region4 }
  0x13   :  {}
  0x14   :  {}
  0x15   :  {}
  0x16   :  {}
  0x17   :  {}
"""  # noqa: E501


def test_bundles_of_a_loop():
    """A turn is 16 bundles, and 3 more where it works. The first and the third wait are for copies
    that began a turn before; the others' copies were done while the waits before them lasted."""
    assert COPY_CYCLES == 1000
    found = count(LOOP)
    assert found.bundles == 1 + 5 * 16 + 4 * 3 + 1
    assert (found.waits, found.unknown) == (4, 0)
    first = 1000 - (16 + 10 - 4)
    third = 1000 - (16 + 3 + 10 - 4)
    assert found.stalls == first + third
    twice = count(LOOP.replace("%s41_s9, 4", "%s41_s9, 8").replace("%s44_s9, 5", "%s44_s9, 9"))
    assert twice.bundles == 1 + 9 * 16 + 8 * 3 + 1 and twice.waits == 8


def test_a_counter_in_memory_and_a_condition_of_the_data():
    """What the data may skip counts once a turn, and is said to be unknown."""
    assert count(SPILLED) == Count(bundles=2 + 3 * 21 - 1 + 1, waits=0, stalls=0, unknown=3)


def test_a_kernel_that_cannot_be_counted():
    with pytest.raises(ValueError, match="without bundles"):
        count("= control target key start")
    with pytest.raises(ValueError, match=r"unknown kind, sbr\.ind"):
        count(LOOP.replace("sbr.rel (!%p8_p3) target = $region10", "sbr.ind %s1_s1"))
    with pytest.raises(ValueError, match="other operands"):
        count(LOOP.replace("sadd.s32 1, %s41_s9 /*", "sadd.s32 1, %s41_s9, 5 /*"))
    with pytest.raises(ValueError, match="no region 77"):
        count(LOOP.replace("$region20", "$region77").replace("PF:", "  :"))


PROGRAM = """HloModule jit_f, is_scheduled=true

%gathered (m: bf16[8,128], i: s32[16]) -> bf16[16,128] {
  %m = bf16[8,128]{1,0} parameter(0)
  %i = s32[16]{0} parameter(1)
  ROOT %gather.1 = bf16[16,128]{1,0} gather(%m, %i), offset_dims={1}, slice_sizes={1,128}
}

%scattered (m.1: f32[8,128], i.1: s32[16], n: bf16[8,128]) -> f32[8,128] {
  %m.1 = f32[8,128]{1,0} parameter(0)
  %i.1 = s32[16]{0} parameter(1)
  %n = bf16[8,128]{1,0} parameter(2)
  %fusion.9 = bf16[16,128]{1,0} fusion(%n, %i.1), kind=kCustom, calls=%gathered
  ROOT %scatter.1 = f32[8,128]{1,0} scatter(%m.1, %i.1, %fusion.9), to_apply=%add
}

%turn (q: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %q = (s32[], f32[8,128]{1,0}) parameter(0)
  %one = bf16[16,128]{1,0} fusion(%x, %y), kind=kCustom, calls=%gathered
  %two = bf16[16,128]{1,0} fusion(%x, %y), kind=kCustom, calls=%gathered, {"estimated_cycles":"7"}
  %add.1 = s32[] add(%a, %b)
  ROOT %next = (s32[], f32[8,128]{1,0}) tuple(%add.1, %one)
}

ENTRY %main (x: bf16[8,128], y: s32[16]) -> f32[8,128] {
  %x = bf16[8,128]{1,0} parameter(0)
  %y = s32[16]{0} parameter(1)
  %sum = bf16[8,128]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %sort.2 = s32[16]{0} sort(%y), dimensions={0}, to_apply=%less
  %wide = f32[16,8]{1,0} reshape(%x)
  %loop = (s32[], f32[8,128]{1,0}) while(%z), body=%turn, {"known_trip_count":{"n":"6"}}
  ROOT %last = f32[8,128]{1,0} fusion(%x, %sort.2), kind=kCustom, calls=%scattered
}
"""


def test_kinds_of_what_has_no_estimate():
    """`add.1` has no kernel, and `sum` is a collective. `last` gathers, too, but is a scatter."""
    kernels = {
        name: Count(bundles=bundles, waits=1, stalls=2)
        for name, bundles in {
            "one": 10,
            "sort.2": 300,
            "wide": 4000,
            "last": 50,
            "sum": 9,
            "TLP": 1,
        }.items()
    }
    found = uncosted(PROGRAM, kernels.get)
    assert {kind: x.bundles for kind, x in found.items()} == {
        "gathers": 6 * 10,
        "scatters": 50,
        "sorts": 300,
        "others": 4000,
        "program": 1,
    }
    assert found["gathers"] == Count(60, 6, 12)
    del kernels["one"]
    with pytest.raises(ValueError, match="one: one of the gathers"):
        uncosted(PROGRAM, kernels.get)


# As the compilers for v6e and 7x write a gather and a change of layout for SparseCores, shortened.
OFFLOADED = """HloModule jit_f, is_scheduled=true

%called (p: u32[8,128], q: s32[16]) -> u32[16,128] {
  %p = u32[8,128]{1,0} parameter(0)
  %q = s32[16]{0} parameter(1)
  ROOT %gather.1 = u32[16,128]{1,0} gather(%p, %q), offset_dims={1}, slice_sizes={1,128}
}, execution_thread="sparsecore"

%turn (t: (s32[], u32[16,128])) -> (s32[], u32[16,128]) {
  %start = ((), (), (s32[16384]{0:T(1024)})) custom-call-start(), async_execution_thread="sparsecore", called_computations={%called}
  %start.update = ((u32[8,128]{1,0}), u32[16,128]{1,0}) custom-call-update(%start, %x, %y)
  %gather_offload_async_done = u32[16,128]{1,0:T(8,128)} custom-call-done(%start.update)
  %data_format = ((), ()) custom-call-start(), async_execution_thread="sparsecore", called_computations={%moved}
  %data_format.update = ((u32[16,128]{1,0}), u32[16,128]{0,1}) custom-call-update(%data_format, %gather_offload_async_done)
  %data_format.done = u32[16,128]{0,1:T(8,128)} custom-call-done(%data_format.update)
  %scatter_offload_async_start = ((), ()) custom-call-start(), async_execution_thread="sparsecore", called_computations={%added}
  %scatter_offload_async_done = f32[8,256]{1,0} custom-call-done(%scatter_offload_async_start)
  %copy-start = (u32[9], u32[9], u32[]) copy-start(%gather_offload_async_done)
  %copy-done = u32[9] copy-done(%copy-start)
  ROOT %next = (s32[], u32[16,128]{1,0}) tuple(%add.1, %data_format.done)
}

ENTRY %main (x: u32[8,128], y: s32[16]) -> u32[16,128] {
  %loop = (s32[], u32[16,128]{1,0}) while(%w), body=%turn, {"known_trip_count":{"n":"6"}}
  ROOT %last = u32[16,128]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_what_sparsecores_do_is_listed_and_not_counted():
    shapes = ("gather u32[16,128]", "layout u32[16,128]", "scatter f32[8,256]")
    assert on_sparsecores(OFFLOADED) == dict.fromkeys(shapes, 6)
    assert uncosted(OFFLOADED, {"TLP": Count(5)}.get)["gathers"] == Count()
    assert not on_sparsecores(PROGRAM)


def test_files_of_kernels(tmp_path):
    """Instructions that are alike share a kernel; a second program may use the names again."""
    dumps = Dumps(tmp_path)
    (tmp_path / "17-one.1-00-schedule-analysis_final_bundles.txt").write_text("Schedule analysis:")
    (tmp_path / "17-one.1-01-final_bundles.txt").write_text(LOOP)
    (tmp_path / "16-TLP-00-deduplication-map.txt").write_text(
        "key:<top-inlining-caller>\nordinal:0\nequivalent_hlos[size=0]:\n"
        "key:one.1\nordinal:1\nequivalent_hlos[size=2]:\n  one.1\n  two\n"
    )
    (tmp_path / "16-TLP-02-final_bundles.txt").write_text(SPILLED)
    assert dumps.count("one.1") == dumps.count("two") == count(LOOP)
    assert dumps.count("TLP") == count(SPILLED) and dumps.count("three") is None
    dumps.clear()
    assert dumps.count("one.1") is None and not list(tmp_path.iterdir())


def test_what_is_printed_of_a_layer():
    found = {
        "layer": {"chip": "v5e"},
        "sparsecores": {"gather u32[65536,128]": 36},
        "estimated": 1_502_990_723,
        "counted": {
            "gathers": {"bundles": 150_299_072, "waits": 70, "stalls": 15_029_907, "unknown": 0},
            "program": {"bundles": 15_029_907, "waits": 7, "stalls": 0, "unknown": 2},
        },
        "sum": 1_668_319_702,
        "temporaries": 52_600_000,
    }
    assert layer.in_words(found).splitlines() == [
        "compiler's estimate    1000.00 ms",
        "gathers  at least       100.00 ms",
        "program  at least        10.00 ms",
        "sum                    1110.00 ms",
        "waits (assumed)          10.00 ms   77 of them",
        "sum with waits         1120.00 ms",
        "on SparseCores              36 times gather u32[65536,128]",
        "temporaries               52.6 MB",
        "2 branches depend on data: what they guard counts once",
    ]


def compiler_for_tpus(*command):
    """Returns what a command prints, which is one JSON object."""
    pytest.importorskip("libtpu", reason="pip install libtpu, the compiler; it needs no TPU")
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


GATHERS = """
import json, pathlib, sys
from scripts.pods.dumps import Dumps
from scripts.pods.uncosted import on_sparsecores, uncosted
from scripts.tpu_compiler import find_no_tpu, topology_devices
folder = pathlib.Path(sys.argv[1])
find_no_tpu(dumps=folder)
import jax
chip = jax.sharding.SingleDeviceSharding(topology_devices("v5e:1x1")[0])
found = []
for rows in (2048, 4096):
    dumps = Dumps(folder)
    gather = jax.jit(lambda x, i: x.at[i].get(mode="promise_in_bounds"))
    shapes = ((8192, 64), "bfloat16"), ((rows,), "int32")
    arguments = [jax.ShapeDtypeStruct(*x, sharding=chip) for x in shapes]
    text = gather.trace(*arguments).lower().compile().as_text()
    found.append({kind: x.bundles for kind, x in uncosted(text, dumps.count).items()})
print(json.dumps(found))
"""


@pytest.mark.slow
def test_twice_the_rows_are_twice_the_bundles(tmp_path):
    once, twice = compiler_for_tpus("-c", GATHERS, str(tmp_path))
    assert 2 * 2048 < once["gathers"] < 2.5 * 2048
    assert twice["gathers"] == pytest.approx(2 * once["gathers"], rel=0.02)
    assert once["scatters"] == once["sorts"] == 0 < once["program"] < 1000


PARTS = """
import json, re
from scripts.bare_machine import replace_jaxtyping
from scripts.tpu_compiler import find_no_tpu, topology_devices
find_no_tpu()
replace_jaxtyping()
import jax
import jax.numpy as jnp
from flax import nnx
from massformer_jax.models.build import compute_params
from massformer_jax.models.layers import DeformLayer
from massformer_jax.ops.deform_conv import SampledMap
chip = jax.sharding.SingleDeviceSharding(topology_devices("v5e:1x1")[0])
layer = nnx.eval_shape(lambda: DeformLayer(11, 8, 3, rngs=nnx.Rngs(0)))
graph, params, stats = nnx.split(layer, nnx.Param, nnx.BatchStat)
params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
def step(image, second, params, stats):
    def loss(second, params):
        layer = nnx.merge(graph, compute_params(params, jnp.bfloat16), stats, copy=True)
        return layer(SampledMap((image, second))).astype(jnp.float32).sum()
    return jax.grad(loss, (0, 1))(second, params)
def placed(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=chip)
maps = [jax.ShapeDtypeStruct((2, 64, 64, n), "bfloat16", sharding=chip) for n in (3, 8)]
weights = jax.tree.map(placed, (params, stats))
text = jax.jit(step).trace(*maps, *weights).lower().compile().as_text()
print(json.dumps(re.findall(r"f32.[0-9]+,([0-9]+)]\\S* scatter.", text)))
"""


@pytest.mark.slow
def test_a_gradient_that_nobody_needs_is_left_out():
    # One scatter adds up the four corners of the eight channels behind the picture, in a loop over
    # the two images.
    assert compiler_for_tpus("-c", PARTS) == ["32"]


@pytest.mark.slow
@pytest.mark.parametrize("direction", LAYER_CYCLES)
def test_the_count_of_a_layer(direction):
    layer = ["512", "512", "64", "64", *["--backward"] * (direction == "backward")]
    found = compiler_for_tpus("-m", "scripts.pods.layer", *layer, "--json")
    counted = found["counted"]
    assert counted["gathers"]["bundles"] > 0
    assert (counted["scatters"]["bundles"] > 0) == (direction == "backward")
    assert found["sum"] == found["estimated"] + sum(x["bundles"] for x in counted.values())
    assert found["sum"] < LAYER_CYCLES[direction]
