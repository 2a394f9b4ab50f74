"""Operations that look at each element alone, and those that change nothing."""

from collections.abc import Callable

import numpy as np

from massformer_jax.export.onnx.graph import Side, Value, tensor_type
from massformer_jax.export.onnx.lowering import Equation, Writer


def repeated(*values: Value) -> tuple[Side, ...]:
    """Returns the sides that are held of what is computed element by element."""
    rank = max(len(value.held) for value in values)
    rows = [(1,) * (rank - len(value.held)) + value.held for value in values]
    return tuple(
        next((side for side in sides if side != 1), 1) for sides in zip(*rows, strict=True)
    )


def _plain(operator: str, **attributes) -> Callable[..., Value]:
    """Returns what writes an operator that ONNX has."""

    def write(writer: Writer, equation: Equation, *values: Value) -> Value:
        names = [writer.graph.name(value) for value in values]
        name = writer.graph.add(operator, *names, **attributes)
        return equation.result(name, repeated(*values))

    return write


def _logical(operator: str) -> Callable[..., Value]:
    def write(writer: Writer, equation: Equation, *values: Value) -> Value:
        if values[0].dtype != np.bool_:
            equation.refuse(f"of {values[0].dtype}")
        return _plain(operator)(writer, equation, *values)

    return write


def _negated(operator: str) -> Callable[..., Value]:
    def write(writer: Writer, equation: Equation, *values: Value) -> Value:
        names = [writer.graph.name(value) for value in values]
        name = writer.graph.add("Not", writer.graph.add(operator, *names))
        return equation.result(name, repeated(*values))

    return write


def _max(writer: Writer, equation: Equation, left: Value, right: Value) -> Value:
    if right.number == 0 and np.issubdtype(left.dtype, np.floating):
        name = writer.graph.add("Relu", writer.graph.name(left))
        return equation.result(name, left.held)
    return _plain("Max")(writer, equation, left, right)


def _cast(writer: Writer, equation: Equation, value: Value) -> Value:
    (dtype,) = equation.dtypes
    if value.dtype == dtype:
        return value
    name = writer.graph.add("Cast", writer.graph.name(value), to=tensor_type(dtype))
    return equation.result(name, value.held)


def _select(writer: Writer, equation: Equation, *values: Value) -> Value:
    which, *cases = values
    if which.dtype != np.bool_ or len(cases) != 2:
        equation.refuse("with more than two cases")
    no, yes = (writer.graph.name(case) for case in cases)
    name = writer.graph.add("Where", writer.graph.name(which), yes, no)
    return equation.result(name, repeated(*values))


def _clamp(writer: Writer, equation: Equation, *values: Value) -> Value:
    low, x, high = (writer.graph.name(value) for value in values)
    name = writer.graph.add("Min", writer.graph.add("Max", x, low), high)
    return equation.result(name, repeated(*values))


def _rsqrt(writer: Writer, equation: Equation, x: Value) -> Value:
    name = writer.graph.add("Reciprocal", writer.graph.add("Sqrt", writer.graph.name(x)))
    return equation.result(name, x.held)


def _erfc(writer: Writer, equation: Equation, x: Value) -> Value:
    one = writer.graph.constant(np.ones((), x.dtype))
    name = writer.graph.add("Sub", one, writer.graph.add("Erf", writer.graph.name(x)))
    return equation.result(name, x.held)


def _square(writer: Writer, equation: Equation, x: Value) -> Value:
    name = writer.graph.name(x)
    return equation.result(writer.graph.add("Mul", name, name), x.held)


def _integer_pow(writer: Writer, equation: Equation, x: Value) -> Value:
    exponent = writer.graph.constant(np.array(equation.params["y"], x.dtype))
    return equation.result(writer.graph.add("Pow", writer.graph.name(x), exponent), x.held)


def _same(writer: Writer, equation: Equation, *values: Value) -> list[Value]:
    """Hands values on: nothing is computed here, or only for gradients and compilers."""
    return list(values)


LOWERINGS = {
    "abs": _plain("Abs"),
    "add": _plain("Add"),
    "add_any": _plain("Add"),
    "and": _logical("And"),
    "clamp": _clamp,
    "convert_element_type": _cast,
    "copy": _same,
    "cos": _plain("Cos"),
    "div": _plain("Div"),
    "eq": _plain("Equal"),
    "erf": _plain("Erf"),
    "erfc": _erfc,
    "exp": _plain("Exp"),
    "floor": _plain("Floor"),
    "ge": _plain("GreaterOrEqual"),
    "gt": _plain("Greater"),
    "integer_pow": _integer_pow,
    "le": _plain("LessOrEqual"),
    "log": _plain("Log"),
    "logistic": _plain("Sigmoid"),
    "lt": _plain("Less"),
    "max": _max,
    "min": _plain("Min"),
    "mul": _plain("Mul"),
    "name": _same,
    "ne": _negated("Equal"),
    "neg": _plain("Neg"),
    "not": _logical("Not"),
    "optimization_barrier": _same,
    "or": _logical("Or"),
    # The sign is that of the dividend.
    "rem": _plain("Mod", fmod=1),
    "rsqrt": _rsqrt,
    "select_n": _select,
    "sign": _plain("Sign"),
    "sin": _plain("Sin"),
    "sqrt": _plain("Sqrt"),
    "square": _square,
    "stop_gradient": _same,
    "sub": _plain("Sub"),
    "tanh": _plain("Tanh"),
}
