"""The command line of `massformer_jax.main`, with training in float64.

    python -m tests.helpers.exact_massformer --config=… --config.dtype=float64 …

Adam divides by the size of the gradient. Where that is near zero, rounding in float32 decides in
which direction a parameter moves. So only in float64 do a few steps show whether two programs
compute the same.
"""

import sys

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)

from massformer_jax import main  # noqa: E402
from massformer_jax.ops import precision  # noqa: E402
from massformer_jax.training import loop  # noqa: E402


def init_state(*args, **kwargs):
    def exact(x):
        return x.astype(jnp.float64) if x.dtype == jnp.float32 else x

    return jax.tree.map(exact, original(*args, **kwargs))


if __name__ == "__main__":
    original, loop.init_state = loop.init_state, init_state
    precision.COMPUTATIONS["float64"] = precision.Computation("float64", "highest")
    sys.exit(main.main())
