"""From photographs of any size to class scores of the same size.

The network takes sides that are multiples of 256. Ours pads at the bottom and right and crops the
scores; where the release works, nothing is padded and the answers are equal.
"""

import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from massformer_jax.data.sizes import resized_size
from massformer_jax.errors import InputError
from massformer_jax.models.massformer import STRIDE, class_scores, normalize
from massformer_jax.ops.resize import resize_bilinear

RELEASE_LONG_EDGE, RELEASE_SHORT_EDGE = 4096, 3072


def network_size(height: int, width: int, resolution: str) -> tuple[int, int]:
    """The size at which an image is shown to the network, before padding.

    Args:
        height: of the photograph, in pixels.
        width: of the photograph.
        resolution: "native" (as it is), "release" (ratio kept, long edge up to 4096 and short edge
            up to 3072, the released evaluation; also enlarges), or "HxW" (ratio kept, as large as
            fits into H rows and W columns).

    Raises:
        InputError: `resolution` is none of these.
    """
    if resolution == "native":
        return height, width
    if resolution == "release":
        return resized_size(
            height, width, long_edge=RELEASE_LONG_EDGE, short_edge=RELEASE_SHORT_EDGE
        )
    parts = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", resolution)
    if not parts:
        raise InputError(f"resolution is {resolution!r}; use native, release or HxW (3072x4096)")
    factor = min(int(parts[1]) / height, int(parts[2]) / width)
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def pad_to_stride(images: Float[Array, "b h w 3"]) -> Float[Array, "b i j 3"]:
    """Repeats the last row and column up to multiples of 256 (measured: docs/padding.md)."""
    _, h, w, _ = images.shape
    return jnp.pad(images, ((0, 0), (0, -h % STRIDE), (0, -w % STRIDE), (0, 0)), mode="edge")


def score_function(
    graph: nnx.GraphDef,
) -> Callable[[Any, Any, UInt8[Array, "b h w 3"], tuple[int, int]], Float[Array, "b i j k"]]:
    """Returns scores(params, batch_stats, images, size), to be jitted with `size` static.

    `images` are RGB in 0..255 at network size, `size` is the photograph's own; the scores are
    resized to it as the release does.
    """

    def scores(params, batch_stats, images, size):
        _, h, w, _ = images.shape
        model = nnx.merge(graph, params, batch_stats, copy=True)
        outputs = model(pad_to_stride(normalize(images)))
        return resize_bilinear(class_scores(outputs)[:, :h, :w], size)

    return scores
