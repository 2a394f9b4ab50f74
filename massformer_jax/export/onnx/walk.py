"""A walk through a program that jax traced, which writes it into a graph of ONNX."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from massformer_jax.errors import InputError
from massformer_jax.export.onnx import calls, loops, pointwise, products, shapes
from massformer_jax.export.onnx.graph import Graph, Value, constant
from massformer_jax.export.onnx.lowering import Equation
from massformer_jax.ops.open_sizes import known

LOWERINGS = {
    **pointwise.LOWERINGS,
    **shapes.LOWERINGS,
    **products.LOWERINGS,
    **loops.LOWERINGS,
}
# What calls another program, by the names that it has in all versions of jax.
CALLING = {
    "checkpoint",
    "closed_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
    "remat2",
}
# What is computed here already if all of its inputs are known, unless it is larger than this.
FOLDED = 1 << 23


class Walk:
    """A walk that writes into a graph.

    Attributes:
        graph: what is written.
    """

    def __init__(self, graph: Graph):
        self.graph = graph

    def inline(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """Writes a program, and returns its results.

        Args:
            jaxpr: the program.
            consts: its constants.
            inputs: its inputs.

        Raises:
            InputError: it has an operation that is not known here, which is named.
        """
        values = dict(zip(jaxpr.invars, inputs, strict=True))
        values |= {
            var: constant(np.asarray(x)) for var, x in zip(jaxpr.constvars, consts, strict=True)
        }

        def read(var):
            if hasattr(var, "val"):
                return constant(np.asarray(var.val, var.aval.dtype))
            return values[var]

        for eqn in jaxpr.eqns:
            results = self._write(eqn, [read(var) for var in eqn.invars])
            values |= zip(eqn.outvars, results, strict=True)
        return [read(var) for var in jaxpr.outvars]

    def _write(self, eqn: Any, inputs: list[Value]) -> list[Value]:
        name, params = eqn.primitive.name, eqn.params
        avals = [var.aval for var in eqn.outvars]
        equation = Equation(
            name,
            params,
            tuple(tuple(aval.shape) for aval in avals),
            tuple(np.dtype(aval.dtype) for aval in avals),
        )
        if name == "platform_index":
            return [constant(np.array(_default(params["platforms"]), np.int32))]
        if name == "cond" and inputs[0].number is not None:
            branch = params["branches"][inputs[0].number]
            return self.inline(branch.jaxpr, branch.consts, inputs[1:])
        if name in CALLING:
            if (write := calls.CALLS.get(params.get("name"))) is not None:
                return [write(self, equation, *inputs)]
            return self.inline(*_called(params), inputs)
        if (numbers := _computed(eqn, equation, inputs)) is not None:
            return numbers
        if name not in LOWERINGS:
            raise InputError(f"the program has the operation {name!r}, not known in ONNX")
        found = LOWERINGS[name](self, equation, *inputs)
        return found if isinstance(found, list) else [found]


def _called(params: dict[str, Any]) -> tuple[Any, Sequence[Any]]:
    """Returns the program that a call calls, and its constants."""
    inner = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
    return (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())


def _default(platforms: Sequence[Any]) -> int:
    """Returns which form of a computation runs on platforms that have none of their own."""
    return next(i for i, names in enumerate(platforms) if names is None)


def _computed(eqn: Any, equation: Equation, inputs: Sequence[Value]) -> list[Value] | None:
    """Returns the results of an operation on known numbers, if it is a small one."""
    if not inputs or any(x.numbers is None for x in inputs):
        return None
    if equation.name == "convert_element_type" and inputs[0].dtype in (np.float16, np.int8):
        # Weights that are stored in fewer bits stay so in the file. A runtime converts them once.
        return None
    if equation.name in pointwise.LOWERINGS:
        # Along sides that are held once results are equal, too.
        held = pointwise.repeated(*inputs)
        whole = [x.numbers if not x.shape else np.broadcast_to(x.numbers, held) for x in inputs]
        found = _bound(eqn, whole)
        return [
            Value(shape, x.dtype, x, x.shape)
            for x, shape in zip(found, equation.shapes, strict=True)
        ]
    shapes_known = all(known(shape) for shape in (*equation.shapes, *(x.shape for x in inputs)))
    if equation.name in ("scan", "while", "broadcast_in_dim") or not shapes_known:
        return None
    if any(np.prod(shape, dtype=int) > FOLDED for shape in equation.shapes):
        return None
    return [constant(x) for x in _bound(eqn, [np.broadcast_to(x.numbers, x.shape) for x in inputs])]


def _bound(eqn: Any, numbers: Sequence[np.ndarray]) -> list[np.ndarray]:
    found = eqn.primitive.bind(*numbers, **eqn.params)
    return [np.asarray(x) for x in (found if eqn.primitive.multiple_results else [found])]
