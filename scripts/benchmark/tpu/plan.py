"""What is checked and timed on a TPU chip, and a little of it to try the program out."""

from collections.abc import Iterable

from scripts.benchmark.device import checks, times
from scripts.benchmark.device.checks import Case
from scripts.benchmark.device.measurement import Measurement
from scripts.benchmark.device.models import R50, TINY
from scripts.benchmark.tpu import rows
from scripts.benchmark.tpu.counted import with_counted
from scripts.benchmark.tpu.rows import Gather, Scatter, Sort

# Each as the network has it: one image that is computed at once, and two; a layer that narrows; a
# strip of a map that is too large for the vector memory. No width is a multiple of 128.
CHECKED = {
    "EGF": Case("EGF, 3x3", (512, 516)),
    "EGF_2_images": Case("EGF, 3x3", (256, 260), images=2),
    "RFB": Case("RFB 7x7", (128, 132)),
    "LSE_strip": Case("LSE, 3x3", (768, 2052), rows=16, first_row=350),
    "CST_2_images": Case("CST 1, 3x3", (32, 36), images=2),
}
SMALL_CHECKED = {"LSE_strip": Case("LSE, 3x3", (24, 20), images=2, rows=8, first_row=10)}
# Name, rows and columns of the map, and the number of rows that are computed, if not all.
LAYERS = (
    ("EGF, 3x3", (512, 512), None),
    ("LSE, 3x3", (1536, 2048), 128),
    ("RFB 7x7", (128, 128), None),
)
# The maps have as many rows as those of LSE and EGF at 12 megapixels, of RFB at 1024x1024 (these
# fit into the vector memory), and of LSE and EGF at 1024x1024. The last number is that of the
# bundles of instructions for each row, without the sort that a scatter of many rows begins with:
# counted in these programs as scripts/pods counts them (v5e, libtpu 0.0.52, 2026-11-26).
LARGE, SMALL, MIDDLE = 1536 * 2048, 128 * 128, 512 * 512
ROWS = (
    Gather("uint32", 128, LARGE, 5.15),
    Gather("bfloat16", 64, LARGE, 8.5),
    Gather("uint32", 128, SMALL, 1.66),
    Gather("bfloat16", 64, SMALL, 2.18),
    Scatter(256, MIDDLE, 16384, 15.52),
    Scatter(64, MIDDLE, 2048, 56.77),
    Scatter(64, MIDDLE, 16384, 13.69),
    Sort(16384, 0.65),
)
# Not a gather: the compiler for CPUs sees through its barrier, and it takes no time.
SMALL_ROWS = Scatter(64, 4096, 2048), Sort(4096)
# Task, model, size, batch and dtype, the most important first. The network normalises over its
# batch, so that a single chip trains at least two crops.
NETWORKS = (
    ("inference", R50, (3072, 4096), 1, "bfloat16"),
    ("train", R50, (1024, 1024), 2, "bfloat16"),
    ("inference", R50, (1024, 1024), 1, "bfloat16"),
    ("inference", R50, (3072, 4096), 1, "float32"),
)


def full(stage: str) -> list[Measurement]:
    """Returns the measurements of the stage `layers` or `networks`, the most important first."""
    if stage == "layers":
        return [
            checks.products(),
            *_checked("bfloat16", CHECKED),
            *_checked("float32", CHECKED),
            *(times.layer(name, size, "bfloat16", rows) for name, size, rows in LAYERS),
            *map(rows.measurement, ROWS),
            *(times.layer(name, size, "float32", rows) for name, size, rows in LAYERS),
        ]
    return [
        *with_counted(times.networks(NETWORKS[:2])),
        *checks.agreements("r50", ("float32", "bfloat16")),
        *with_counted(times.networks(NETWORKS[2:])),
        checks.training(),
    ]


def small(stage: str) -> list[Measurement]:
    """Returns a little of each kind of measurement."""
    if stage == "layers":
        return [
            *_checked("bfloat16", SMALL_CHECKED),
            times.layer("EGF, 3x3", (16, 24), "bfloat16", 8),
            *map(rows.measurement, SMALL_ROWS),
        ]
    return with_counted(times.networks([("inference", TINY, (256, 256), 1, "float32")]))


def _checked(dtype: str, cases: Iterable[str]) -> list[Measurement]:
    """Returns a check for each layer, so that they compile at the same time."""
    return [
        checks.deform_conv(f"check_deform_conv_{name}_{dtype}", dtype, [case])
        for name, case in cases.items()
    ]
