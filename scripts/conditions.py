"""What something was measured with: the processor and the versions of the libraries."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import re
from collections.abc import Sequence
from typing import Any

import jax


def describe(devices: Sequence[jax.Device]) -> str:
    """Names the processor and how much of it there is.

    Such as "AMD EPYC, 2 cores" or "NVIDIA H100 80GB HBM3, 1 device".
    """
    if devices[0].platform != "cpu":
        return f"{devices[0].device_kind}, {len(devices)} device{'s' * (len(devices) > 1)}"
    name = platform.processor() or platform.machine()
    # Only Linux has this file, which tells more.
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.+)", pathlib.Path("/proc/cpuinfo").read_text())
        name = found[1].strip() if found else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def versions(*libraries: str) -> dict[str, str]:
    """Returns the versions of Python and of the libraries, by name."""
    found = {name: importlib.metadata.version(name) for name in libraries}
    return {"python": platform.python_version(), **found}


def conditions() -> dict[str, Any]:
    """Returns the first device and the versions of what computes on it."""
    return {
        "device": describe(jax.devices()[:1]),
        "versions": versions("jax", "jaxlib", "flax", "numpy"),
    }
