"""What is computed image by image on a mesh: each device computes it for its own images.

The compiler splits what it understands. Of a kernel it knows nothing, and of a loop over the images
too little: it would gather the whole batch on every device.
"""

import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import PartitionSpec

# The axis of a mesh that splits the rows of images. All others split images.
ROWS_AXIS = "spatial"


def by_image(function: Callable[..., tuple], batched: Sequence[bool]) -> Callable:
    """Returns `function`, called by each device for the images that it has.

    The devices are those of the ambient mesh (`jax.sharding.use_abstract_mesh`). Without one,
    inside of a `shard_map`, or if the devices do not divide the images, this is `function` itself.

    Args:
        function: takes arrays and returns a tuple of arrays whose first axis is that of the
            images; no result depends on another image.
        batched: for each argument, whether its first axis is that of the images; all other
            arguments are given to every device.
    """

    def split(*arguments):
        mesh = jax.sharding.get_abstract_mesh()
        shared = {*mesh.manual_axes, ROWS_AXIS}
        axes = tuple(axis for axis in mesh.axis_names if axis not in shared)
        images = arguments[batched.index(True)].shape[0]
        alone = mesh.manual_axes or math.prod(mesh.shape.values()) == 1
        if alone or images % math.prod(mesh.shape[axis] for axis in axes):
            return function(*arguments)
        spec = PartitionSpec(axes)
        places = tuple(spec if is_batched else PartitionSpec() for is_batched in batched)
        # check_vma: loops that start from constants.
        return jax.shard_map(function, in_specs=places, out_specs=spec, check_vma=False)(*arguments)

    return split
