"""The network as a function of a flat dictionary of weights and one image, to be traced.

It computes in strips of rows. Of a fixed size these are the ones that inference has on CPUs, the
smallest there are: so a program takes the memory that inference takes, and fits all platforms.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from massformer_jax.export.form import Form
from massformer_jax.inference import network
from massformer_jax.models.build import model_graph
from massformer_jax.models.massformer import STRIDE
from massformer_jax.models.weights import Weights
from massformer_jax.tree import leaves_by_path

# Strips of an image whose size is left open: 384 rows at half the size of 12 megapixels. More would
# save little memory there, and cost time for small images, since each reads rows of its neighbours.
STRIPS = 4
_FINISH = {"labels": network.highest, "scores": lambda scores: scores}


class Traced(NamedTuple):
    """A network that can be traced.

    Attributes:
        answer: from the weights by name, and an image [1, h, w, 3], to the answer.
        weights: by name, in the order in which jax makes arguments of a dictionary; float32.
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
    structure = jax.tree.structure(tree)
    graph = model_graph(weights.architecture, training=False)
    run = network.network_of_any_size(
        graph, _FINISH[form.answer], _strip_rows(form), dtype=form.dtype
    )

    def answer(flat: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        leaves = jax.tree.unflatten(structure, [flat[path] for path in by_path])
        return run(leaves["params"], leaves["batch_stats"], images)

    sides = form.size or export.symbolic_shape(f"{STRIDE}*h, {STRIDE}*w")
    image = jax.ShapeDtypeStruct((1, *sides, 3), jnp.uint8)
    return Traced(answer, {path: by_path[path] for path in sorted(by_path)}, image)


def _strip_rows(form: Form) -> Callable[[int, int], int]:
    if form.size:
        return lambda _, width: network.rows_of_strip(network.STRIP, width)
    return lambda height, _: height // 2 // STRIPS
