"""Where arrays live: a mesh of three axes, and rules that place parameters on it.

    data     the batch is split; every device holds all parameters
    fsdp     the batch is split, and so are parameters and the optimizer's state
    spatial  the rows of a photograph are split, in evaluation and prediction

A training step splits its batch over all three: a crop is small, and what `fsdp` and `spatial`
save is memory, which splitting the batch saves as well.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from massformer_jax.errors import InputError
from massformer_jax.ops.by_image import ROWS_AXIS
from massformer_jax.tree import leaves_by_path

DATA, FSDP, SPATIAL = AXES = ("data", "fsdp", ROWS_AXIS)
PHOTOGRAPHS = (DATA, FSDP)  # axes over which whole photographs are split
CROPS = (DATA, FSDP, "crops")  # axes over which crops are split, in `training_on`

# Sides are padded to multiples of 256, so the coarsest map has a multiple of 8 rows.
SPATIAL_SIZES = (1, 2, 4, 8)

# What a rule says of the parameters that it matches: the name of an axis, over which their longest
# dimension that divides is split, or an axis or None for each dimension; () is replicated.
Spec = str | Sequence[str | None]


def make_mesh(devices: Sequence[jax.Device], axes: Mapping[str, int] | None = None) -> Mesh:
    """Returns a mesh over the devices.

    Args:
        devices: in any order; `jax.make_mesh` puts neighbours of a pod side by side.
        axes: size of each of `AXES`, 1 if it is missing. One may be -1: the devices that are left.
            By default all devices are on `data`.

    Raises:
        InputError: an unknown axis, or sizes that do not multiply to the number of devices.
    """
    sizes = dict.fromkeys(AXES, 1) | dict(axes or {DATA: -1})
    for name, size in sizes.items():
        if name not in AXES:
            raise InputError(f"mesh.{name}: there is no such axis; use {', '.join(AXES)}")
        if size < 1 and size != -1:
            raise InputError(f"mesh.{name} is {size}; use a positive number, or -1 for the rest")
    if sizes[SPATIAL] not in (-1, *SPATIAL_SIZES):
        raise InputError(
            f"mesh.spatial is {sizes[SPATIAL]}; rows can be split by "
            f"{', '.join(map(str, SPATIAL_SIZES))}"
        )
    rest = [name for name, size in sizes.items() if size == -1]
    if len(rest) > 1:
        raise InputError(f"mesh.{rest[0]} and mesh.{rest[1]} are -1; only one can be the rest")
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    count = len(devices)
    if count % known or (not rest and count != known):
        asked = ", ".join(f"{name}={size}" for name, size in sizes.items())
        fits = [n for n in range(1, count + 1) if count % n == 0]
        raise InputError(
            f"mesh {asked} on {count} devices: the sizes must multiply to {count}; what divides it "
            f"is {', '.join(map(str, fits))}, and -1 stands for the rest"
        )
    for name in rest:
        sizes[name] = count // known
    if sizes[SPATIAL] not in SPATIAL_SIZES:
        raise InputError(
            f"mesh.spatial=-1 is {sizes[SPATIAL]} on {count} devices; rows can be split by "
            f"{', '.join(map(str, SPATIAL_SIZES))}"
        )
    # Auto axes: `jax.make_mesh` defaults to explicit ones, which refuse many gathers and reshapes.
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes[name] for name in AXES), AXES, types, devices=list(devices))


def evaluation_mesh(devices: Sequence[jax.Device], axes: Mapping[str, int]) -> Mesh:
    """Returns the mesh of one process's devices: `spatial` as asked for, the rest on `data`.

    Photographs do not depend on each other, so the processes have no need of a common one.

    Raises:
        InputError: `spatial` does not divide the devices.
    """
    spatial = axes.get(SPATIAL, 1)
    return make_mesh(devices, {SPATIAL: spatial} | ({DATA: -1} if spatial != -1 else {}))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns a sharding with the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Returns a sharding with the first axis split over all devices: for crops to train on."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def training_on(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Returns a context: what is traced in it splits its images over all devices of the mesh.

    The axis `spatial` has another name there, `CROPS`, because it splits images as well.
    """
    ambient = mesh.abstract_mesh
    return jax.sharding.use_abstract_mesh(
        AbstractMesh(ambient.axis_sizes, CROPS, axis_types=ambient.axis_types)
    )


def photographs_sharded(mesh: Mesh) -> NamedSharding:
    """Returns a sharding with the first axis split over `data` and `fsdp`.

    All devices of `spatial` hold the same.
    """
    return NamedSharding(mesh, PartitionSpec(PHOTOGRAPHS))


def photographs_at_once(mesh: Mesh) -> int:
    """Returns how many photographs the mesh takes at a time."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


def check_batch_size(
    batch_size: int, mesh: Mesh, *, parts: int = 1, normalised: bool = True
) -> None:
    """Checks the size of the global batch.

    Args:
        batch_size: number of crops.
        mesh: the devices.
        parts: number of parts in which the batch is computed, one after the other.
        normalised: whether each part is normalised by its own statistics.

    Raises:
        InputError: it cannot be shared evenly by the devices, or is too small to normalise.
    """
    if parts < 1:
        raise InputError(f"accumulate is {parts}; it must be at least 1")
    if batch_size % (mesh.size * parts):
        share = mesh.size * parts
        below, above = batch_size // share * share, -(-batch_size // share) * share
        fits = above if below < 2 else f"{below} or {above}"
        in_parts = f" in {parts} parts (accumulate)" if parts > 1 else ""
        fewer = ", or fewer parts" if parts > 1 else ""
        raise InputError(
            f"batch_size is {batch_size}, which {mesh.size} devices cannot share evenly{in_parts}; "
            f"use {fits}{fewer}"
        )
    if not normalised or batch_size // parts >= 2:
        return
    if parts > 1:
        raise InputError(
            f"batch_size is {batch_size} in {parts} parts (accumulate); the global context is "
            "normalised over a part alone, use 2 crops a part or more, or frozen_statistics=all"
        )
    raise InputError(
        f"batch_size is {batch_size}; the global context is normalised over the batch alone, use 2 "
        "or more"
    )


def parameter_specs(
    mesh: Mesh, params: PyTree[Any], rules: Iterable[tuple[str, Spec]]
) -> dict[str, PartitionSpec]:
    """Returns the spec of every parameter by its path, in the order of the tree's leaves.

    Args:
        mesh: of `make_mesh`.
        params: nested dicts of anything that has a shape.
        rules: (regular expression searched in the path, `Spec`); the first match wins, and what
            none matches is replicated.

    Raises:
        InputError: a rule is none, or splits a dimension that does not divide.
    """
    rules = [(_pattern(pattern), spec) for pattern, spec in rules]
    specs = {}
    for path, leaf in leaves_by_path(params).items():
        spec = next((spec for pattern, spec in rules if pattern.search(path)), ())
        specs[path] = _partition(mesh, path, tuple(leaf.shape), spec)
    return specs


def _pattern(pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"shardings: {pattern!r} is no regular expression: {error}") from error


def _partition(mesh: Mesh, path: str, shape: tuple[int, ...], spec: Spec) -> PartitionSpec:
    names = {spec} if isinstance(spec, str) else set(spec) - {None}
    for name in names - set(AXES):
        raise InputError(f"shardings: {name!r} is no axis of the mesh; use {', '.join(AXES)}")
    if isinstance(spec, str):
        divisible = [axis for axis, n in enumerate(shape) if n % mesh.shape[spec] == 0]
        if not divisible or mesh.shape[spec] == 1:
            return PartitionSpec()
        longest = max(divisible, key=lambda axis: shape[axis])
        return PartitionSpec(*[None] * longest, spec)
    if len(spec) > len(shape):
        raise InputError(f"shardings: {path} has {len(shape)} dimensions, its rule {len(spec)}")
    for size, name in zip(shape, spec, strict=False):
        if name is not None and size % mesh.shape[name]:
            fits = [n for n in range(1, size + 1) if size % n == 0]
            raise InputError(
                f"shardings: {path} {list(shape)} cannot be split by {name}={mesh.shape[name]}; "
                f"{', '.join(map(str, fits))} divide {size}"
            )
    return PartitionSpec(*spec)


def state_shardings(mesh: Mesh, state: PyTree[Any], specs: Mapping[str, PartitionSpec]) -> Any:
    """Returns the sharding of every leaf of a training state, in its structure.

    A leaf whose path ends in that of a parameter is placed as the parameter is: itself, and the
    moments that the optimizer keeps of it. Everything else is replicated.

    Args:
        mesh: of `make_mesh`.
        state: a `TrainState` of arrays or shapes.
        specs: of `parameter_specs`.
    """

    def place(path: str) -> NamedSharding:
        while path not in specs:
            _, slash, path = path.partition("/")
            if not slash:
                return replicated(mesh)
        return NamedSharding(mesh, specs[path])

    structure = jax.tree.structure(state)
    # Running statistics have paths of their own: BatchNorm has no parameter `mean` or `var`.
    return jax.tree.unflatten(structure, [place(path) for path in leaves_by_path(state)])


def describe(mesh: Mesh, state: PyTree[Any], specs: Mapping[str, PartitionSpec]) -> tuple[str, str]:
    """Returns a line about a state's placement, and a line per parameter: path, shape, spec."""
    lines = [
        f"{path} {list(leaf.shape)} {_text(specs[path])}"
        for path, leaf in leaves_by_path(state.params).items()
    ]
    shardings = jax.tree.leaves(state_shardings(mesh, state, specs))
    leaves = jax.tree.leaves(state)
    one = sum(
        int(np.prod(where.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize
        for leaf, where in zip(leaves, shardings, strict=True)
    )
    sharded = sum(any(spec) for spec in specs.values())
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    summary = (
        f"mesh {axes}; {sharded} parameters split, {len(specs) - sharded} replicated; "
        f"the state takes {one / 1e6:,.1f} MB per device"
    )
    return summary, "".join(line + "\n" for line in lines)


def _text(spec: PartitionSpec) -> str:
    return ", ".join(str(name) for name in spec) if any(spec) else "replicated"
