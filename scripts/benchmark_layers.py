"""The network's deformable convolutions one by one, ours and PyTorch's in one process."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_run import MODELS, make_values, measure, median, run_seconds

from massformer_jax import sharding
from massformer_jax.errors import InputError
from massformer_jax.ops.deform_conv import deform_conv
from massformer_jax.precision import computation, computing


class Layer(NamedTuple):
    """One deformable convolution, as the network has it for an image of a certain size."""

    name: str
    stride: int  # of its map
    features_in: int
    features_out: int
    taps: int  # k, of k x k


def layers(width: int) -> list[Layer]:
    """Those of a pixel decoder of this width (docs/deform_conv.md), coarsest map first."""
    return [
        Layer("CST 1, 3x3", 32, width, width, 3),
        Layer("CST 2, 3x3", 16, width, width, 3),
        *(Layer(f"RFB {k}x{k}", 8, width, width // 4, k) for k in (1, 3, 5, 7)),
        Layer("LSE, 3x3", 2, width // 2 + 3, width // 2, 3),
        Layer("EGF, 3x3", 2, width // 2, width // 2, 3),
    ]


def measure_layers(
    model: str,
    size: tuple[int, int],
    batch: int,
    dtype: str,
    devices: Sequence[jax.Device],
    *,
    runs: int,
    compare: bool,
) -> list[dict[str, Any]]:
    """Measures each layer, forward (`forward`) and forward and backward (`gradient`).

    Offsets are normal, 2 pixels wide, at every position. With `compare` PyTorch computes the same
    numbers on the same kind of device; `difference` is the largest of the results, relative to the
    largest result.
    """
    mesh = sharding.make_mesh(list(devices))
    found = []
    for layer in layers(MODELS[model]["decoder_width"]):
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
    layer: Layer, batch: int, height: int, width: int, dtype: str, mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """What `deform_conv` takes, and `cotangent`, of which the backward pass starts.

    Offsets and modulation are float32 whatever `dtype` is, as in the network.
    """
    taps = layer.taps**2
    dtype = computation(dtype).arrays
    split, whole = sharding.batch_sharded(mesh), sharding.replicated(mesh)
    size = height, width
    shapes = {
        "x": ((batch, *size, layer.features_in), dtype),
        "offsets": ((batch, 2 * taps, *size), "float32"),
        "modulation": ((batch, taps, *size), "float32"),
        "cotangent": ((batch, *size, layer.features_out), dtype),
    }
    maps = {
        name: jax.ShapeDtypeStruct(shape, jnp.dtype(own), sharding=split)
        for name, (shape, own) in shapes.items()
    }
    kernel = (layer.taps, layer.taps, layer.features_in, layer.features_out)
    return {**maps, "kernel": jax.ShapeDtypeStruct(kernel, jnp.dtype(dtype), sharding=whole)}


def total(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums of seconds and FLOPs over the layers, forward and backward; the most of bytes."""
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
    """Returns the deformable convolution of `layer_arguments`."""

    def run(a):
        with computing(dtype):
            return deform_conv(a["x"], a["offsets"], a["modulation"], a["kernel"])

    return run


def gradient(dtype: str) -> Callable[[Mapping[str, jax.Array]], tuple[jax.Array, tuple]]:
    """Returns the same, with the gradients of its four inputs."""

    def run(a):
        inputs = (a["x"], a["offsets"], a["modulation"], a["kernel"])
        with computing(dtype):
            out, backward = jax.vjp(deform_conv, *inputs)
            return out, backward(a["cotangent"])

    return run


def _pytorch(values: Mapping[str, jax.Array], dtype: str, runs: int) -> dict[str, Any]:
    """The same by PyTorch, timed alike."""
    torch, function, implementation = pytorch_deform_conv()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def tensor(value: jax.Array, axes: tuple[int, ...]):
        array = np.asarray(value.astype(jnp.float32)).transpose(axes)
        dtype = getattr(torch, str(value.dtype))
        return torch.tensor(array, dtype=dtype, device=device).requires_grad_()

    first, same = (0, 3, 1, 2), (0, 1, 2, 3)
    axes = {"x": first, "offsets": same, "modulation": same, "kernel": (3, 2, 0, 1)}
    inputs = [tensor(values[name], order) for name, order in axes.items()]
    cotangent = tensor(values["cotangent"], first).detach()

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def forward_pass():
        with torch.no_grad():
            result = function(*inputs)
        wait()
        return result

    def both_passes():
        torch.autograd.grad(function(*inputs), inputs, cotangent)
        wait()

    def timed(run):
        result = {"seconds": median(run_seconds(run, runs))}
        if device == "cuda":  # for the CPU PyTorch keeps no such account
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            run()
            result["temp_bytes"] = torch.cuda.max_memory_allocated() - before
        return result

    expected = np.asarray(forward(dtype)(values).astype(jnp.float32))
    result = forward_pass().float().cpu().numpy().transpose(0, 2, 3, 1)
    return {
        "implementation": f"{implementation} on {device}, {torch.get_num_threads()} threads",
        "forward": timed(forward_pass),
        "gradient": timed(both_passes),
        "difference": float(np.abs(result - expected).max() / np.abs(expected).max()),
    }


def pytorch_deform_conv() -> tuple[Any, Callable, str]:
    """PyTorch, its deformable convolution (x, offsets, modulation, kernel), and whose it is.

    That of torchvision where it is installed, else one made of PyTorch's own bilinear sampling.
    Maps are [b, c, h, w], the kernel [o, c, k, k].

    Raises:
        InputError: there is no PyTorch.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("--compare needs PyTorch: pip install torch") from error
    try:
        from torchvision.ops import deform_conv2d
    except (ImportError, RuntimeError):  # the latter from one that was built for another PyTorch
        return torch, _grid_sample_deform_conv, f"grid_sample of torch {torch.__version__}"

    def call(x, offsets, modulation, kernel):
        offsets, modulation = offsets.to(x.dtype), modulation.to(x.dtype)  # it takes one dtype only
        padding = kernel.shape[-1] // 2
        return deform_conv2d(x, offsets, kernel, padding=padding, mask=modulation)

    return torch, call, f"torchvision.ops.deform_conv2d with torch {torch.__version__}"


def _grid_sample_deform_conv(x, offsets, modulation, kernel):
    """By definition: samples of all taps, modulated, times the kernel."""
    import torch

    b, c, h, w = x.shape
    o, _, k, _ = kernel.shape
    # [b, taps, h, w]; positions of grid_sample run from -1 to 1 between the corner pixels.
    dy, dx = offsets.view(b, k * k, 2, h, w).unbind(2)
    tap = torch.arange(k, device=x.device) - k // 2
    rows, columns = (torch.arange(n, device=x.device) for n in (h, w))
    y = rows[None, :, None] + tap.repeat_interleave(k)[:, None, None] + dy
    x_ = columns[None, None, :] + tap.repeat(k)[:, None, None] + dx
    grid = torch.stack([2 * x_ / (w - 1) - 1, 2 * y / (h - 1) - 1], -1).view(b, k * k * h, w, 2)
    sampled = torch.nn.functional.grid_sample(x.float(), grid.float(), align_corners=True).to(
        x.dtype
    )
    sampled = sampled.view(b, c, k * k, h, w) * modulation[:, None].to(x.dtype)
    columns_ = sampled.view(b, c * k * k, h * w)
    return (kernel.reshape(o, c * k * k) @ columns_).view(b, o, h, w)
