"""Atomic additions without an order, for kernels written in Pallas for its Triton backend.

`pallas.triton.atomic_add` orders every addition with all other memory accesses of the GPU
(acquire and release). Sums need no order, and the order is what costs: the backward pass of the
deformable convolution took 62 ms with it and 18 without (H100, jax 0.11.2, 2026-11-26; see
docs/deform_conv.md). Pallas has no argument for it, so this is a primitive beside Pallas's own,
lowered by the same rule with another memory semantic. It reaches into jax._src; the compile-only
tests for GPUs notice when that moves.
"""

import jax
import jax.numpy as jnp
from jax._src import tree_util
from jax._src.lib.triton import dialect
from jax._src.pallas.triton import lowering, primitives
from jax._src.state import indexing
from jax._src.state import primitives as state_primitives
from jax.extend import core

_relaxed_add_p = core.Primitive("relaxed_add")


def relaxed_add(ref, index: tuple, value: jax.Array, mask: jax.Array | None) -> None:
    """Adds where `mask` holds: ref[index] += value, also where places of `index` are equal.

    It works inside of a kernel that is compiled for a GPU; interpreted kernels have no such thing.
    """
    if mask is not None:
        mask = jnp.broadcast_to(mask, value.shape)
    ref, transforms = state_primitives.get_ref_and_transforms(ref, index, "relaxed_add")
    flat, tree = tree_util.tree_flatten((ref, transforms, value, mask))
    _relaxed_add_p.bind(*flat, args_tree=tree)


@_relaxed_add_p.def_effectful_abstract_eval
def _abstract(*avals, args_tree):
    return primitives._atomic_abstract_eval(
        *avals, args_tree=args_tree, atomic_type=primitives.AtomicOpType.ADD
    )


@lowering.register_lowering(_relaxed_add_p)
def _lower(ctx, *args, args_tree):
    block_info, *_ = ctx.block_infos
    pointer, transforms, value, mask = args_tree.unflatten(args)
    *_, value_aval, mask_aval = args_tree.unflatten(ctx.avals_in)
    (index,) = transforms
    assert isinstance(index, indexing.NDIndexer)
    return lowering._atomic_rmw(
        dialect.RMWOp.FADD,
        lowering._compute_pointers_from_indices(pointer, block_info, index),
        lowering._ensure_ir_value(value, value_aval),
        mask=None if mask is None else lowering._ensure_ir_value(mask, mask_aval),
        semantic=dialect.MemSemantic.RELAXED,
    )
