"""Loops over strips: a scan of the program becomes a Loop of the graph."""

from typing import Any

import numpy as np
from onnx import helper

from massformer_jax.export.onnx.graph import Value, tensor_type
from massformer_jax.export.onnx.lowering import Equation, Writer


def _scan(writer: Writer, equation: Equation, *inputs: Value) -> list[Value]:
    params, graph = equation.params, writer.graph
    if params["reverse"] or not isinstance(params["length"], int):
        equation.refuse("backwards, or of an open length")
    consts, carried = _counts(params)
    outside, start, each = (
        inputs[:consts],
        inputs[consts : consts + carried],
        inputs[consts + carried :],
    )
    begin = [graph.expanded(value) for value in start]
    rows = [graph.expanded(value) for value in each]

    graph.begin_body()
    number, going = graph.body_input("iteration"), graph.body_input("going")
    within = [
        Value(value.shape, value.dtype, graph.body_input("carried"), value.shape) for value in start
    ]
    taken = [
        Value(
            value.shape[1:], value.dtype, graph.add("Gather", name, number, axis=0), value.shape[1:]
        )
        for value, name in zip(each, rows, strict=True)
    ]
    body = params["jaxpr"]
    found = writer.inline(body.jaxpr, body.consts, [*outside, *within, *taken])
    results = [graph.body_output(graph.expanded(value)) for value in found]
    goes_on = graph.body_output(going)
    nodes = graph.end_body()

    body_graph = helper.make_graph(
        nodes,
        graph.new("body"),
        [
            helper.make_tensor_value_info(number, tensor_type(np.int64), []),
            helper.make_tensor_value_info(going, tensor_type(np.bool_), []),
            *(_described(value.source, value) for value in within),
        ],
        [
            helper.make_tensor_value_info(goes_on, tensor_type(np.bool_), []),
            *(_described(name, value) for name, value in zip(results, found, strict=True)),
        ],
    )
    length = graph.constant(np.array(params["length"], np.int64))
    names = graph.add_loop([length, "", *begin], body_graph)
    return [equation.result(name, number=i) for i, name in enumerate(names)]


def _counts(params: dict[str, Any]) -> tuple[int, int]:
    """Returns how many constants and how many carried values a scan has."""
    if "ft_in" in params:
        # Since jax 0.12.
        consts, carried, _ = (len(part) for part in params["ft_in"].unpack())
        return consts, carried
    return params["num_consts"], params["num_carry"]


def _described(name: str, value: Value):
    """Returns the type of a tensor of the body, of which open sides are not named."""
    sides = [side if isinstance(side, int) else None for side in value.shape]
    return helper.make_tensor_value_info(name, tensor_type(value.dtype), sides)


LOWERINGS = {"scan": _scan}
