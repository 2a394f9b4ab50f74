"""Times of PyTorch's deformable convolution on the same numbers; see `benchmark_gpu.py`.

jax stays on the CPU in this process and only makes the numbers.
"""

import functools
import importlib.util

import benchmark_layers
import jax
import numpy as np
from benchmark_gpu_stage import Measurement
from benchmark_gpu_times import LAYERS, R50, RUNS, SECONDS, SMALL_LAYERS
from benchmark_run import MODELS, make_values, median, run_seconds

from massformer_jax import sharding

# float16: torchvision's operator has no bfloat16.
DTYPES = ("float16", "float32", "tf32")


def measurements(small: bool) -> list[Measurement]:
    """None without a PyTorch that sees the GPU."""
    if not (small or _sees_gpu()) or importlib.util.find_spec("torch") is None:
        print("There is no PyTorch here to compare with.", flush=True)
        return []
    found = []
    for dtype in DTYPES:
        for layer, size in SMALL_LAYERS if small else LAYERS:
            name = f"torch_deform_conv_{layer.split()[-1]}_{size[0]}x{size[1]}_{dtype}"
            prepare = functools.partial(_layer, layer, size, dtype)
            found.append(Measurement(name, prepare))
    return found


def _sees_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _layer(name, size, dtype):
    import torch

    _, function, implementation = benchmark_layers.pytorch_deform_conv()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    layer = next(x for x in benchmark_layers.layers(MODELS[R50]["decoder_width"]) if x.name == name)
    mesh = sharding.make_mesh(jax.devices("cpu")[:1])
    values = make_values(benchmark_layers.layer_arguments(layer, 1, *size, "float32", mesh))
    kind = torch.float16 if dtype == "float16" else torch.float32

    def tensor(value, axes):
        array = np.asarray(value).transpose(axes).copy()
        return torch.tensor(array, dtype=kind, device=device).requires_grad_()

    first, same = (0, 3, 1, 2), (0, 1, 2, 3)
    axes = {"x": first, "offsets": same, "modulation": same, "kernel": (3, 2, 0, 1)}
    inputs = [tensor(values[part], order) for part, order in axes.items()]
    cotangent = tensor(values["cotangent"], first).detach()

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def forward():
        with torch.no_grad():
            function(*inputs)
        wait()

    def gradient():
        torch.autograd.grad(function(*inputs), inputs, cotangent)
        wait()

    def timed(run):
        times = run_seconds(run, RUNS, SECONDS)
        result = {"seconds": median(times), "fastest": float(f"{min(times):.4g}")}
        result["runs"] = len(times)
        if device == "cuda":  # for the CPU PyTorch keeps no such account
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            run()
            result["temp_bytes"] = torch.cuda.max_memory_allocated() - before
        return result

    def run():
        parts = {"forward": timed(forward), "gradient": timed(gradient)}
        return {
            **{"task": "torch_deform_conv", "layer": name, "height": size[0], "width": size[1]},
            **{"features_in": layer.features_in, "features_out": layer.features_out},
            **{"dtype": dtype, "implementation": implementation, **parts},
            "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
            "versions": {"torch": torch.__version__},
            "summary": "; ".join(f"{k} {1e3 * v['seconds']:.2f} ms" for k, v in parts.items()),
        }

    return run
