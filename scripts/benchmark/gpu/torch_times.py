"""Times of PyTorch's deformable convolution on the same numbers, on a GPU.

In this process jax stays on the CPU and only makes the numbers.
"""

import functools
import importlib.util

import jax

from massformer_jax.parallel import sharding
from scripts.benchmark.device.measurement import Measurement
from scripts.benchmark.device.models import R50, architecture
from scripts.benchmark.device.times import RUNS, SECONDS
from scripts.benchmark.gpu.plan import LAYERS, SMALL_LAYERS
from scripts.benchmark.layers import layer_arguments, layer_named
from scripts.benchmark.pytorch_layers import pytorch_layer
from scripts.benchmark.run import run_seconds, summary
from scripts.benchmark.values import make_values

# float16, because torchvision's operator has no bfloat16.
DTYPES = ("float16", "float32", "tf32")


def measurements(small: bool) -> list[Measurement]:
    """Returns the measurements of PyTorch; there are none if PyTorch does not see the GPU."""
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

    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    layer = layer_named(name, architecture(R50)["decoder_width"])
    mesh = sharding.make_mesh(jax.devices("cpu")[:1])
    values = make_values(layer_arguments(layer, 1, *size, "float32", mesh))
    pytorch = pytorch_layer(values, "float16" if dtype == "float16" else "float32")

    def timed(run):
        return {**summary(run_seconds(run, RUNS, SECONDS)), **pytorch.memory(run)}

    def run():
        parts = {"forward": timed(pytorch.forward), "gradient": timed(pytorch.gradient)}
        return {
            **{"task": "torch_deform_conv", "layer": name, "height": size[0], "width": size[1]},
            **{"features_in": layer.features_in, "features_out": layer.features_out},
            **{"dtype": dtype, "implementation": pytorch.implementation, **parts},
            "device": torch.cuda.get_device_name() if pytorch.device == "cuda" else "CPU",
            "versions": {"torch": torch.__version__},
            "summary": "; ".join(f"{k} {1e3 * v['seconds']:.2f} ms" for k, v in parts.items()),
        }

    return run
