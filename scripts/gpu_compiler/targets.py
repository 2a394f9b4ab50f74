"""The GPUs for which programs can be compiled on a machine without a GPU."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from massformer_jax.errors import InputError

# A GpuTargetConfigProto for each GPU, as text. What belongs to the compute capability is from the
# tables of NVIDIA's "CUDA C++ Programming Guide". The rest is from the data sheets of the H100 SXM
# with 80 GB and of the A100 SXM with 40 GB. The latter also exists with 80 GB; what fits into the
# smaller one fits into the larger one.
_TARGETS = {
    "h100": """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 85899345920
  memory_bandwidth: 3350000000000
  l2_cache_size: 52428800
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
""",
    "a100": """
platform_name: "CUDA"
device_description_str: "NVIDIA A100-SXM4-40GB"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 8 minor: 0 }
  core_count: 108
  fpus_per_core: 64
  clock_rate_ghz: 1.41
  device_memory_size: 42949672960
  memory_bandwidth: 1555000000000
  l2_cache_size: 41943040
  shared_memory_per_core: 167936
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 166912
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
""",
}
GPUS = tuple(_TARGETS)


def target_devices(gpu: str, count: int) -> Sequence[jax.Device]:
    """Returns devices of one host, for which programs can be compiled but not run.

    The environment must have JAX_PLATFORMS=cpu; otherwise JAX looks for a driver.

    Args:
        gpu: one of `GPUS`.
        count: the number of devices.

    Raises:
        InputError: the compiler for GPUs is not installed.
    """
    try:
        return topologies.get_topology_desc(
            platform="cuda",
            topology_name=gpu,
            target_config=_TARGETS[gpu],
            # These are slices, hosts per slice, and GPUs per host.
            topology=f"1x1x{count}",
        ).devices
    except NotImplementedError as error:
        # JAX knows no topologies of a platform whose plugin is not installed.
        raise InputError(
            'the compiler for GPUs is not installed: pip install ".[gpu-compiler]"'
        ) from error


def lower(function: Callable, arguments: Sequence[Any], mesh: Mesh) -> jax.stages.Lowered:
    """Returns the compiler's input for a jitted function on a mesh of `target_devices`.

    Pallas reads from the context for which GPU a kernel is meant. Without that it would ask a GPU
    of this machine, which has none. A kernel inside `jax.shard_map` finds the mesh there anyway.

    Args:
        function: a jitted function.
        arguments: trees of ShapeDtypeStructs, and static arguments.
        mesh: the mesh that the function or the shardings of its arguments name.
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return function.trace(*arguments).lower()
