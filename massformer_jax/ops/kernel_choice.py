"""Whether kernels for NVIDIA's GPUs are part of what is traced."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp

_avoided = contextvars.ContextVar("_avoided", default=False)


@contextlib.contextmanager
def avoided() -> Iterator[None]:
    """Makes what is traced inside do without kernels.

    A program with kernels is lowered for GPUs alone, and in a form that other versions of jax need
    not understand.
    """
    token = _avoided.set(True)
    try:
        yield
    finally:
        _avoided.reset(token)


def usable(x) -> bool:
    """Tells whether kernels take this input on the GPU here, or on the one that is compiled for.

    Triton needs Ampere or newer; pixels are numbered in 32 bits.
    """
    if _avoided.get():
        return False
    capability = getattr(jax.local_devices()[0], "compute_capability", None)
    recent = not isinstance(capability, str) or float(capability) >= 8
    return recent and x.dtype in (jnp.float32, jnp.bfloat16) and x[0].size < 2**31
