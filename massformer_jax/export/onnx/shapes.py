"""Operations that arrange elements: reshaping, slicing, joining, padding."""

from collections.abc import Sequence

import numpy as np
from jax.lax import GatherScatterMode

from massformer_jax.export.onnx.graph import END, Graph, Side, Value, tensor_type
from massformer_jax.export.onnx.lowering import Equation, Writer
from massformer_jax.ops.open_sizes import known


def reshaped(graph: Graph, name: str, shape: Sequence[Side]) -> str:
    """Returns the name of a tensor in another shape."""
    unknown = [axis for axis, side in enumerate(shape) if not known([side])]
    if len(unknown) == 1:
        # The one that is open follows from the others.
        sides = [-1 if axis in unknown else side for axis, side in enumerate(shape)]
        return graph.add("Reshape", name, graph.integers(*sides))
    return graph.add("Reshape", name, graph.sides(shape))


def transposed(graph: Graph, name: str, shape: Sequence[Side], order: Sequence[int]) -> str:
    """Returns the name of a tensor of this shape with its axes in another order."""
    long = [axis for axis in order if shape[axis] != 1]
    if list(order) == sorted(order):
        return name
    if long == sorted(long):
        # Nothing moves.
        return reshaped(graph, name, [shape[axis] for axis in order])
    return graph.add("Transpose", name, perm=list(order))


def sliced(graph: Graph, name: str, axis: int, start: Side, stop: Side | None, step: int = 1):
    """Returns the name of a part of a tensor; no `stop` is the end."""
    ends = graph.integers(END) if stop is None else graph.side(stop)
    bounds = graph.side(start), ends, graph.integers(axis), graph.integers(step)
    return graph.add("Slice", name, *bounds)


def _reshape(writer: Writer, equation: Equation, x: Value) -> Value:
    (shape,) = equation.shapes
    if (held := _held_after(x, shape)) is None:
        return equation.result(reshaped(writer.graph, writer.graph.expanded(x), shape))
    if x.numbers is not None:
        return Value(shape, x.dtype, x.numbers.reshape(held), held)
    return equation.result(reshaped(writer.graph, writer.graph.name(x), held), held)


def _held_after(x: Value, shape: Sequence[Side]) -> tuple[Side, ...] | None:
    """Returns the sides that are held in a new shape, if only sides of 1 come and go."""
    before = [axis for axis, side in enumerate(x.shape) if side != 1]
    after = [axis for axis, side in enumerate(shape) if side != 1]
    if [x.shape[axis] for axis in before] != [shape[axis] for axis in after]:
        return tuple(shape) if x.whole and x.numbers is not None and known(shape) else None
    held: list[Side] = [1] * len(shape)
    for old, new in zip(before, after, strict=True):
        held[new] = x.held[old]
    return tuple(held)


def _broadcast(writer: Writer, equation: Equation, x: Value, *_) -> Value:
    """Repeats nothing: sides are held once until an operator needs them."""
    (shape,) = equation.shapes
    held: list[Side] = [1] * len(shape)
    for old, new in enumerate(equation.params["broadcast_dimensions"]):
        held[new] = x.held[old]
    if x.numbers is not None:
        return Value(shape, x.dtype, x.numbers.reshape(held), tuple(held))
    name = writer.graph.name(x)
    if tuple(held) != x.held:
        name = reshaped(writer.graph, name, held)
    return equation.result(name, held)


def _transpose(writer: Writer, equation: Equation, x: Value) -> Value:
    order = equation.params["permutation"]
    held = [x.held[axis] for axis in order]
    return equation.result(transposed(writer.graph, writer.graph.name(x), x.held, order), held)


def _slice(writer: Writer, equation: Equation, x: Value) -> Value:
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    steps = equation.params["strides"] or (1,) * len(starts)
    name, held = writer.graph.name(x), list(equation.shapes[0])
    for axis, (start, limit, step) in enumerate(zip(starts, limits, steps, strict=True)):
        if x.held[axis] == 1:
            held[axis] = 1
            continue
        stop = None if limit == x.shape[axis] else limit
        if start != 0 or stop is not None or step != 1:
            name = sliced(writer.graph, name, axis, start, stop, step)
    return equation.result(name, held)


def _split(writer: Writer, equation: Equation, x: Value) -> list[Value]:
    axis, sizes = equation.params["axis"], [int(size) for size in equation.params["sizes"]]
    name, parts, start = writer.graph.expanded(x), [], 0
    for number, size in enumerate(sizes):
        part = sliced(writer.graph, name, axis, start, start + size)
        parts.append(equation.result(part, number=number))
        start += size
    return parts


def _dynamic_slice(writer: Writer, equation: Equation, x: Value, *starts: Value) -> Value:
    graph, name = writer.graph, writer.graph.expanded(x)
    for axis, (start, size) in enumerate(zip(starts, equation.shapes[0], strict=True)):
        if size == x.shape[axis]:
            continue
        first = _start(graph, start, x.shape[axis], size)
        stop = graph.add("Add", first, graph.side(size))
        name = graph.add("Slice", name, first, stop, graph.integers(axis))
    return equation.result(name)


def _start(graph: Graph, start: Value, side: Side, size: Side) -> str:
    """Returns where a part begins, int64 [1]: moved to where it lies inside of the side."""
    first = reshaped(graph, graph.add("Cast", graph.name(start), to=tensor_type(np.int64)), [1])
    last = graph.side(side - size)
    return graph.add("Min", graph.add("Max", first, graph.integers(0)), last)


def _dynamic_update_slice(
    writer: Writer, equation: Equation, x: Value, part: Value, *starts: Value
) -> Value:
    axes = [axis for axis, side in enumerate(part.shape) if side != x.shape[axis]]
    if len(axes) > 1:
        equation.refuse("along several axes")
    graph = writer.graph
    if not axes:
        return part
    (axis,) = axes
    first = _start(graph, starts[axis], x.shape[axis], part.shape[axis])
    after = graph.add("Add", first, graph.side(part.shape[axis]))
    name, along = graph.expanded(x), graph.integers(axis)
    above = graph.add("Slice", name, graph.integers(0), first, along)
    below = graph.add("Slice", name, after, graph.integers(END), along)
    return equation.result(graph.add("Concat", above, graph.expanded(part), below, axis=axis))


def _concatenate(writer: Writer, equation: Equation, *parts: Value) -> Value:
    names = [writer.graph.expanded(part) for part in parts]
    return equation.result(writer.graph.add("Concat", *names, axis=equation.params["dimension"]))


def _stack(writer: Writer, equation: Equation, *parts: Value) -> Value:
    axis, graph = equation.params["axis"], writer.graph
    names = [graph.add("Unsqueeze", graph.expanded(part), graph.integers(axis)) for part in parts]
    return equation.result(graph.add("Concat", *names, axis=axis))


def _unstack(writer: Writer, equation: Equation, x: Value) -> list[Value]:
    axis, graph = equation.params["axis"], writer.graph
    name, along = graph.expanded(x), graph.integers(axis)
    parts = [sliced(graph, name, axis, i, i + 1) for i in range(len(equation.shapes))]
    return [
        equation.result(graph.add("Squeeze", part, along), number=number)
        for number, part in enumerate(parts)
    ]


def _gather(writer: Writer, equation: Equation, x: Value, places: Value) -> Value:
    """Writes what reads along one axis, all of the other ones, where places say."""
    numbers = equation.params["dimension_numbers"]
    axis = numbers.start_index_map[0]
    # The last side of the places is 1: one number for each.
    rank, count = len(x.shape), len(places.shape) - 1
    others = [i for i in range(rank) if i != axis]
    as_in_onnx = (
        numbers.start_index_map == numbers.collapsed_slice_dims == (axis,)
        and not numbers.operand_batching_dims
        and all(equation.params["slice_sizes"][i] == x.shape[i] for i in others)
        and list(numbers.offset_dims) == [i if i < axis else i + count - 1 for i in others]
    )
    if not as_in_onnx:
        equation.refuse("along several axes, or in parts of others")
    inside = places.numbers is not None and known([x.shape[axis]])
    inside = inside and ((places.numbers >= 0) & (places.numbers < x.shape[axis])).all()
    if not inside and equation.params["mode"] != GatherScatterMode.PROMISE_IN_BOUNDS:
        equation.refuse("at places that may lie outside")
    graph = writer.graph
    index = reshaped(graph, graph.expanded(places), places.shape[:-1])
    return equation.result(graph.add("Gather", graph.expanded(x), index, axis=axis))


def _pad(writer: Writer, equation: Equation, x: Value, filling: Value) -> Value:
    graph, name = writer.graph, writer.graph.expanded(x)
    config = [tuple(map(int, entry)) for entry in equation.params["padding_config"]]
    if any(between for *_, between in config):
        equation.refuse("with padding between elements")
    for axis, (before, after, _) in enumerate(config):
        if before < 0 or after < 0:
            stop = x.shape[axis] + after if after < 0 else None
            name = sliced(graph, name, axis, max(0, -before), stop)
    axes = [axis for axis, (before, after, _) in enumerate(config) if before > 0 or after > 0]
    if axes:
        margins = [max(0, config[axis][end]) for end in (0, 1) for axis in axes]
        rest = graph.integers(*margins), graph.name(filling), graph.integers(*axes)
        name = graph.add("Pad", name, *rest)
    return equation.result(name)


def _iota(writer: Writer, equation: Equation, *_) -> Value:
    (shape,), (dtype,) = equation.shapes, equation.dtypes
    axis, graph = equation.params["dimension"], writer.graph
    held = tuple(side if i == axis else 1 for i, side in enumerate(shape))
    if known([shape[axis]]):
        return Value(shape, dtype, np.arange(shape[axis], dtype=dtype).reshape(held), held)
    count = graph.add("Squeeze", graph.side(shape[axis]), graph.integers(0))
    zero, one = (graph.constant(np.array(number, np.int64)) for number in (0, 1))
    name = graph.add("Cast", graph.add("Range", zero, count, one), to=tensor_type(dtype))
    return equation.result(reshaped(graph, name, held), held)


def _side(writer: Writer, equation: Equation) -> Value:
    """Writes a side that is left open as a number of the program."""
    graph, (dtype,) = writer.graph, equation.dtypes
    name = graph.add("Squeeze", graph.side(equation.params["dim"]), graph.integers(0))
    return equation.result(graph.add("Cast", name, to=tensor_type(dtype)))


LOWERINGS = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dim_as_value": _side,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "expand_dims": _reshape,
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "squeeze": _reshape,
    "stack": _stack,
    "transpose": _transpose,
    "unstack": _unstack,
}
