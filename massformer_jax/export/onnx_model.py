"""A part of a network as a program of ONNX, with its weights in it."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import onnx

import massformer_jax
from massformer_jax.export.form import Part, Program
from massformer_jax.export.onnx.model import FORM, OPERATORS, model
from massformer_jax.export.traced import specs
from massformer_jax.ops import kernel_choice, named_calls


def lower(part: Part, weights: Mapping[str, np.ndarray], told: Mapping[str, Any]) -> Program:
    """Returns the part as a program, whose inputs and outputs have the names that they have there.

    Args:
        part: of the network.
        weights: by name; those that it needs become part of the program.
        told: what becomes part of it, too, should the file be without its folder one day.

    Raises:
        InputError: the network has an operation that has no form in ONNX here.
    """
    with kernel_choice.avoided(), named_calls.kept():
        jitted = jax.jit(part.call, keep_unused=True)
        traced = jitted.trace(specs(weights), *part.inputs.values())
    found = model(
        traced.jaxpr,
        weights,
        part.inputs,
        part.outputs,
        producer=("massformer_jax", massformer_jax.__version__),
    )
    onnx.helper.set_model_props(
        found, {key: json.dumps(np.asarray(value).tolist()) for key, value in told.items()}
    )
    return Program(
        found.SerializeToString(),
        part.inputs,
        {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype)
            for name, x in zip(part.outputs, traced.jaxpr.out_avals, strict=True)
        },
        {"operators": OPERATORS, "ir_version": FORM},
    )
