"""What a lowering is given: an equation of the program, and who writes."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np

from massformer_jax.errors import InputError
from massformer_jax.export.onnx.graph import Graph, Side, Value


@dataclasses.dataclass(frozen=True)
class Equation:
    """An operation of the program.

    Attributes:
        name: of the operation.
        params: its settings.
        shapes: of its results.
        dtypes: of its results.
    """

    name: str
    params: dict[str, Any]
    shapes: tuple[tuple[Side, ...], ...]
    dtypes: tuple[np.dtype, ...]

    def result(self, name: str, held: Sequence[Side] | None = None, number: int = 0) -> Value:
        """Returns a result that the graph computes.

        Args:
            name: of the tensor.
            held: its sides, by default all.
            number: which of the results.
        """
        shape = self.shapes[number]
        return Value(shape, self.dtypes[number], name, shape if held is None else tuple(held))

    def refuse(self, what: str) -> NoReturn:
        """Says that the operation cannot be written."""
        raise InputError(f"the program has the operation {self.name!r} {what}, not known in ONNX")


@runtime_checkable
class Writer(Protocol):
    """Who writes a program into a graph: `massformer_jax.export.onnx.walk.Walk`."""

    graph: Graph

    def inline(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """Writes another program where the graph is now, and returns its results."""
