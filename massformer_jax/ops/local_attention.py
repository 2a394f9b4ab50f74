"""Attention of points to the four samples of a map around them, and Fourier features of places."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from massformer_jax.ops.precision import widened


def fourier_features(places: Float[Array, "*b 2"], frequencies: int) -> Float[Array, "*b f"]:
    """Returns sines and cosines of 2^i · π · x, and of y, for i = 0 … frequencies - 1.

    Source: Mildenhall et al., "NeRF" (ECCV 2020), equation 4.

    Args:
        places: (x, y) in 0..1, float32 or wider.
        frequencies: how many; f is four times as many.
    """
    rates = jnp.asarray(np.pi * 2.0 ** np.arange(frequencies), places.dtype)
    angles = places[..., None] * rates.reshape((1,) * places.ndim + (-1,))
    angles = angles.reshape(*places.shape[:-1], 2 * frequencies)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def local_attention(
    queries: Float[Array, "b p n e"],
    keys: Float[Array, "b h w n e"],
    values: Float[Array, "b h w n e"],
    places: Float[Array, "b p 2"],
) -> Float[Array, "b p n e"]:
    """Returns what each point finds at the 2x2 samples of a map around it, with n heads.

    The samples lie half a token's side to the left and to the right of the point, above and below
    it, and are bilinear; beyond the outermost centres of tokens the map goes on unchanged. They
    read 3x3 tokens together. A product with a sample is the same mixture of products with tokens,
    so that no sample is formed: one token after the other is read, and nothing is larger than the
    queries.

    Args:
        queries: of the points.
        keys: of the tokens.
        values: of the tokens.
        places: (x, y) in 0..1, as fractions of the map's width and height.

    Returns:
        In the dtype of `values`; the softmax is in float32 or wider.
    """
    b, h, w, n, e = keys.shape
    dtype = widened(queries.dtype)
    columns, across = _taps(places[..., 0].astype(dtype), w)
    rows, down = _taps(places[..., 1].astype(dtype), h)
    tokens = [rows[i] * w + columns[j] for i in range(3) for j in range(3)]
    scaled = queries * e**-0.5

    def read(maps: Array, index: Array) -> Array:
        flat = maps.reshape(b, h * w, n * e)
        found = jnp.take_along_axis(
            flat, index[..., None], axis=1, mode="promise_in_bounds", wrap_negative_indices=False
        )
        return found.reshape(b, -1, n, e)

    logits = jnp.stack(
        [
            jnp.einsum("bpne,bpne->bpn", scaled, read(keys, index), preferred_element_type=dtype)
            for index in tokens
        ],
        -1,
    )
    # s and t are the samples above and below, left and right; i and j the tokens.
    logits = logits.reshape(b, -1, n, 3, 3)
    sampled = jnp.einsum("bpnij,bpsi,bptj->bpnst", logits, down, across)
    weights = jax.nn.softmax(sampled.reshape(b, -1, n, 4), -1).reshape(sampled.shape)
    shares = jnp.einsum("bpnst,bpsi,bptj->bpnij", weights, down, across)
    shares = shares.reshape(b, -1, n, 9).astype(values.dtype)
    return sum(shares[..., i, None] * read(values, index) for i, index in enumerate(tokens))


def _taps(
    place: Float[Array, "b p"], size: int
) -> tuple[list[Int[Array, "b p"]], Float[Array, "b p 2 3"]]:
    """Returns the three tokens along a side that two samples read, and how much of each."""
    first = place * size - 1  # of the left sample: half a token before, and centres lie at i + 1/2
    whole = jnp.floor(first)
    share = first - whole
    index = [jnp.clip(whole.astype(jnp.int32) + i, 0, size - 1) for i in range(3)]
    none = jnp.zeros_like(share)
    left = jnp.stack([1 - share, share, none], -1)
    right = jnp.stack([none, 1 - share, share], -1)
    return index, jnp.stack([left, right], -2)
