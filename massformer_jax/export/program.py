"""Writing the network as programs, in any of the formats there are."""

import functools
import importlib

from massformer_jax.errors import InputError
from massformer_jax.export.family import family_of
from massformer_jax.export.form import Exported, Form
from massformer_jax.export.traced import traceable
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


def lower(weights: Weights, form: Form) -> Exported:
    """Returns the network as programs: a MaSSFormer as one, a CoordFormer as two.

    Args:
        weights: whose architecture they have.
        form: what they are made for.

    Raises:
        InputError: a library is missing, the network cannot have this form, or the format has none
            of one of its operations.
    """
    check_libraries(form)
    network = traceable(weights, form)
    if form.format == "onnx":
        from massformer_jax.export import onnx_model

        sizes = family_of(weights.architecture).sizes(weights.architecture)
        told = {"classes": weights.classes, "palette": weights.palette, **sizes}
        write = functools.partial(onnx_model.lower, told=told)
    else:
        from massformer_jax.export import stablehlo

        write = functools.partial(stablehlo.lower, form=form)
    programs = {name: write(part, network.weights) for name, part in network.parts.items()}
    return Exported(programs, network.weights)
