"""Functions of jax as models of ONNX, and their answers in onnxruntime."""

import pathlib

import jax
import numpy as np
import onnxruntime

from massformer_jax.export.onnx.model import model
from massformer_jax.ops import kernel_choice, named_calls


def converted(function, **inputs: jax.ShapeDtypeStruct | np.ndarray):
    """Returns the model of a function, whose one result is called `answer`."""
    specs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in inputs.items()}
    with kernel_choice.avoided(), named_calls.kept():
        traced = jax.jit(function).trace(*specs.values())
    return model(traced.jaxpr, {}, specs, ["answer"])


def answer(source, **inputs: np.ndarray) -> np.ndarray:
    """Returns what onnxruntime computes, on one thread.

    Args:
        source: a model, or a path of one.
        inputs: by name.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Models of any size say little of shapes, of which there are then warnings.
    options.log_severity_level = 3
    data = str(source) if isinstance(source, pathlib.Path) else source.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, inputs)
    return found
