"""A measurement on an accelerator: something that is compiled and then run."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Measurement(NamedTuple):
    """A measurement: its name, and how it is compiled and run."""

    name: str  # names the file of the result
    prepare: Callable[[], Callable[[], dict[str, Any]]]  # compiles, and returns what runs
