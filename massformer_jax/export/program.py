"""Writing the network as a program, in any of the formats there are."""

import importlib

from massformer_jax.errors import InputError
from massformer_jax.export.form import Form, Program
from massformer_jax.models.build import is_coordformer
from massformer_jax.models.weights import Weights


def check_libraries(form: Form) -> None:
    """Checks that programs of a form can be written.

    Raises:
        InputError: a library is missing.
    """
    library = {"stablehlo": "flatbuffers", "onnx": "onnx"}.get(form.format)
    if library is None:
        return
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise InputError(
            f"{form.format} is written with {library}; pip install 'massformer-jax[export]'"
        ) from error


def lower(weights: Weights, form: Form) -> Program:
    """Returns the network as a program.

    Args:
        weights: whose architecture the program has.
        form: what it is made for.

    Raises:
        InputError: a library is missing, or the format has no form of one of its operations; or the
            network answers at coordinates, which no program here does.
    """
    if is_coordformer(weights.architecture):
        raise InputError(
            "the weights are of a CoordFormer, for which there is no export yet; use massformer "
            "predict, or Segmenter from Python"
        )
    check_libraries(form)
    if form.format == "onnx":
        from massformer_jax.export import onnx_model

        return onnx_model.lower(weights, form)
    from massformer_jax.export import stablehlo

    return stablehlo.lower(weights, form)
