"""The network as a program of StableHLO: for jax as it stores them, or as text for compilers.

Kernels for GPUs are left out, see `massformer_jax.ops.kernel_choice.avoided`.
"""

import jax

from massformer_jax.export.form import PLATFORMS, Form, Program
from massformer_jax.export.traced import traceable
from massformer_jax.models.weights import Weights
from massformer_jax.ops import kernel_choice


def lower(weights: Weights, form: Form) -> Program:
    """Returns the network as a program, called with `(weights, images)`.

    Args:
        weights: whose architecture the program has, and with which it is called.
        form: what it is made for.
    """
    from jax import export

    network = traceable(weights, form)
    specs = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in network.weights.items()
    }
    # Otherwise weights that inference does not need would be no arguments.
    jitted = jax.jit(network.answer, keep_unused=True)
    text = form.format == "mlir"
    platforms = form.platforms or (PLATFORMS[:1] if text else PLATFORMS)
    with kernel_choice.avoided():
        exported = export.export(jitted, platforms=platforms)(specs, network.image)
    (answer,) = exported.out_avals
    facts = {"jax": jax.__version__, "platforms": list(exported.platforms)}
    if not text:
        facts["calling_convention_version"] = exported.calling_convention_version
    return Program(
        exported.mlir_module().encode() if text else bytes(exported.serialize()),
        network.weights,
        network.image,
        jax.ShapeDtypeStruct(answer.shape, answer.dtype),
        facts,
    )
