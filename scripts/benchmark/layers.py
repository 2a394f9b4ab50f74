"""Measures each deformable convolution of the network, ours and PyTorch's in one process."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from massformer_jax.ops.deform_conv import deform_conv
from massformer_jax.ops.precision import computation, computing
from massformer_jax.parallel import sharding
from scripts.benchmark.pytorch_layers import pytorch_layer
from scripts.benchmark.run import measure, median, run_seconds
from scripts.benchmark.values import make_values

INPUTS = ("x", "offsets", "modulation", "kernel")  # of `deform_conv`


class Layer(NamedTuple):
    """A deformable convolution of the network."""

    name: str
    stride: int  # how much smaller its map is than the image
    features_in: int
    features_out: int
    taps: int  # k, for a kernel of k x k taps


def layers(width: int) -> list[Layer]:
    """Returns the layers of a pixel decoder of this width, coarsest map first.

    docs/deform_conv.md explains their names.
    """
    return [
        Layer("CST 1, 3x3", 32, width, width, 3),
        Layer("CST 2, 3x3", 16, width, width, 3),
        *(Layer(f"RFB {k}x{k}", 8, width, width // 4, k) for k in (1, 3, 5, 7)),
        Layer("LSE, 3x3", 2, width // 2 + 3, width // 2, 3),
        Layer("EGF, 3x3", 2, width // 2, width // 2, 3),
    ]


def layer_named(name: str, width: int) -> Layer:
    """Returns the one of `layers` with this name."""
    return next(layer for layer in layers(width) if layer.name == name)


def measure_layers(
    architecture: Mapping[str, Any],
    size: tuple[int, int],
    batch: int,
    dtype: str,
    devices: Sequence[jax.Device],
    *,
    runs: int,
    compare: bool,
) -> list[dict[str, Any]]:
    """Measures each layer: the forward pass (`forward`), and both passes (`gradient`).

    The offsets of every position are normally distributed, with a standard deviation of 2 pixels.
    With `compare`, PyTorch computes the same numbers on the same kind of device. `difference` is
    the largest difference of the results, relative to the largest result.
    """
    mesh = sharding.make_mesh(list(devices))
    found = []
    for layer in layers(architecture["decoder_width"]):
        # The network pads to multiples of 256.
        height, width = (-(-side // 256) * 256 // layer.stride for side in size)
        arguments = layer_arguments(layer, batch, height, width, dtype, mesh)
        record = {
            "layer": layer.name,
            "height": height,
            "width": width,
            "features_in": layer.features_in,
            "features_out": layer.features_out,
            "ours": {
                "forward": measure(jax.jit(forward(dtype)), [arguments], runs=runs),
                "gradient": measure(jax.jit(gradient(dtype)), [arguments], runs=runs),
            },
        }
        if compare:
            record["pytorch"] = _pytorch(make_values(arguments), dtype, runs)
        found.append(record)
    return found


def layer_arguments(
    layer: Layer,
    batch: int,
    height: int,
    width: int,
    dtype: str,
    mesh: jax.sharding.Mesh,
    rows: int | None = None,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the arguments of `deform_conv`, and `cotangent`, which the backward pass starts from.

    Offsets and modulation are float32, whatever `dtype` is, as in the network. The output has
    `rows` rows, by default all; `make_values` lets them begin at the first row.
    """
    taps = layer.taps**2
    strip = rows or height, width
    dtype = computation(dtype).arrays
    split, replicated = sharding.batch_sharded(mesh), sharding.replicated(mesh)
    size = height, width
    shapes = {
        "x": ((batch, *size, layer.features_in), dtype),
        "offsets": ((batch, 2 * taps, *strip), "float32"),
        "modulation": ((batch, taps, *strip), "float32"),
        "cotangent": ((batch, *strip, layer.features_out), dtype),
    }
    maps = {
        name: jax.ShapeDtypeStruct(shape, jnp.dtype(own), sharding=split)
        for name, (shape, own) in shapes.items()
    }
    kernel = (layer.taps, layer.taps, layer.features_in, layer.features_out)
    return {
        **maps,
        "kernel": jax.ShapeDtypeStruct(kernel, jnp.dtype(dtype), sharding=replicated),
        "first_row": jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated),
    }


def total(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the sums of the layers' seconds and FLOPs, both passes, and the largest bytes."""
    parts = [layer["ours"]["gradient"] for layer in layers]
    seconds = [part["seconds"] for part in parts]
    return {
        "seconds": None if None in seconds else round(sum(seconds), 4),
        "compile_seconds": round(sum(part["compile_seconds"] for part in parts), 2),
        "temp_bytes": max(part["temp_bytes"] for part in parts),
        "argument_bytes": max(part["argument_bytes"] for part in parts),
        "flops": sum(part["flops"] for part in parts),
    }


def forward(dtype: str) -> Callable[[Mapping[str, jax.Array]], jax.Array]:
    """Returns a function that computes a deformable convolution from `layer_arguments`."""

    def run(a):
        with computing(dtype):
            return _deform_conv(a)

    return run


def gradient(dtype: str) -> Callable[[Mapping[str, jax.Array]], tuple[jax.Array, tuple]]:
    """Returns a function that also computes the gradients of the four inputs."""

    def run(a):
        inputs = {name: a[name] for name in INPUTS}
        with computing(dtype):
            out, backward = jax.vjp(lambda inputs: _deform_conv(a | inputs), inputs)
            (gradients,) = backward(a["cotangent"])
        return out, tuple(gradients[name] for name in INPUTS)

    return run


def _deform_conv(a: Mapping[str, jax.Array]) -> jax.Array:
    # Only for a strip is the first row a value: all rows begin at the first.
    strip = a["offsets"].shape[2] < a["x"].shape[1]
    first_row = a["first_row"] if strip else 0
    return deform_conv(*(a[name] for name in INPUTS), first_row=first_row)


def _pytorch(values: Mapping[str, jax.Array], dtype: str, runs: int) -> dict[str, Any]:
    """Measures PyTorch's deformable convolution with the same values."""
    layer = pytorch_layer(values)
    expected = np.asarray(forward(dtype)(values).astype(jnp.float32))
    result = layer.forward().float().cpu().numpy().transpose(0, 2, 3, 1)
    parts = {
        part: {"seconds": median(run_seconds(run, runs)), **layer.memory(run)}
        for part, run in (("forward", layer.forward), ("gradient", layer.gradient))
    }
    return {
        "implementation": f"{layer.implementation} on {layer.device}, {layer.threads} threads",
        **parts,
        "difference": float(np.abs(result - expected).max() / np.abs(expected).max()),
    }
