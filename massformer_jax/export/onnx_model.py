"""The network as a program of ONNX, with its weights in it."""

import json

import jax
import numpy as np
import onnx

import massformer_jax
from massformer_jax.export.form import Form, Program
from massformer_jax.export.onnx.model import FORM, OPERATORS, model
from massformer_jax.export.traced import traceable
from massformer_jax.models.massformer import STRIDE
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
    found = model(
        traced.jaxpr,
        network.weights,
        {"images": network.image},
        [form.answer],
        producer=("massformer_jax", massformer_jax.__version__),
    )
    # Should the file be without its folder one day.
    told = {"classes": weights.classes, "palette": weights.palette, "stride": STRIDE}
    onnx.helper.set_model_props(
        found, {key: json.dumps(np.asarray(value).tolist()) for key, value in told.items()}
    )
    return Program(
        found.SerializeToString(),
        network.weights,
        network.image,
        jax.ShapeDtypeStruct(answer.shape, answer.dtype),
        {"operators": OPERATORS, "ir_version": FORM},
    )
