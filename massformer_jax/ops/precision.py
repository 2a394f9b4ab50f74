"""What the network computes in: the dtype of its arrays and how exactly their products are formed.

Left to itself, jax multiplies float32 arrays as the device likes best: in TF32 on NVIDIA GPUs (10
bits of mantissa instead of 23), in bfloat16 on TPUs (7 bits). So the precision of products is part
of the program here, and the same program means the same everywhere.

    name       arrays    products         on NVIDIA   on TPU                    on CPU
    float32    float32   "highest"        float32     six passes of bfloat16    float32
    tf32       float32   "high"           TF32        three passes of bfloat16  float32
    bfloat16   bfloat16  "default"        bfloat16    bfloat16                  bfloat16

Sums are float32 in all of them. Under bfloat16 some arrays stay float32: coordinates, matching
costs, losses, statistics. Where their products decide something, they ask for `float32_products`.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jax.typing import DTypeLike

from massformer_jax.errors import InputError


class Computation(NamedTuple):
    """How the network computes."""

    arrays: str  # the dtype of maps, tokens and most parameters
    products: str  # of matrices and convolutions, as `jax.default_matmul_precision` calls it


COMPUTATIONS = {
    "float32": Computation("float32", "highest"),
    "tf32": Computation("float32", "high"),
    "bfloat16": Computation("bfloat16", "default"),
}
DTYPES = tuple(COMPUTATIONS)  # the names that `config.dtype` and `--dtype` take


def computation(dtype: str) -> Computation:
    """Returns what the name stands for.

    Raises:
        InputError: there is no such name.
    """
    if dtype not in COMPUTATIONS:
        raise InputError(f"dtype is {dtype!r}; use one of {', '.join(COMPUTATIONS)}")
    return COMPUTATIONS[dtype]


@contextlib.contextmanager
def computing(dtype: str) -> Iterator[str]:
    """Makes what is traced inside multiply as the name says, whatever jax's own setting is.

    This context belongs inside of the function that is jitted: the backward pass and the bodies of
    loops are traced there too, so that it reaches them.

    Args:
        dtype: one of `DTYPES`.

    Yields:
        The dtype of the arrays.

    Raises:
        InputError: there is no such name.
    """
    arrays, how = computation(dtype)
    with jax.default_matmul_precision(how):
        yield arrays


def products() -> Precision:
    """Returns how exactly products are formed here: kernels have to see to it themselves."""
    return Precision(jax.config.jax_default_matmul_precision or "default")


def float32_products() -> Precision:
    """Returns how exactly float32 arrays are multiplied where the network may use bfloat16.

    That is as elsewhere under float32 and tf32, and under bfloat16 as under tf32.
    """
    return Precision.HIGH if products() == Precision.DEFAULT else products()


def widened(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype that losses are computed in: float32, or `dtype` if that is wider."""
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits > 32 else jnp.dtype(jnp.float32)
