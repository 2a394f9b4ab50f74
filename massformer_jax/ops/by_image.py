"""Kernels on a mesh: each device runs them on its own images.

The compiler splits what it understands; of a kernel it knows nothing and would gather the whole
batch on every device.
"""

from collections.abc import Callable, Sequence

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec


def by_image(function: Callable[..., tuple], batched: Sequence[bool]) -> Callable:
    """Returns `function`, split over its images where those are split over devices.

    Args:
        function: takes arrays and returns a tuple of arrays whose first axis is that of the
            images; no result depends on another image.
        batched: for each argument, whether its first axis is that of the images; all other
            arguments are given to every device.
    """

    asked = jax.config.jax_default_matmul_precision

    def own(*arguments):
        # The compiler asks for a device's part when what set the precision is long over.
        with jax.default_matmul_precision(asked):
            return function(*arguments)

    def partition(mesh, arguments, outputs):
        specs = [array.sharding.spec for array in arguments]
        first = next((s[0] for s, b in zip(specs, batched, strict=True) if b and s), None)
        by_images = NamedSharding(mesh, PartitionSpec(first))
        replicated = NamedSharding(mesh, PartitionSpec())
        places = tuple(by_images if is_batched else replicated for is_batched in batched)
        return mesh, own, (by_images,) * len(outputs), places

    wrapped = custom_partitioning(own)
    wrapped.def_partition(partition=partition, sharding_rule=_rule(batched))
    return wrapped


def _rule(batched: Sequence[bool]) -> Callable:
    """Returns a sharding rule: images are split, all other axes are not."""

    def rule(mesh, arguments, outputs):
        del mesh
        names, parts = [], []
        every = (*batched, *(True,) * len(outputs))
        for i, (array, is_batched) in enumerate(zip((*arguments, *outputs), every, strict=True)):
            own = [f"axis{i}_{axis}" for axis in range(is_batched, len(array.shape))]
            names += own
            parts.append(" ".join(["images"] * is_batched + own))
        operands, found = parts[: len(arguments)], parts[len(arguments) :]
        text = f"{', '.join(operands)} -> {', '.join(found)}"
        return text, {"need_replication_factors": tuple(names)}

    return rule
