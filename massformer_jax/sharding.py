"""Where arrays live: one mesh axis over which the batch is split, everything else replicated."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from massformer_jax.errors import InputError

DATA = "data"


def make_mesh(devices: list[jax.Device]) -> Mesh:
    """A mesh of one axis over the devices.

    Auto axes: `jax.make_mesh` defaults to explicit ones, which refuse many gathers and reshapes.
    """
    return jax.make_mesh((len(devices),), (DATA,), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises InputError if the global batch cannot be split, or is too small to normalise."""
    devices = mesh.shape[DATA]
    if batch_size % devices:
        below, above = batch_size // devices * devices, -(-batch_size // devices) * devices
        fits = above if below < 2 else f"{below} or {above}"
        raise InputError(
            f"batch_size is {batch_size}, which {devices} devices cannot share evenly; use {fits}"
        )
    if batch_size < 2:
        raise InputError(
            "batch_size is 1; the global context is normalised over the batch alone, use 2 or more"
        )
