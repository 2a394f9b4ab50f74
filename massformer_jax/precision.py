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
from jax.lax import Precision

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
    """What the name stands for.

    Raises:
        InputError: there is no such name.
    """
    if dtype not in COMPUTATIONS:
        raise InputError(f"dtype is {dtype!r}; use one of {', '.join(COMPUTATIONS)}")
    return COMPUTATIONS[dtype]


@contextlib.contextmanager
def computing(dtype: str) -> Iterator[str]:
    """What is traced inside multiplies as the name says, whatever jax's own setting is.

    It belongs inside of the function that is jitted: the backward pass and the bodies of loops are
    traced there too, so that it reaches them.

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
    """How exactly products are formed here: for kernels, which have to see to it themselves."""
    return Precision(jax.config.jax_default_matmul_precision or "default")


def float32_products() -> Precision:
    """How exactly float32 arrays are multiplied where the network may compute in bfloat16.

    As elsewhere under float32 and tf32, and as under tf32 where the network computes in bfloat16.
    """
    return Precision.HIGH if products() == Precision.DEFAULT else products()
