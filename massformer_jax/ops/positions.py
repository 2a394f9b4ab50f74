"""Normalised sine positions, as in DETR and Mask2Former."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from massformer_jax.ops.open_sizes import known


def sine_positions(height: int, width: int, features: int, dtype) -> Float[Array, "h w {features}"]:
    """Returns position features of a map: the y half before the x half, sine beside cosine.

    Coordinates run over (1..n) / (n + 1e-6) · 2π; temperature 10000.

    Source: mmdet's `SinePositionalEncoding(normalize=True)`.
    """
    y = jnp.asarray(_table(height, features // 2), dtype)[:, None]
    x = jnp.asarray(_table(width, features // 2), dtype)[None, :]
    # Two small tables and a broadcast: the map itself is never a constant of the program.
    shape = (height, width, features // 2)
    return jnp.concatenate([jnp.broadcast_to(y, shape), jnp.broadcast_to(x, shape)], -1)


def add_sine_positions(x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
    """Returns a map with its `sine_positions` added.

    They are added half by half: the positions of a large map never exist as a whole, 1 GB at 64
    megapixels that depends on nothing and would be allocated before the network starts.
    """
    _, h, w, d = x.shape
    y_half, x_half = jnp.split(x, 2, -1)
    y_table = jnp.asarray(_table(h, d // 2), x.dtype)[None, :, None]
    x_table = jnp.asarray(_table(w, d // 2), x.dtype)[None, None]
    return jnp.concatenate([y_half + y_table, x_half + x_table], -1)


def _table(n: int, features: int) -> np.ndarray | Array:
    frequency = 10000.0 ** (2 * (np.arange(features) // 2) / features)
    even = np.arange(features) % 2 == 0
    if known([n]):
        angle = np.arange(1, n + 1)[:, None] / (n + 1e-6) * 2 * np.pi / frequency
        return np.where(even, np.sin(angle), np.cos(angle))
    # The program computes it, in float32.
    count = jnp.arange(1, n + 1, dtype=jnp.float32)
    angle = (count / count[-1])[:, None] * (2 * np.pi / frequency).astype(np.float32)[None]
    return jnp.where(even[None], jnp.sin(angle), jnp.cos(angle))
