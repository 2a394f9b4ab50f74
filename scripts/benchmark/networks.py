"""Inference and training steps of the network, as functions and arguments without values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from massformer_jax.errors import InputError
from massformer_jax.inference.network import network_labels
from massformer_jax.models.build import abstract_weights, model_graph
from massformer_jax.models.massformer import STRIDE
from massformer_jax.parallel import sharding
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import abstract_state
from massformer_jax.training.step import training_step
from scripts.benchmark.run import measure
from scripts.benchmark.values import placed
from scripts.tpu_compiler import topology_devices

# Number of points at which masks are compared in training. It is repeated here because importing
# massformer_jax/training/config.py needs ml_collections.
POINTS = 12544


def devices_for(topology: str | None, batch: int) -> list[jax.Device]:
    """Returns the devices that share a batch; their number divides the batch.

    Args:
        topology: a slice of TPUs, such as v5e:4x4, or None for the devices of this machine.
        batch: the number of images.

    Raises:
        InputError: there is no such topology, or its compiler is not installed.
    """
    found = topology_devices(topology) if topology else jax.devices()
    return found[: max(n for n in range(1, len(found) + 1) if batch % n == 0)]


def measure_network(
    task: str,
    architecture: Mapping[str, Any],
    size: tuple[int, int],
    batch: int,
    dtype: str,
    devices: Sequence[jax.Device],
    *,
    runs: int,
) -> dict[str, Any]:
    """Measures `inference` or `train`; see `scripts.benchmark.run.measure`.

    Raises:
        InputError: the network cannot be trained with this size or batch.
    """
    mesh = sharding.make_mesh(list(devices))
    if task == "train":
        function, arguments = train(architecture, size, batch, dtype, mesh)
        return measure(function, arguments, runs=runs, donated=0)
    return measure(*inference(architecture, size, batch, dtype, mesh), runs=runs)


def inference(
    architecture: Mapping[str, Any], size: tuple[int, int], batch: int, dtype: str, mesh: Mesh
) -> tuple[Callable, tuple]:
    """Returns the function from photographs to label maps, and its arguments without values.

    The photographs are uint8 [batch, *size, 3] and split over the mesh. Their rows are split, too,
    if the mesh has an axis for them. The label maps have the size of the photographs.
    """
    find = network_labels(model_graph(architecture, training=False), dtype=dtype, mesh=mesh)

    def labels(params, batch_stats, images):
        return find(params, batch_stats, images, size)

    replicated, split = sharding.replicated(mesh), sharding.photographs_sharded(mesh)
    function = jax.jit(labels, in_shardings=(replicated, replicated, split), out_shardings=split)
    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8, sharding=split)
    return function, (*placed(abstract_weights(architecture), replicated), images)


def train(
    architecture: Mapping[str, Any],
    size: tuple[int, int],
    batch: int,
    dtype: str,
    mesh: Mesh,
    *,
    remat: bool = False,
) -> tuple[Callable, tuple]:
    """Returns the training step of the released recipe, and its arguments without values.

    Raises:
        InputError: the network cannot be trained with this size or batch.
    """
    check_training(size, batch, mesh)
    optimizer = recipe_optimizer()
    step = training_step(
        architecture,
        optimizer,
        mesh,
        seed=0,
        points=POINTS,
        edge_target="edges",
        dtype=dtype,
        remat=remat,
    )
    state = placed(abstract_state(architecture, optimizer), sharding.replicated(mesh))
    return step, (state, training_batch(size, batch, mesh))


def check_training(size: tuple[int, int], batch: int, mesh: Mesh) -> None:
    """Checks that the network can be trained with this size and batch.

    Raises:
        InputError: it cannot be trained with them.
    """
    sharding.check_batch_size(batch, mesh)
    if any(side % STRIDE for side in size):
        raise InputError(f"size is {size[0]}x{size[1]}; to train, use multiples of {STRIDE}")


def training_batch(
    size: tuple[int, int], batch: int, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the arguments of a training step without values: crops and label maps."""
    split = sharding.batch_sharded(mesh)
    return {
        "image": jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8, sharding=split),
        "label": jax.ShapeDtypeStruct((batch, *size), jnp.uint8, sharding=split),
    }
