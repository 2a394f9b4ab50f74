"""Compiles a small Pallas kernel for GPUs on a machine without; prints the launches as JSON.

    JAX_PLATFORMS=cpu python -m tests.helpers.kernel_for_gpu h100 data=2

As in the network, the kernel is part of a module and is chosen by `platform_dependent`. It runs
alone on one device, and in `shard_map` on several.
"""

import json
import sys

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from massformer_jax.parallel import sharding
from scripts.benchmark.values import placed
from scripts.gpu_compiler.launches import count_launches
from scripts.gpu_compiler.targets import lower, target_devices

ROWS = 16


def doubled(x):
    def kernel(x_ref, y_ref):
        y_ref[...] = 2 * x_ref[...]

    block = pl.BlockSpec((ROWS, x.shape[1]), lambda i: (i, 0))
    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=x.shape[0] // ROWS,
        in_specs=[block],
        out_specs=block,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
    )(x)


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (32, 32)))

    def __call__(self, x):
        x = x @ self.kernel[...]
        return jax.lax.platform_dependent(x, cuda=doubled, default=lambda x: x + x)


def main(gpu, *axes):
    axes = {name: int(count) for name, count in (axis.split("=") for axis in axes)}
    count = max([1, *axes.values()])
    mesh = sharding.make_mesh(target_devices(gpu, count), axes)
    graph, params = nnx.split(nnx.eval_shape(lambda: Layer(nnx.Rngs(0))))

    def run(params, x):
        return nnx.merge(graph, params)(x)

    replicated, split = sharding.replicated(mesh), sharding.batch_sharded(mesh)
    if count > 1:
        specs = dict(in_specs=(replicated.spec, split.spec), out_specs=split.spec)
        run = jax.shard_map(run, mesh=mesh, **specs, check_vma=False)
    params = placed(nnx.to_pure_dict(params), replicated)
    x = jax.ShapeDtypeStruct((8 * ROWS, 32), jnp.float32, sharding=split)
    compiled = lower(jax.jit(run, out_shardings=split), (params, x), mesh).compile()
    print(json.dumps(count_launches(compiled.as_text()).launches))


if __name__ == "__main__":
    main(*sys.argv[1:])
