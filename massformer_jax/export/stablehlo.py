"""A part of a network as a program of StableHLO: for jax as it stores them, or as text.

Kernels for GPUs are left out, see `massformer_jax.ops.kernel_choice.avoided`.
"""

from collections.abc import Mapping

import jax
import numpy as np

from massformer_jax.export.form import PLATFORMS, Form, Part, Program
from massformer_jax.export.traced import specs
from massformer_jax.ops import kernel_choice


def lower(part: Part, weights: Mapping[str, np.ndarray], form: Form) -> Program:
    """Returns the part as a program, called with the weights and its inputs.

    Args:
        part: of the network.
        weights: by name, with which it is called.
        form: what it is made for.
    """
    from jax import export

    # Otherwise weights that inference does not need would be no arguments.
    jitted = jax.jit(part.call, keep_unused=True)
    text = form.format == "mlir"
    platforms = form.platforms or (PLATFORMS[:1] if text else PLATFORMS)
    with kernel_choice.avoided():
        exported = export.export(jitted, platforms=platforms)(specs(weights), *part.inputs.values())
    facts = {"jax": jax.__version__, "platforms": list(exported.platforms)}
    if not text:
        facts["calling_convention_version"] = exported.calling_convention_version
    return Program(
        exported.mlir_module().encode() if text else bytes(exported.serialize()),
        part.inputs,
        {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype)
            for name, x in zip(part.outputs, exported.out_avals, strict=True)
        },
        facts,
    )
