"""Cells and rows of Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def conditions(record: Mapping[str, Any]) -> str:
    """Where and when it was measured, and with which version."""
    device, versions = record["device"], record["versions"]
    if record.get("topology"):
        device = f"{record['topology']} ({device}), compiled only, libtpu {versions['libtpu']}"
    library = "jax" if "jax" in versions else "torch"
    return f"{device}; {library} {versions[library]}, {record['date']}"


def seconds(time: float | None) -> str:
    """A time with three digits."""
    if time is None:
        return "not run"
    return f"{time:.2f} s" if time >= 1 else f"{1e3 * time:.3g} ms"


def gigabytes(count: int) -> str:
    """A number of bytes."""
    return f"{count / 1e9:.2f} GB"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
