"""A batch in several parts, one after the other: the gradient of the whole in the memory of one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from massformer_jax.parallel.sharding import AXES


def in_parts(tree: PyTree[Any], parts: int, mesh: Mesh, *, axis: int = 0) -> PyTree[Any]:
    """Returns arrays [parts, …], of which each part holds as many crops of every device.

    No crop moves to another device: part i is the i-th part of what each device has.

    Args:
        tree: arrays whose axis `axis` is split over all devices.
        parts: number of parts; it divides each device's share.
        mesh: the devices.
        axis: of the crops.
    """

    def split(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
        x = x.reshape(*before, mesh.size, parts, size // (mesh.size * parts), *after)
        x = jnp.moveaxis(x, axis + 1, 0).reshape(parts, *before, size // parts, *after)
        spec = PartitionSpec(*[None] * (axis + 1), AXES)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return jax.tree.map(split, tree)


def accumulated(
    gradient: Callable[..., tuple[Any, tuple[Any, Any]]], batch_stats: Any, parts: PyTree[Any]
) -> tuple[Any, tuple[Any, Any]]:
    """Returns what `gradient` does, summed over the parts.

    Args:
        gradient: (batch_stats, part) -> (gradient, (loss terms, batch_stats after the part)).
        batch_stats: the running statistics before the first part; each part moves them.
        parts: of `in_parts`.
    """
    first = jax.tree.map(lambda x: x[0], parts)
    shapes, _ = jax.eval_shape(gradient, batch_stats, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(carried, part):
        total, batch_stats = carried
        found, (terms, batch_stats) = gradient(batch_stats, part)
        return (jax.tree.map(jnp.add, total, found), batch_stats), terms

    (total, batch_stats), terms = jax.lax.scan(add, (zeros, batch_stats), parts)
    return total, (jax.tree.map(lambda x: x.sum(0), terms), batch_stats)
