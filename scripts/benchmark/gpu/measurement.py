"""What is measured on a GPU: something that is compiled, and then run."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Measurement(NamedTuple):
    """Something to compile and to run."""

    name: str  # of its file
    prepare: Callable[[], Callable[[], dict[str, Any]]]  # compiles; what it returns runs
