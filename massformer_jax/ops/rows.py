"""Strips of rows: what is local on large maps is computed a strip at a time.

A map at half the size of a 12-megapixel photograph holds 3.1 million positions: 3.2 GB for the mask
features alone. Convolutions, resizing and everything pointwise need only a few rows around a strip.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from massformer_jax.ops.open_sizes import known
from massformer_jax.ops.resize import resize_bilinear


class Rows(NamedTuple):
    """`count` rows of a map from row `start` on."""

    start: int | Int[Array, ""]
    count: int


def all_rows(x: Float[Array, "b h w c"]) -> Rows:
    """Returns every row of the map."""
    return Rows(0, x.shape[1])


def around(rows: Rows, margin: int, height: int) -> Rows:
    """A window of even start and count that holds `rows` and `margin` rows on either side.

    At the ends of a map of (even) `height` rows the window moves inside: its border is then the
    map's own, where convolutions see zeros and resizing repeats the last row. What is computed on
    the window is therefore exact but for `margin` rows next to a border that is not the map's.
    """
    count = min(height, (rows.count + 2 * margin + 2) // 2 * 2)
    if count == height:
        return Rows(0, height)
    return Rows(jnp.clip((rows.start - margin) // 2 * 2, 0, height - count), count)


def take_rows(x: Float[Array, "b h w c"], rows: Rows) -> Float[Array, "b r w c"]:
    """Returns these rows of the map; they must lie inside it."""
    if rows.count == x.shape[1]:
        return x
    return jax.lax.dynamic_slice_in_dim(x, rows.start, rows.count, 1)


def take_rows_or_last(x: Float[Array, "b h w c"], rows: Rows) -> Float[Array, "b r w c"]:
    """Returns these rows of the map; beyond its ends, its first or last row."""
    places = jnp.clip(rows.start + jnp.arange(rows.count), 0, x.shape[1] - 1)
    return x.at[:, places].get(mode="promise_in_bounds")


def take_doubled_rows(x: Float[Array, "b h w c"], rows: Rows) -> Float[Array, "b r 2*w c"]:
    """Returns these rows (even start and count) of the map resized to twice its size.

    They are exact but for the first and the last row, where those are not the map's.
    """
    part = take_rows(x, Rows(rows.start // 2, rows.count // 2))
    return resize_bilinear(part, (rows.count, 2 * x.shape[2]))


def doubled_rows(
    x: Float[Array, "b h w c"],
) -> tuple[Float[Array, "b r w c"], Float[Array, "b r w c"]]:
    """Returns the even and the odd rows of a map resized to twice its height, r = h - 2 of each.

    Its first and last row are only read by their neighbours. So nothing has to be chosen at
    borders, and what is made of the two can read their rows where they are.
    """
    height = x.shape[1] - 2
    own, above, below = (
        jax.lax.slice_in_dim(x, start, start + height, axis=1) for start in (1, 0, 2)
    )
    return 0.75 * own + 0.25 * above, 0.75 * own + 0.25 * below


def in_strips(
    compute: Callable[[Rows], Any], rows: Rows, count: int, *, after: Float[Array, "*_"]
) -> Any:
    """Returns maps of `rows` from `compute(strip)`, called for strips that cover them.

    Args:
        compute: returns a pytree of maps [b, r, ...], where r is the count of its rows times a
            factor; factors below one need counts, also that of `rows`, that they divide.
        rows: of the map that is walked through.
        count: rows of a strip. The last strip overlaps the one before it if need be; of sizes
            that are left open, strips are equal parts.
        after: the latest of what `compute` reads. Every row of the maps is overwritten, so they
            may start as anything; starting as constants, which need nothing, they would be
            allocated before all that comes first, 2.4 GB of them at 12 megapixels.
    """
    height = rows.count
    if count >= height:
        return compute(rows)
    if not known((height, count)):
        starts = count * jnp.arange(height // count, dtype=jnp.int32)
        parts = jax.lax.map(lambda start: compute(Rows(rows.start + start, count)), starts)
        return jax.tree.map(_joined, parts)

    def scaled(rows, part):
        return rows * part.shape[1] // count

    parts = jax.eval_shape(lambda start: compute(Rows(start, count)), jnp.int32(0))
    maps = jax.tree.map(
        lambda part: jnp.full(
            (part.shape[0], scaled(height, part), *part.shape[2:]),
            after[(0,) * after.ndim].astype(part.dtype),
        ),
        parts,
    )

    def step(i, maps):
        start = jnp.minimum(i * count, height - count)
        return jax.tree.map(
            lambda x, part: jax.lax.dynamic_update_slice_in_dim(x, part, scaled(start, part), 1),
            maps,
            compute(Rows(rows.start + start, count)),
        )

    return jax.lax.fori_loop(0, -(-height // count), step, maps)


def _joined(parts: Shaped[Array, "n b r *_"]) -> Shaped[Array, "b n*r *_"]:
    """Puts the strips of a map one below the other."""
    n, b, r, *rest = parts.shape
    return jnp.moveaxis(parts, 0, 1).reshape(b, n * r, *rest)
