"""The network as a function of a flat dictionary of weights and one image, to be traced.

Of a fixed size it computes in the strips that inference has on CPUs, the smallest there are: so a
program takes the memory that inference takes, and fits all platforms. Of any size, one of ONNX
computes in a few equal strips, and one of StableHLO on whole maps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from massformer_jax.export.form import Form
from massformer_jax.export.stored import restored, stored
from massformer_jax.inference import network
from massformer_jax.models.build import model_graph
from massformer_jax.models.massformer import STRIDE
from massformer_jax.models.weights import Weights
from massformer_jax.tree import leaves_by_path

# Strips of an image of any size: 384 rows at half the size of 12 megapixels. More would save little
# memory there, and cost time for small images, since each strip reads rows of its neighbours.
STRIPS = 4
_FINISH = {"labels": network.highest, "scores": lambda scores: scores}
_INFERENCE = {"labels": network.network_labels, "scores": network.network_scores}


class Traced(NamedTuple):
    """A network that can be traced.

    Attributes:
        answer: from the weights by name, and an image [1, h, w, 3], to the answer.
        weights: by name, in the order in which jax makes arguments of a dictionary; as they are
            stored.
        image: shape and dtype of the image; sides that are left open are expressions.
    """

    answer: Callable[[dict[str, jax.Array], jax.Array], jax.Array]
    weights: dict[str, np.ndarray]
    image: jax.ShapeDtypeStruct


def traceable(weights: Weights, form: Form) -> Traced:
    """Returns the network with these weights in a form, for inference."""
    from jax import export

    tree = {"params": weights.params, "batch_stats": weights.batch_stats}
    by_path = {path: np.asarray(leaf) for path, leaf in leaves_by_path(tree).items()}
    tensors = stored(by_path, form.weights)
    structure = jax.tree.structure(tree)
    graph = model_graph(weights.architecture, training=False)
    run = _network(graph, form)

    def answer(flat: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        whole = restored(flat)
        leaves = jax.tree.unflatten(structure, [whole[path] for path in by_path])
        return run(leaves["params"], leaves["batch_stats"], images)

    sides = form.size or export.symbolic_shape(f"{STRIDE}*h, {STRIDE}*w")
    image = jax.ShapeDtypeStruct((1, *sides, 3), jnp.uint8)
    return Traced(answer, {name: tensors[name] for name in sorted(tensors)}, image)


def _network(graph: nnx.GraphDef, form: Form) -> Callable[[Any, Any, jax.Array], jax.Array]:
    if form.format != "onnx" and form.size:
        # The very program that inference runs.
        rows = network.rows_of_strip(network.STRIP, form.size[1])
        run = _INFERENCE[form.answer](graph, dtype=form.dtype, strip_rows=rows)
        return lambda *inputs: run(*inputs, form.size)

    def strip_rows(height: int, width: int) -> int:
        if form.size:
            return network.rows_of_strip(network.STRIP, width)
        return height // 2 // (STRIPS if form.format == "onnx" else 1)

    finish = _FINISH[form.answer]
    return network.network_of_any_size(graph, finish, strip_rows, dtype=form.dtype)
