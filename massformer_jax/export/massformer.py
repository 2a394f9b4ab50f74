"""A MaSSFormer as a program: from an image to an answer for each of its pixels.

A program of StableHLO for a fixed size computes in the strips that inference has on CPUs, the
smallest there are: so it takes the memory that inference takes, and fits all platforms. For any
size it computes on whole maps. A program of ONNX computes in a few equal strips.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from massformer_jax.export.facts import images, output
from massformer_jax.export.form import Form, Part, Program
from massformer_jax.inference import network
from massformer_jax.models.massformer import STRIDE

# Strips of a program of ONNX: of 384 rows at half the size of 12 megapixels. More would save little
# memory there, and cost time for small images, since each strip reads rows of its neighbours.
STRIPS = 4
_FINISH = {"labels": network.highest, "scores": lambda scores: scores}
_INFERENCE = {"labels": network.network_labels, "scores": network.network_scores}
_MEANINGS = {
    "labels": "the class of every pixel, a position in `classes`",
    "scores": "of every pixel and class, at least 0, not normalised over the classes",
}


def check(form: Form) -> None:
    """Refuses nothing: `Form` knows what these networks can have."""


def sizes(architecture: Mapping[str, Any]) -> dict[str, int]:
    """Returns what sides of images are multiples of."""
    return {"stride": STRIDE}


def said_of(form: Form) -> str:
    """Returns what the answers are of, in words."""
    return "of " + ("x".join(map(str, form.sides)) if form.sides else "any size")


def parts(
    graph: nnx.GraphDef,
    architecture: Mapping[str, Any],
    form: Form,
    whole: Callable[[dict[str, jax.Array]], tuple[Any, Any]],
) -> dict[str, Part]:
    """Returns the function from an image [1, h, w, 3] to the answer [1, h, w] or [1, h, w, k].

    Args:
        graph: of the network, for inference.
        architecture: of the network.
        form: what it is made for.
        whole: makes (params, batch_stats) of the weights by name.
    """
    from jax import export

    run = _network(graph, form)

    def answer(flat: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        return run(*whole(flat), images)

    sides = form.sides or export.symbolic_shape(f"{STRIDE}*h, {STRIDE}*w")
    image = jax.ShapeDtypeStruct((1, *sides, 3), jnp.uint8)
    return {"model": Part(answer, {"images": image}, (form.answer,))}


def _network(graph: nnx.GraphDef, form: Form) -> Callable[[Any, Any, jax.Array], jax.Array]:
    if form.format != "onnx" and form.sides:
        # The very program that inference runs.
        rows = network.rows_of_strip(network.STRIP, form.sides[1])
        run = _INFERENCE[form.answer](graph, dtype=form.dtype, strip_rows=rows)
        return lambda *inputs: run(*inputs, form.sides)

    strips = STRIPS if form.format == "onnx" else 1
    return network.network_of_any_size(graph, _FINISH[form.answer], strips, dtype=form.dtype)


def facts(
    form: Form, architecture: Mapping[str, Any], programs: Mapping[str, Program]
) -> dict[str, Any]:
    """Returns what `export.json` says of input and output; docs/export.md explains it."""
    program = programs["model"]
    return {
        "input": images(program, form.sides),
        "padding": {
            "multiple": STRIDE,
            "where": "at the bottom and on the right, up to "
            + ("the size of the input" if form.sides else f"multiples of {STRIDE}"),
            "how": "the last row and the last column are repeated",
            "answer": "is cropped to the rows and columns of the photograph",
        },
        "output": output(form, program, _MEANINGS),
        **sizes(architecture),
    }
