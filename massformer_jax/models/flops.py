"""FLOPs of a traced function, with the body of a loop counted as often as it runs; of the network.

XLA's own cost analysis counts the body of a loop once. Here the jaxpr is walked instead: matrix
products and convolutions, a multiplication and an addition counted as two. What is elementwise, and
the bilinear samples, do not count, as in the figures that papers print (those are multiply-adds, so
half of these).
"""

import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend import core

from massformer_jax.models.build import abstract_weights, is_coordformer, model_graph
from massformer_jax.models.coordformer import SIDE
from massformer_jax.models.coordinate_decoder import PATCH

PHOTOGRAPH = (3072, 4096)  # rows and columns of the photograph that published figures are of


def network_size(architecture: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the numbers of parameters and of multiply-accumulates of a 4096x3072 photograph.

    The network is traced, which takes seconds the first time, and neither compiled nor run. The
    multiply-accumulates are those of matrix products and convolutions, deformable ones among them.
    Those of CoordFormer are of every pixel asked, which is more than other ways of asking take.
    """
    return _network_size(json.dumps(dict(architecture), sort_keys=True))


@functools.cache
def _network_size(architecture: str) -> tuple[int, int]:
    found = json.loads(architecture)
    graph = model_graph(found, training=False)
    params, batch_stats = abstract_weights(found)

    def macs(*shapes):
        def forward(params, batch_stats, *inputs):
            return nnx.merge(graph, params, batch_stats, copy=True)(*inputs)

        inputs = (jax.ShapeDtypeStruct((1, *shape), jnp.float32) for shape in shapes)
        return count_flops(jax.make_jaxpr(forward)(params, batch_stats, *inputs)) // 2

    def of_coordinates(count):
        side = found.get("side", SIDE)
        return macs((side, side, 3), (count, PATCH, PATCH, 3), (count, 2))

    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    if not is_coordformer(found):
        return parameters, macs((*PHOTOGRAPH, 3))
    one = of_coordinates(1)
    return parameters, one + (math.prod(PHOTOGRAPH) - 1) * (of_coordinates(2) - one)


def count_flops(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> int:
    """Counts the FLOPs of all devices together; of a branch, those of its costliest side.

    Of what is written once for each platform, the form for all others counts: a TPU may be given
    products that are mostly zeros.

    Raises:
        ValueError: a loop whose number of trips is only known at run time multiplies matrices.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot_flops(equation)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    inside = [count_flops(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "cond":
        others = [i for i, x in enumerate(params.get("branches_platforms") or ()) if x is None]
        return inside[others[0]] if others else max(inside)
    if name == "while" and any(inside):
        raise ValueError("a loop without a static number of trips contains matrix products")
    return _trips(name, params) * sum(inside)


def _trips(name: str, params: dict[str, Any]) -> int:
    """Returns how often what is inside runs: turns of a loop, cells of a grid, devices."""
    if name == "scan":
        return params["length"]
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    if name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return 1


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.Jaxpr | core.ClosedJaxpr):
                yield item


def _dot_flops(equation) -> int:
    (contracting, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracting)


def _convolution_flops(equation) -> int:
    """Counts the FLOPs of a convolution.

    Products with the padding count, as in every framework's figures; those with the zeros that a
    transposed convolution inserts between its inputs do not.
    """
    params = equation.params
    numbers = params["dimension_numbers"]
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    pairs = 1
    for i, axis in enumerate(numbers.out_spec[2:]):
        position = np.arange(out[axis])[:, None] * params["window_strides"][i]
        tap = np.arange(kernel[numbers.rhs_spec[2 + i]])[None, :] * params["rhs_dilation"][i]
        offset = position + tap - params["padding"][i][0]
        pairs *= int((offset % params["lhs_dilation"][i] == 0).sum())
    batch, features = (out[axis] for axis in numbers.out_spec[:2])
    return 2 * batch * features * pairs * kernel[numbers.rhs_spec[1]]
