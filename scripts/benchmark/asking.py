"""Measures what a photograph costs a CoordFormer on this machine, or compiles it for another.

    python -m scripts.benchmark.asking --size 8192x8192 --ask entropy
    python -m scripts.benchmark.asking --compile-for v5e:1x1 --dtype bfloat16
    python -m scripts.benchmark.asking --compile-for h100 --dtype bfloat16

It runs from a checkout. To compile for a TPU takes libtpu, and for a GPU what
`pip install ".[gpu-compiler]"` installs. Weights and photograph are made up, and which share of the
pixels sefi asks follows from them; entropy asks a share that it is given. The output is one JSON
object:
    seconds            of the parts: reducing the photograph to the encoder's square, the encoder,
                       and asking; each program is compiled before
    asked              share of the pixels that were asked
    peak_bytes         how much more memory the process had at most while it predicted, beside the
                       weights, the photograph and the compiled programs
    flops              of encoder and coordinates: matrix products and convolutions, where a
                       multiplication and an addition count as two
    programs           of each program, temp_bytes, argument_bytes and compile_seconds of one device
It also has model, size, ask, dtype, device, compiled_for, versions and date. Of what is compiled
for another machine there are only the programs.
"""

import argparse
import datetime
import functools
import json
import pathlib
import re
import sys
import time
from typing import Any

from massformer_jax.errors import InputError
from scripts.arguments import parse_size
from scripts.tpu_compiler import find_no_tpu


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="coordformer_dinov3_splus16", metavar="NAME")
    add("--size", default=(3072, 4096), type=parse_size, metavar="HxW", help="of the photograph")
    add("--ask", default="every", metavar="WAY", help="as for predict: every, entropy, stride=8")
    add("--dtype", default="float32", choices=("float32", "tf32", "bfloat16"))
    add("--compile-for", metavar="NAME", help="h100, a100 or a slice of TPUs, such as v5e:1x1")
    args = parser.parse_args()
    if args.compile_for and ":" in args.compile_for:
        find_no_tpu()
    try:
        print(json.dumps(_measure(args), indent=1))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    # These imports are here because `main` prepares the environment before jax is imported.
    from massformer_jax.models.build import COORDFORMERS, architecture
    from massformer_jax.parallel import sharding
    from scripts.conditions import describe, versions

    network = architecture(args.model, COORDFORMERS)
    devices = _devices(args.compile_for)
    mesh = sharding.make_mesh(devices)
    programs = _programs(network, args.dtype, mesh)
    found = {name: x["report"] for name, x in programs.items()}
    flops = {name: x.pop("flops") for name, x in found.items()}
    result = {"programs": found}
    if not args.compile_for:
        result |= _predicted(network, args, programs, flops)
    return {
        **result,
        "model": args.model,
        "dtype": args.dtype,
        "device": describe(devices),
        "compiled_for": args.compile_for,
        "versions": versions("jax", "jaxlib", "flax", "numpy"),
        "date": datetime.date.today().isoformat(),
    }


def _devices(name: str | None) -> list[Any]:
    """Returns one device of this machine, or of what is compiled for."""
    import jax

    from scripts.gpu_compiler.targets import target_devices
    from scripts.tpu_compiler import topology_devices

    if name is None:
        return jax.devices()[:1]
    return topology_devices(name)[:1] if ":" in name else target_devices(name, 1)


def _programs(network: dict[str, Any], dtype: str, mesh: Any) -> dict[str, dict[str, Any]]:
    """Returns the programs of encoder and coordinates, compiled, and what is reported of them."""
    import jax
    import jax.numpy as jnp

    from massformer_jax.inference.coordinate_network import logits_function, memory_function
    from massformer_jax.inference.coordinates import BUCKET
    from massformer_jax.models.build import abstract_weights, model_graph
    from massformer_jax.parallel import sharding
    from scripts.benchmark.run import compile_program
    from scripts.benchmark.values import placed

    graph = model_graph(network, training=False)
    everywhere = sharding.replicated(mesh)
    weights = placed(abstract_weights(network), everywhere)
    shape = functools.partial(jax.ShapeDtypeStruct, sharding=everywhere)
    memory = memory_function(graph, dtype=dtype, mesh=mesh)
    logits = logits_function(graph, dtype=dtype, mesh=mesh)
    square = shape((1, network["side"], network["side"], 3), jnp.uint8)
    kept = placed(jax.eval_shape(memory, *weights, square), everywhere)
    bucket = shape((BUCKET, 8, 8, 3), jnp.uint8), shape((BUCKET, 2), jnp.float32)
    found = {}
    # Kernels for GPUs read from the context for which GPU they are meant.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        for name, function, arguments in (
            ("encoder", memory, (*weights, square)),
            ("bucket", logits, (*weights, kept, *bucket)),
        ):
            program = compile_program(function, arguments)
            found[name] = {
                "report": program.report,
                "call": program.compiled,
                "arguments": arguments,
            }
    return found


def _predicted(
    network: dict[str, Any],
    args: argparse.Namespace,
    programs: dict[str, dict[str, Any]],
    flops: dict[str, int],
) -> dict[str, Any]:
    """Predicts one photograph of random colours, and returns what that took."""
    import jax
    import numpy as np

    from massformer_jax.data.coordinates import squeezed
    from massformer_jax.inference.coordinate_network import WAYS
    from massformer_jax.inference.coordinates import BUCKET
    from massformer_jax.inference.protocol import Protocol
    from scripts.benchmark.values import make_values

    encoder, bucket = (programs[name]["call"] for name in ("encoder", "bucket"))
    weights = make_values(programs["encoder"]["arguments"][:2])
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (*(-(-side // 32) for side in args.size), 3), np.uint8)
    photograph = coarse.repeat(32, 0).repeat(32, 1)[: args.size[0], : args.size[1]]
    photograph = np.ascontiguousarray(photograph)
    way, settings = Protocol(ask=args.ask).asking
    calls = 0

    def answer(*inputs):
        nonlocal calls
        calls += 1
        return bucket(*weights, kept, *inputs)

    before = _most_memory(reset=True)
    times = [time.perf_counter()]
    square = squeezed(photograph, network["side"])[None]
    times.append(time.perf_counter())
    kept = jax.block_until_ready(encoder(*weights, square))
    times.append(time.perf_counter())
    found = WAYS[way](answer, photograph, **settings)
    times.append(time.perf_counter())
    parts = zip(("squeezing", "encoder", "asking"), times, times[1:], strict=False)
    return {
        "size": "{}x{}".format(*args.size),
        "ask": args.ask,
        "seconds": {name: round(end - start, 2) for name, start, end in parts},
        "asked": round(float(found.asked.mean()), 4),
        "bucket": BUCKET,
        "buckets": calls,
        "peak_bytes": _most_memory() - before,
        "flops": {"encoder": flops["encoder"], "coordinates": calls * flops["bucket"]},
    }


def _most_memory(*, reset: bool = False) -> int:
    """Returns the largest size that the process has had; after a reset, its size now."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1])


if __name__ == "__main__":
    main()
