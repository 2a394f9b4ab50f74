"""What is checked and timed on a GPU, and a little of it to try the program out."""

from massformer_jax.ops.precision import DTYPES
from scripts.benchmark.device import checks, times
from scripts.benchmark.device.checks import Case
from scripts.benchmark.device.measurement import Measurement
from scripts.benchmark.device.models import R18_LITE, R50, architecture
from scripts.benchmark.device.times import REMAT
from scripts.benchmark.layers import layers

# Task, model, size, batch and dtype, the most important first.
NETWORKS = (
    ("inference", R50, (3072, 4096), 1, "bfloat16"),
    ("inference", R50, (1024, 1024), 1, "bfloat16"),
    ("train", R50, (1024, 1024), 8, "bfloat16"),
    ("inference", R18_LITE, (3072, 4096), 1, "bfloat16"),
)
MORE_NETWORKS = (
    (REMAT, R50, (1024, 1024), 8, "bfloat16"),
    ("inference", R50, (3072, 4096), 1, "float32"),
    ("inference", R50, (3072, 4096), 1, "tf32"),
    ("inference", R50, (8192, 8192), 1, "bfloat16"),
)
# Deformable convolutions of R50 at 3072x4096: name, rows and columns of the map.
LAYERS = (("EGF, 3x3", (1536, 2048)), ("RFB 7x7", (384, 512)))
SMALL_LAYERS = (("EGF, 3x3", (24, 32)),)


def full(stage: str) -> list[Measurement]:
    """Returns the measurements of the stage `main` or `more`, the most important first."""
    if stage == "more":
        return [
            *times.networks(MORE_NETWORKS),
            checks.training(),
            *checks.agreements("r18_lite", DTYPES),
        ]
    return [
        *times.networks(NETWORKS),
        *_layers(LAYERS),
        *checks.agreements("r50", DTYPES),
        *_checked_layers(),
        checks.products(),
    ]


def _layers(which) -> list[Measurement]:
    return [times.layer(*layer, dtype) for dtype in ("bfloat16", "float32") for layer in which]


def _checked_layers() -> list[Measurement]:
    """Returns checks of all layers, with the shapes that they have for 1024x1024."""
    found = layers(architecture(R50)["decoder_width"])
    sides = [1024 // layer.stride for layer in found]
    cases = [Case(layer.name, (side, side + 4)) for layer, side in zip(found, sides, strict=True)]
    return [
        checks.deform_conv(f"check_deform_conv_{dtype}", dtype, cases)
        for dtype in ("float32", "bfloat16")
    ]


def small(stage: str) -> list[Measurement]:
    """Returns a little of most kinds of measurement; a training step takes too long to compile."""
    if stage == "more":
        return [checks.products()]
    cases = [Case("RFB 3x3", (8, 12))]
    return [
        *_layers(SMALL_LAYERS)[:1],
        *checks.agreements("r18_lite", ["float32"]),
        checks.deform_conv("check_deform_conv_float32", "float32", cases),
    ]
