"""Calls that keep their names, and operators of ONNX that do the same: `ops.named_calls`."""

import numpy as np

from massformer_jax.export.onnx.graph import Graph, Side, Value, tensor_type
from massformer_jax.export.onnx.lowering import Equation, Writer
from massformer_jax.export.onnx.products import moved, moved_back
from massformer_jax.export.onnx.shapes import reshaped

_PLANES = (0, 3, 1, 2)  # of a map [b h w c]
# Of each position of the output onnxruntime's DeformConv copies all that the kernel is multiplied
# with, channels times taps. More of these are several operators, whose results are added up: at 12
# megapixels the 7x7 layer of ResNet-50's decoder would copy 4.9 GB.
_COPIED = 1600


def _deform_conv(
    writer: Writer,
    equation: Equation,
    x: Value,
    offsets: Value,
    modulation: Value,
    kernel: Value,
    first_row: Value,
) -> Value:
    """Writes `ops.deform_conv`, whose offsets and factors are laid out as ONNX has them."""
    graph = writer.graph
    _, height, _, _ = x.shape
    size, rows = kernel.shape[0], offsets.shape[2]
    step = _step(height, rows)
    half = size // 2
    # The last row that the operator counts from is the last but one before another would begin.
    below = half if step == 1 else step * rows - 1 - height + size - half
    shifts = graph.expanded(offsets)
    if step != 1 or first_row.number != 0:
        shifts = _moved_offsets(graph, shifts, offsets, first_row, step)
    maps, weights = moved(writer, x, _PLANES), moved(writer, kernel, (3, 2, 0, 1))
    factors = graph.expanded(modulation)
    channels = kernel.shape[2]
    parts = -(-channels * size**2 // _COPIED)
    results = []
    for part in range(parts):
        begin, end = (channels * i // parts for i in (part, part + 1))
        some = [maps, weights]
        if parts > 1:
            places = [graph.integers(begin), graph.integers(end), graph.integers(1)]
            some = [graph.add("Slice", name, *places) for name in some]
        results.append(
            graph.add(
                "DeformConv",
                *some,
                shifts,
                "",
                factors,
                kernel_shape=[size, size],
                strides=[step, 1],
                pads=[half, half, below, half],
            )
        )
    name = results[0] if parts == 1 else graph.add("Sum", *results)
    return equation.result(moved_back(writer, name, equation.shapes[0], _PLANES))


def _step(height: Side, rows: Side) -> int:
    """Returns a stride with which so many rows of output belong to a map.

    The operator has one row of output for each row of the map, where a strip has fewer. With a
    stride it has fewer, and offsets then say where in the map the rows of the strip lie.
    """
    for step in range(1, 1 << 16):
        surplus = step * rows - height
        if isinstance(surplus, int) and surplus >= 0:
            return step
    raise ValueError(f"{rows} rows are no strip of {height}")


def _moved_offsets(graph: Graph, name: str, offsets: Value, first_row: Value, step: int) -> str:
    """Returns offsets from where the operator is to where the rows of the strip are.

    It is at row i * step, and row i of the strip is at first_row + i.
    """
    b, planes, rows, columns = offsets.shape
    dtype, integer = tensor_type(offsets.dtype), np.int64
    zero, one = (graph.constant(np.array(number, integer)) for number in (0, 1))
    count = graph.add("Squeeze", graph.side(rows), graph.integers(0))
    row = graph.add("Range", zero, count, one)
    row = graph.add("Mul", row, graph.integers(1 - step))
    first = graph.add("Cast", graph.name(first_row), to=tensor_type(integer))
    by = graph.add("Cast", graph.add("Add", row, first), to=dtype)
    by = reshaped(graph, by, [1, 1, 1, rows, 1])
    # Offsets alternate between rows and columns, and columns stay.
    vertical = np.array([1, 0], offsets.dtype).reshape(1, 1, 2, 1, 1)
    by = graph.add("Mul", by, graph.constant(vertical))
    pairs = reshaped(graph, name, [b, planes // 2, 2, rows, columns])
    return reshaped(graph, graph.add("Add", pairs, by), offsets.shape)


def _shifted_conv(writer: Writer, equation: Equation, maps: Value, kernel: Value) -> Value:
    half = kernel.shape[0] // 2
    weights = writer.graph.add(
        "Unsqueeze", moved(writer, kernel, (2, 0, 1)), writer.graph.integers(0)
    )
    name = writer.graph.add(
        "Conv",
        moved(writer, maps, (1, 0, 2, 3)),
        weights,
        kernel_shape=list(kernel.shape[:2]),
        pads=[half] * 4,
    )
    return equation.result(writer.graph.add("Squeeze", name, writer.graph.integers(1)))


def _resize_bilinear(writer: Writer, equation: Equation, x: Value) -> Value:
    (shape,) = equation.shapes
    if shape == x.shape:
        return x
    if len(shape) != 4:
        equation.refuse("resize_bilinear of other than maps")
    name = writer.graph.add(
        "Resize",
        moved(writer, x, _PLANES),
        "",
        "",
        writer.graph.sides([shape[axis] for axis in _PLANES]),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    return equation.result(moved_back(writer, name, shape, _PLANES))


CALLS = {
    "deform_conv": _deform_conv,
    "resize_bilinear": _resize_bilinear,
    "shifted_conv": _shifted_conv,
}
