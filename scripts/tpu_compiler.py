"""The compiler for TPUs, which compiles for slices that need not be there."""

import importlib.util
import os
from typing import Any

from massformer_jax.errors import InputError


def find_no_tpu() -> None:
    """Keeps the compiler from looking for a TPU, and from locking the one that is not there.

    To be called before jax and libtpu are imported, which read these variables then.
    """
    os.environ.update(
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )


def topology_devices(name: str) -> list[Any]:
    """Returns the chips of a slice, such as v5e:2x2, as devices of jax.

    Raises:
        InputError: there is no such slice, or the compiler is not installed.
    """
    # Not above: the caller sets the variables before jax is imported.
    from jax.experimental import topologies

    if not importlib.util.find_spec("libtpu"):
        raise InputError("--topology needs the TPU compiler, not a TPU: pip install libtpu")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # whatever the compiler's plugin raises
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"no topology {name!r}; libtpu says: {reason}") from error
