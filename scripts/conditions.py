"""The conditions of a measurement: the processor and the versions of the libraries."""

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
    """Returns the name of the processor and the number of its cores or devices.

    Examples are "AMD EPYC, 2 cores" and "NVIDIA H100 80GB HBM3, 1 device".
    """
    if devices[0].platform != "cpu":
        return f"{devices[0].device_kind}, {len(devices)} device{'s' * (len(devices) > 1)}"
    name = platform.processor() or platform.machine()
    # This file tells more than `platform`, but only Linux has it.
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.+)", pathlib.Path("/proc/cpuinfo").read_text())
        name = found[1].strip() if found else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def versions(*libraries: str) -> dict[str, str]:
    """Returns the versions of Python and of the named libraries, by name."""
    found = {name: importlib.metadata.version(name) for name in libraries}
    return {"python": platform.python_version(), **found}


def conditions() -> dict[str, Any]:
    """Returns a description of the first device, and the versions of the libraries that use it."""
    return {
        "device": describe(jax.devices()[:1]),
        "versions": versions("jax", "jaxlib", "flax", "numpy"),
    }
