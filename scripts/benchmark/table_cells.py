"""Cells of the tables in docs/performance.md."""

from collections.abc import Mapping
from typing import Any


def conditions(record: Mapping[str, Any]) -> str:
    """Returns a text: where and when a result was measured, and with which version."""
    device, versions = record["device"], record["versions"]
    if record.get("topology"):
        device = f"{record['topology']} ({device}), compiled only, libtpu {versions['libtpu']}"
    library = "jax" if "jax" in versions else "torch"
    return f"{device}; {library} {versions[library]}, {record['date']}"


def seconds(time: float | None) -> str:
    """Returns a time as text with three digits."""
    if time is None:
        return "not run"
    return f"{time:.2f} s" if time >= 1 else f"{1e3 * time:.3g} ms"


def gigabytes(count: int) -> str:
    """Returns a number of bytes as text."""
    return f"{count / 1e9:.2f} GB"
