"""The networks that are timed on an accelerator, and a tiny one to try the programs out."""

from typing import Any

from massformer_jax.models import build

R50, R18_LITE = "massformer_r50", "massformer_r18_lite"
TINY = "tiny"
_TINY_PARTS = {"decoder_width": 8, "ffn_width": 16, "layers": 1, "queries": 8}


def architecture(model: str) -> dict[str, Any]:
    """Returns the architecture of a released model, or that of the tiny model.

    Raises:
        InputError: there is no such model.
    """
    if model == TINY:
        return build.architecture(R18_LITE) | _TINY_PARTS
    return build.architecture(model)
