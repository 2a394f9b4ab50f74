"""MaSSFormer in JAX: matting-level semantic segmentation of 12-megapixel photographs.

from massformer_jax import Segmenter
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Segmenter", "__version__"]


def __getattr__(name: str) -> Any:
    # It is imported only when somebody asks for it: it needs JAX, which `--help` does not.
    if name == "Segmenter":
        from massformer_jax.inference.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
