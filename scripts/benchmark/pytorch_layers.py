"""PyTorch's deformable convolution, which computes with the same numbers as ours."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from massformer_jax.errors import InputError

# The axes of our arrays in the order of PyTorch: maps are [b, c, h, w], the kernel [o, c, k, k].
_MAP, _SAME, _KERNEL = (0, 3, 1, 2), (0, 1, 2, 3), (3, 2, 0, 1)
_INPUTS = {"x": _MAP, "offsets": _SAME, "modulation": _SAME, "kernel": _KERNEL}


class PytorchLayer(NamedTuple):
    """A deformable convolution with its inputs; its functions return when the work is done."""

    forward: Callable[[], Any]  # returns the tensor [b, o, h, w]
    gradient: Callable[[], None]  # computes both passes
    implementation: str
    device: str  # cuda or cpu
    threads: int

    def memory(self, run: Callable[[], Any]) -> dict[str, int]:
        """Returns `temp_bytes`, the most memory that `run` takes, or nothing on a CPU.

        PyTorch does not count the memory of a CPU.
        """
        if self.device != "cuda":
            return {}
        import torch

        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return {"temp_bytes": torch.cuda.max_memory_allocated() - before}


def pytorch_layer(values: Mapping[str, jax.Array], dtype: str | None = None) -> PytorchLayer:
    """Returns PyTorch's layer, on a GPU if PyTorch sees one.

    Args:
        values: arrays for `scripts.benchmark.layers.layer_arguments`.
        dtype: the dtype of all tensors; by default each has the dtype of its array.

    Raises:
        InputError: PyTorch is not installed.
    """
    torch, function, implementation = _deform_conv()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def tensor(value: jax.Array, axes: tuple[int, ...]):
        array = np.asarray(value.astype(jnp.float32)).transpose(axes)
        kind = getattr(torch, dtype or str(value.dtype))
        return torch.tensor(array, dtype=kind, device=device).requires_grad_()

    inputs = [tensor(values[name], axes) for name, axes in _INPUTS.items()]
    cotangent = tensor(values["cotangent"], _MAP).detach()

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def forward():
        with torch.no_grad():
            result = function(*inputs)
        wait()
        return result

    def gradient():
        torch.autograd.grad(function(*inputs), inputs, cotangent)
        wait()

    return PytorchLayer(forward, gradient, implementation, device, torch.get_num_threads())


def _deform_conv() -> tuple[Any, Callable, str]:
    """Returns PyTorch, its function of (x, offsets, modulation, kernel), and where that is from.

    The function is torchvision's, where torchvision is installed. Otherwise it is made of PyTorch's
    own bilinear sampling.

    Raises:
        InputError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("--compare needs PyTorch: pip install torch") from error
    try:
        from torchvision.ops import deform_conv2d
    except (ImportError, RuntimeError):  # RuntimeError: it was built for another PyTorch
        return torch, _grid_sample_deform_conv, f"grid_sample of torch {torch.__version__}"

    def call(x, offsets, modulation, kernel):
        # All its arguments must have the same dtype.
        offsets, modulation = offsets.to(x.dtype), modulation.to(x.dtype)
        padding = kernel.shape[-1] // 2
        return deform_conv2d(x, offsets, kernel, padding=padding, mask=modulation)

    return torch, call, f"torchvision.ops.deform_conv2d with torch {torch.__version__}"


def _grid_sample_deform_conv(x, offsets, modulation, kernel):
    """Computes the definition: the modulated samples of all taps times the kernel."""
    import torch

    b, c, h, w = x.shape
    o, _, k, _ = kernel.shape
    # dy and dx are [b, taps, h, w]. The positions of grid_sample run from -1 to 1 between the
    # centres of the corner pixels.
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
