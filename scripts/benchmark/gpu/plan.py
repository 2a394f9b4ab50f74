"""The networks and layers that are timed on a GPU, and tiny ones to try the program out."""

from typing import Any

from massformer_jax.models import build

RUNS, SECONDS = 20, 1.5  # a program runs so often, or less often if this would take longer

R50, R18_LITE = "massformer_r50", "massformer_r18_lite"
REMAT = "train_remat"  # a training step that keeps less and computes it again
# Task, model, size, batch and dtype, the most important first.
NETWORKS = {
    "main": (
        ("inference", R50, (3072, 4096), 1, "bfloat16"),
        ("inference", R50, (1024, 1024), 1, "bfloat16"),
        ("train", R50, (1024, 1024), 8, "bfloat16"),
        ("inference", R18_LITE, (3072, 4096), 1, "bfloat16"),
    ),
    "more": (
        (REMAT, R50, (1024, 1024), 8, "bfloat16"),
        ("inference", R50, (3072, 4096), 1, "float32"),
        ("inference", R50, (3072, 4096), 1, "tf32"),
        ("inference", R50, (8192, 8192), 1, "bfloat16"),
    ),
}
# Deformable convolutions of R50 at 3072x4096: name, rows and columns of the map.
LAYERS = (("EGF, 3x3", (1536, 2048)), ("RFB 7x7", (384, 512)))

TINY = "tiny"
SMALL_NETWORKS = {
    "main": (
        ("inference", TINY, (256, 256), 1, "bfloat16"),
        ("train", TINY, (256, 256), 2, "float32"),
    ),
    "more": (("inference", TINY, (256, 512), 1, "tf32"),),
}
SMALL_LAYERS = (("EGF, 3x3", (24, 32)),)
_TINY_PARTS = {"decoder_width": 8, "ffn_width": 16, "layers": 1, "queries": 8}


def architecture(model: str) -> dict[str, Any]:
    """Returns the architecture of a released model, or that of the tiny model.

    Raises:
        InputError: there is no such model.
    """
    if model == TINY:
        return build.architecture(R18_LITE) | _TINY_PARTS
    return build.architecture(model)
