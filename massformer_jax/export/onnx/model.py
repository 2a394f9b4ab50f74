"""A program as a model of ONNX."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from onnx import helper

from massformer_jax.export.onnx.graph import Graph, Value, constant, tensor_type
from massformer_jax.export.onnx.walk import Walk

# The first with DeformConv; and the oldest form of files that has this set of operators.
OPERATORS, FORM = 19, 9


def model(
    program: Any,
    weights: Mapping[str, np.ndarray],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    outputs: Sequence[str],
    *,
    producer: tuple[str, str] = ("massformer_jax", ""),
) -> onnx.ModelProto:
    """Returns a model that computes what a program does, checked.

    Args:
        program: a closed jaxpr, called with the weights and the inputs, in their order.
        weights: by name. They become part of the model.
        inputs: their shapes and dtypes by name. An open side is a letter or a multiple of one.
        outputs: their names.
        producer: name and version of who writes it.

    Raises:
        InputError: the program has an operation that has no form in ONNX here.
    """
    graph = Graph()
    for name, numbers in weights.items():
        graph.name_numbers(numbers, name)
    letters: dict[str, str] = {}
    values = [*map(constant, weights.values())]
    for name, x in inputs.items():
        values.append(Value(tuple(x.shape), np.dtype(x.dtype), name, tuple(x.shape)))
        for axis, side in enumerate(x.shape):
            if not isinstance(side, int):
                multiple, letter = re.fullmatch(r"(?:(\d+)\*)?([a-z]\w*)", str(side)).groups()
                letters.setdefault(letter, _letter(graph, name, axis, int(multiple or 1)))
    for letter, found in letters.items():
        graph.name_side(letter, found)
    results = Walk(graph).inline(program.jaxpr, program.consts, values)
    last = [
        helper.make_node("Identity", [graph.expanded(result)], [name], name)
        for name, result in zip(outputs, results, strict=True)
    ]
    nodes, used = _needed([*graph.nodes, *last], set(outputs))
    found = helper.make_model(
        helper.make_graph(
            nodes,
            producer[0],
            [_described(name, x.shape, x.dtype) for name, x in inputs.items()],
            [_described(name, x.shape, x.dtype) for name, x in zip(outputs, results, strict=True)],
            graph.initializers(used),
        ),
        opset_imports=[helper.make_opsetid("", OPERATORS)],
        ir_version=FORM,
        producer_name=producer[0],
        producer_version=producer[1],
    )
    onnx.checker.check_model(found, full_check=True)
    return found


def _letter(graph: Graph, name: str, axis: int, multiple: int) -> str:
    """Returns the name of what a letter in an open side stands for."""
    side = graph.add("Shape", name, start=axis, end=axis + 1)
    return side if multiple == 1 else graph.add("Div", side, graph.integers(multiple))


def _described(name: str, shape: Sequence[Any], dtype: Any) -> onnx.ValueInfoProto:
    """Returns the type of an input or output; of open sides it has the expressions."""
    sides = [side if isinstance(side, int) else str(side) for side in shape]
    return helper.make_tensor_value_info(name, tensor_type(dtype), sides)


def _needed(
    nodes: Sequence[onnx.NodeProto], used: set[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """Returns the nodes that something needs, and the names of all that is used."""
    used, kept = set(used), []
    for node in reversed(nodes):
        if used.isdisjoint(node.output):
            continue
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                body = attribute.g
                inner, names = _needed(body.node, {x.name for x in body.output})
                del body.node[:]
                body.node.extend(inner)
                used |= names
        used |= set(node.input)
        kept.append(node)
    return kept[::-1], used
