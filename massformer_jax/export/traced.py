"""The network as functions of a flat dictionary of weights and of inputs, to be traced."""

from typing import Any, NamedTuple

import jax
import numpy as np

from massformer_jax.export.family import family_of
from massformer_jax.export.form import Form, Part
from massformer_jax.export.stored import restored, stored
from massformer_jax.models.build import model_graph
from massformer_jax.models.weights import Weights
from massformer_jax.tree import leaves_by_path


class Traced(NamedTuple):
    """A network that can be traced.

    Attributes:
        parts: its functions by name, in the order in which they are called.
        weights: the first argument of all of them, by name, in the order in which jax makes
            arguments of a dictionary; as they are stored.
    """

    parts: dict[str, Part]
    weights: dict[str, np.ndarray]


def traceable(weights: Weights, form: Form) -> Traced:
    """Returns the network with these weights in a form, for inference.

    Raises:
        InputError: the network cannot have this form.
    """
    family = family_of(weights.architecture)
    family.check(form)
    tree = {"params": weights.params, "batch_stats": weights.batch_stats}
    by_path = {path: np.asarray(leaf) for path, leaf in leaves_by_path(tree).items()}
    tensors = stored(by_path, form.weights)
    structure = jax.tree.structure(tree)
    graph = model_graph(weights.architecture, training=False)

    def whole(flat: dict[str, jax.Array]) -> tuple[Any, Any]:
        leaves = restored(flat)
        found = jax.tree.unflatten(structure, [leaves[path] for path in by_path])
        return found["params"], found["batch_stats"]

    parts = family.parts(graph, weights.architecture, form, whole)
    return Traced(parts, {name: tensors[name] for name in sorted(tensors)})


def specs(tensors: dict[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of the weights by name."""
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in tensors.items()}
