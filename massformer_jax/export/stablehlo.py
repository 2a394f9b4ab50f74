"""The network as a program of StableHLO, which runs wherever jax is installed.

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
    with kernel_choice.avoided():
        exported = export.export(jitted, platforms=form.platforms or PLATFORMS)(
            specs, network.image
        )
    (answer,) = exported.out_avals
    facts = {
        "jax": jax.__version__,
        "calling_convention_version": exported.calling_convention_version,
        "platforms": list(exported.platforms),
    }
    return Program(
        bytes(exported.serialize()),
        network.weights,
        network.image,
        jax.ShapeDtypeStruct(answer.shape, answer.dtype),
        facts,
    )
