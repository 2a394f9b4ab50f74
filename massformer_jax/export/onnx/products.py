"""Products of matrices, convolutions, and what is taken over a side or a window."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from massformer_jax.export.onnx.graph import Side, Value, tensor_type
from massformer_jax.export.onnx.lowering import Equation, Writer
from massformer_jax.export.onnx.shapes import reshaped, transposed


def moved(writer: Writer, x: Value, order: Sequence[int]) -> str:
    """Returns the name of a value with all sides, and its axes in another order."""
    if x.numbers is not None and x.whole:
        return writer.graph.constant(np.ascontiguousarray(x.numbers.transpose(order)))
    return transposed(writer.graph, writer.graph.expanded(x), x.shape, order)


def moved_back(writer: Writer, name: str, shape: Sequence, order: Sequence[int]) -> str:
    """Undoes `moved` for a tensor that has `shape` after that."""
    inner = [shape[axis] for axis in order]
    return transposed(writer.graph, name, inner, np.argsort(order).tolist())


def _dot_general(writer: Writer, equation: Equation, left: Value, right: Value) -> Value:
    (over_left, over_right), (batch_left, batch_right) = equation.params["dimension_numbers"]
    used = {*over_left, *batch_left}, {*over_right, *batch_right}
    free_left, free_right = (
        [axis for axis in range(len(x.shape)) if axis not in axes]
        for x, axes in zip((left, right), used, strict=True)
    )
    graph, (shape,) = writer.graph, equation.shapes
    over = math.prod(left.shape[axis] for axis in over_left)
    beside = math.prod(right.shape[axis] for axis in free_right)
    # Axes of the batch, free ones, and one that is summed over; on the right that and one free one,
    # and before them as many axes of 1 as there are free ones more on the left.
    ones = max(0, len(free_left) - 1) if batch_right else 0
    first = _arranged(writer, left, (*batch_left, *free_left), over_left, [over])
    if not free_left:
        first = graph.add("Unsqueeze", first, graph.integers(len(batch_left)))
    second = _arranged(
        writer, right, batch_right, (*over_right, *free_right), [*[1] * ones, over, beside]
    )
    name = graph.add("MatMul", first, second)
    as_it_is = free_left and len(free_right) == 1
    return equation.result(name if as_it_is else reshaped(graph, name, shape))


def _arranged(
    writer: Writer,
    x: Value,
    kept: Sequence[int],
    others: Sequence[int],
    sides: Sequence[Side],
) -> str:
    """Returns the name of a value with some axes first, and the others after them as `sides`."""
    name = moved(writer, x, (*kept, *others))
    if [x.shape[axis] for axis in others] == list(sides):
        return name
    return reshaped(writer.graph, name, [*(x.shape[axis] for axis in kept), *sides])


def _convolution(writer: Writer, equation: Equation, x: Value, kernel: Value) -> Value:
    params = equation.params
    lhs, rhs, out = (tuple(order) for order in params["dimension_numbers"])
    if any(step != 1 for step in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        equation.refuse("that is transposed")
    name = writer.graph.add(
        "Conv",
        moved(writer, x, lhs),
        moved(writer, kernel, rhs),
        kernel_shape=[kernel.shape[axis] for axis in rhs[2:]],
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        pads=[int(margin[end]) for end in (0, 1) for margin in params["padding"]],
        group=params["feature_group_count"],
    )
    return equation.result(moved_back(writer, name, equation.shapes[0], out))


def _reduce(operator: str) -> Callable[..., Value]:
    def write(writer: Writer, equation: Equation, x: Value) -> Value:
        axes = equation.params["axes"]
        kept = [axis for axis in range(len(x.shape)) if axis not in axes]
        # Sides that stay may be held once; those that go are summed over.
        held = tuple(x.held[axis] if axis in kept else side for axis, side in enumerate(x.shape))
        name = writer.graph.name(x)
        if held != x.held:
            name = writer.graph.add("Expand", name, writer.graph.sides(held))
        name = writer.graph.add(operator, name, writer.graph.integers(*axes), keepdims=0)
        return equation.result(name, [held[axis] for axis in kept])

    return write


def _reduce_bool(operator: str) -> Callable[..., Value]:
    """Reduces numbers instead, which all runtimes can."""

    def write(writer: Writer, equation: Equation, x: Value) -> Value:
        integer = tensor_type(np.int32)
        name = writer.graph.add("Cast", writer.graph.name(x), to=integer)
        numbers = Value(x.shape, np.dtype(np.int32), name, x.held)
        found = _reduce(operator)(writer, equation, numbers)
        name = writer.graph.add("Cast", writer.graph.name(found), to=tensor_type(np.bool_))
        return equation.result(name, found.held)

    return write


def _argmax(writer: Writer, equation: Equation, x: Value) -> Value:
    (axis,), (dtype,) = equation.params["axes"], equation.dtypes
    name = writer.graph.add("ArgMax", writer.graph.expanded(x), axis=axis, keepdims=0)
    return equation.result(writer.graph.add("Cast", name, to=tensor_type(dtype)))


def _max_pool(writer: Writer, equation: Equation, x: Value) -> Value:
    params, order = equation.params, (0, 3, 1, 2)
    window, strides = params["window_dimensions"], params["window_strides"]
    dilated = (*params["base_dilation"], *params["window_dilation"])
    if len(window) != 4 or (window[0], window[3]) != (1, 1) or set(dilated) != {1}:
        equation.refuse("of other than rows and columns")
    name = writer.graph.add(
        "MaxPool",
        moved(writer, x, order),
        kernel_shape=list(window[1:3]),
        strides=list(strides[1:3]),
        pads=[int(params["padding"][axis][end]) for end in (0, 1) for axis in (1, 2)],
    )
    return equation.result(moved_back(writer, name, equation.shapes[0], order))


LOWERINGS = {
    "argmax": _argmax,
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
    "reduce_and": _reduce_bool("ReduceMin"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_or": _reduce_bool("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _max_pool,
}
