"""Rows of one large image split over the devices of the mesh's `spatial` axis.

The compiler's own partitioning splits convolutions along rows and exchanges their halos. What it
would gather instead is written for the rows of one device and mapped over the devices: sampling at
arbitrary positions, loops over strips, attention over blocks of keys.

Whether rows are split is read from the ambient mesh, so that layers need no argument for it. With
no mesh, or with one device on the axis, every function here does nothing.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

from massformer_jax.ops.rows import Rows
from massformer_jax.parallel.sharding import PHOTOGRAPHS, SPATIAL

ROWS = PartitionSpec(PHOTOGRAPHS, SPATIAL)  # [b, rows, ...], and [b, n, ...] of tokens row by row
PLANES = PartitionSpec(PHOTOGRAPHS, None, SPATIAL)  # [b, planes, rows, ...]
ALL_ROWS = PartitionSpec(PHOTOGRAPHS)  # [b, ...]: each device holds all of its photographs


def over(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Returns a context: what is traced in it splits photographs, and their rows, over a mesh."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def parts() -> int:
    """Returns over how many devices rows are to be split here; 1 inside of `each_part`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or SPATIAL in mesh.manual_axes:
        return 1
    return dict(mesh.shape).get(SPATIAL, 1)


def by_rows(x: Shaped[Array, "b n *s"]) -> Shaped[Array, "b n *s"]:
    """Leaves each device its own rows of the map, if the second axis divides."""
    if x.shape[1] % parts() or parts() == 1:
        return x
    return jax.lax.with_sharding_constraint(x, ROWS)


def with_all_rows(x: Shaped[Array, "b n *s"]) -> Shaped[Array, "b n *s"]:
    """Gives each device every row of the map."""
    return x if parts() == 1 else jax.lax.with_sharding_constraint(x, ALL_ROWS)


def each_part(
    function: Callable[..., Any], *inputs: Any, in_specs: tuple[PartitionSpec, ...], out_specs: Any
) -> Any:
    """Calls `function(*inputs)` on each device with its part of the inputs; for `parts()` > 1."""
    # check_vma: loops that start from constants.
    mapped = jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return mapped(*inputs)


def inside() -> bool:
    """Tells whether this is traced inside of `each_part`, where each device has its own rows."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and SPATIAL in mesh.manual_axes


def index() -> Int[Array, ""]:
    """Returns which device this is, counted from the top row; inside of `each_part`."""
    return jax.lax.axis_index(SPATIAL)


def own_rows(height: int, count: int) -> Rows:
    """Returns this device's rows of a map; inside of `each_part`.

    Args:
        height: rows of the whole map.
        count: devices that share them.
    """
    return Rows(jax.lax.axis_index(SPATIAL) * (height // count), height // count)


def gather_rows(x: Shaped[Array, "b r *s"]) -> Shaped[Array, "b h *s"]:
    """Returns every device's rows; inside of `each_part`."""
    return jax.lax.all_gather(x, SPATIAL, axis=1, tiled=True)


def with_halo(x: Shaped[Array, "b r *s"], rows: int) -> Shaped[Array, "b h *s"]:
    """Returns a device's rows between `rows` rows of its neighbours; inside of `each_part`.

    At the ends of the map its last row is repeated.
    """
    count = jax.lax.axis_size(SPATIAL)
    index = jax.lax.axis_index(SPATIAL)
    up = [(i, i + 1) for i in range(count - 1)]
    before = jax.lax.ppermute(x[:, -rows:], SPATIAL, up)
    after = jax.lax.ppermute(x[:, :rows], SPATIAL, [(j, i) for i, j in up])
    before = jnp.where(index == 0, jnp.repeat(x[:, :1], rows, 1), before)
    after = jnp.where(index == count - 1, jnp.repeat(x[:, -1:], rows, 1), after)
    return jnp.concatenate([before, x, after], 1)


def max_over_parts(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Returns the largest of the devices' values inside of `each_part`, `x` itself elsewhere."""
    return jax.lax.pmax(x, SPATIAL) if inside() else x


def sum_over_parts(*arrays: Float[Array, "..."]) -> tuple[Float[Array, "..."], ...]:
    """Returns the sums of the devices' values inside of `each_part`, `arrays` themselves elsewhere.

    Several arrays are summed at once, in one exchange between the devices.
    """
    return jax.lax.psum(arrays, SPATIAL) if inside() else arrays


def all_over_parts(x: Bool[Array, "*s"]) -> Bool[Array, "*s"]:
    """Returns what is true on all devices inside of `each_part`, `x` itself elsewhere."""
    return jax.lax.pmin(x.astype(jnp.int32), SPATIAL) > 0 if inside() else x
