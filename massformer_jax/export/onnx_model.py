"""The network as a program of ONNX, with its weights in it."""

import jax

import massformer_jax
from massformer_jax.export.form import Form, Program
from massformer_jax.export.onnx import model
from massformer_jax.export.traced import traceable
from massformer_jax.models.weights import Weights
from massformer_jax.ops import kernel_choice, named_calls


def lower(weights: Weights, form: Form) -> Program:
    """Returns the network as a program whose input is `images`, and whose output is the answer.

    Args:
        weights: whose architecture the program has, and which become part of it.
        form: what it is made for.

    Raises:
        InputError: the network has an operation that has no form in ONNX here.
    """
    network = traceable(weights, form)
    specs = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in network.weights.items()
    }
    with kernel_choice.avoided(), named_calls.kept():
        traced = jax.jit(network.answer, keep_unused=True).trace(specs, network.image)
    (answer,) = traced.jaxpr.out_avals
    found = model.model(
        traced.jaxpr,
        network.weights,
        {"images": network.image},
        [form.answer],
        producer=("massformer_jax", massformer_jax.__version__),
    )
    return Program(
        found.SerializeToString(),
        network.weights,
        network.image,
        jax.ShapeDtypeStruct(answer.shape, answer.dtype),
        {"operators": model.OPERATORS, "ir_version": model.FORM},
    )
