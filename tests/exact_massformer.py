"""The command line of `massformer_jax.main` with training in float64.

    python tests/exact_massformer.py --config=… --config.dtype=float64 …

Adam divides by the gradient's size: where that is near zero, rounding in float32 decides which way
a parameter goes. So only in float64 do a few steps tell whether two programs compute the same.
"""

import sys

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)

from massformer_jax import main, precision, train  # noqa: E402


def init_state(*args, **kwargs):
    def exact(x):
        return x.astype(jnp.float64) if x.dtype == jnp.float32 else x

    return jax.tree.map(exact, original(*args, **kwargs))


if __name__ == "__main__":
    original, train.init_state = train.init_state, init_state
    precision.COMPUTATIONS["float64"] = precision.Computation("float64", "highest")
    sys.exit(main.main(sys.argv))
