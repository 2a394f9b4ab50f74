"""Access to the compiler for TPUs, which needs no TPU."""

import importlib.util
import os
import pathlib
from typing import Any

from massformer_jax.errors import InputError


def find_no_tpu(dumps: pathlib.Path | None = None) -> None:
    """Keeps the compiler from looking for a TPU and from locking it, since there is none.

    This must be called before jax and libtpu are imported, because they read the variables then.

    Args:
        dumps: a folder, into which the compiler writes the final bundles of all kernels, see
            scripts/pods/dumps.py.
    """
    os.environ.update(
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )
    if dumps:
        flags = (
            f"--xla_jf_dump_to={dumps}",
            "--xla_jf_dump_llo_text=true",
            "--xla_jf_dump_llo_pass_label_regex=^(final_bundles|deduplication-map)$",
        )
        os.environ["LIBTPU_INIT_ARGS"] = " ".join(flags)


def topology_devices(name: str) -> list[Any]:
    """Returns the chips of a slice, such as v5e:2x2, as jax devices.

    Raises:
        InputError: there is no such slice, or the compiler is not installed.
    """
    # This import is here because the caller first sets the variables that jax reads.
    from jax.experimental import topologies

    if not importlib.util.find_spec("libtpu"):
        raise InputError("--topology needs the TPU compiler, not a TPU: pip install libtpu")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # the compiler's plugin may raise anything
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"no topology {name!r}; libtpu says: {reason}") from error
