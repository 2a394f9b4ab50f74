"""A program as a model of ONNX."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from massformer_jax.export.onnx.graph import Graph, Side, Value, constant, tensor_type
from massformer_jax.export.onnx.walk import Walk

# The first with DeformConv; and the oldest form of files that has this set of operators.
OPERATORS, FORM = 19, 9


def model(
    program: Any,
    weights: dict[str, np.ndarray],
    image: Any,
    *,
    names: tuple[str, str],
    multiple: int,
    producer: tuple[str, str],
) -> onnx.ModelProto:
    """Returns a model that computes what a program does.

    Args:
        program: a closed jaxpr, called with the weights, in their order, and an image.
        weights: by name. They become part of the model.
        image: shape and dtype of the image, [1, height, width, 3]. Open sides are multiples of
            `h` and of `w`.
        names: of the image and of the answer.
        multiple: which multiples.
        producer: name and version of who writes it.

    Raises:
        InputError: the program has an operation that has no form in ONNX here.
    """
    graph = Graph()
    for name, numbers in weights.items():
        graph.name_numbers(numbers, name)
    shown, answered = names
    for axis, letter in ((1, "h"), (2, "w")):
        side = graph.add("Shape", shown, start=axis, end=axis + 1)
        graph.name_side(letter, graph.add("Div", side, graph.integers(multiple)))
    shape = tuple(image.shape)
    inputs = [*map(constant, weights.values()), Value(shape, np.dtype(image.dtype), shown, shape)]
    (answer,) = Walk(graph).inline(program.jaxpr, program.consts, inputs)
    last = helper.make_node("Identity", [graph.expanded(answer)], [answered], answered)
    nodes, used = _needed([*graph.nodes, last], {answered})
    return helper.make_model(
        helper.make_graph(
            nodes,
            producer[0],
            [helper.make_tensor_value_info(shown, tensor_type(image.dtype), sides(shape))],
            [
                helper.make_tensor_value_info(
                    answered, tensor_type(answer.dtype), sides(answer.shape)
                )
            ],
            graph.initializers(used),
        ),
        opset_imports=[helper.make_opsetid("", OPERATORS)],
        ir_version=FORM,
        producer_name=producer[0],
        producer_version=producer[1],
    )


def sides(shape: Sequence[Side]) -> list[int | str]:
    """Returns a shape of which open sides are named by their axes."""
    return [
        side if isinstance(side, int) else {1: "height", 2: "width"}[axis]
        for axis, side in enumerate(shape)
    ]


def check(found: onnx.ModelProto) -> None:
    """Checks a model, and the shapes of everything in it.

    Raises:
        Exception: something of it is not ONNX.
    """
    onnx.checker.check_model(found, full_check=True)


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
