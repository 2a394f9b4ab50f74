"""Compiles one deformable convolution for a TPU chip, and prints what it costs, without a TPU.

    python -m scripts.pods.layer 512 512 64 64                 # forward; add --backward
    python -m scripts.pods.layer 1536 2048 64 64 --rows 128    # a strip of 128 rows of a large map
    python -m scripts.pods.layer 512 512 64 64 --chip v6e      # v6e and tpu7x need jax 0.12

It prints milliseconds: the compiler's estimate; the floors of what that leaves out, which is one
cycle for each bundle of instructions, see scripts/pods/uncosted.py; their sum; the waits for copies
between memories, if each copy takes the 1000 cycles that are assumed; and the sum with them. The
temporaries are in MB. What the SparseCores of v6e and 7x do is in no sum: it is listed as how often
a gather, a scatter or a change of layout runs, and its shape.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time
from typing import Any, NamedTuple

from massformer_jax.errors import InputError
from scripts.bare_machine import replace_jaxtyping
from scripts.pods.bundles import Count
from scripts.pods.dumps import Dumps
from scripts.pods.table import CHIPS
from scripts.pods.uncosted import KINDS, on_sparsecores, uncosted
from scripts.program_cost import cost
from scripts.tpu_compiler import find_no_tpu, topology_devices

TOPOLOGIES = {"v5e": "v5e:1x1", "v6e": "v6e:1x1", "tpu7x": "tpu7x:1x1x1"}


class Layer(NamedTuple):
    """One deformable convolution."""

    height: int  # of the input, in pixels
    width: int
    channels: int  # of the input
    outputs: int  # channels of the output
    kernel: int = 3  # side of the kernel
    rows: int | None = None  # rows of the output that are computed; None: all
    images: int = 1
    dtype: str = "bfloat16"
    backward: bool = False  # the gradients of all inputs, instead of the output
    chip: str = "v5e"


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.pods.layer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("height", "width", "channels", "outputs"):
        parser.add_argument(name, type=int)
    parser.add_argument("--kernel", type=int, default=3, help="side of the kernel")
    parser.add_argument("--rows", type=int, help="rows of the output in a strip (default: all)")
    parser.add_argument("--images", type=int, default=1, help="images per chip")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--backward", action="store_true", help="the gradients of all inputs")
    parser.add_argument("--chip", choices=TOPOLOGIES, default="v5e", help="kind of the chip")
    parser.add_argument("--json", action="store_true", help="prints one JSON object instead")
    arguments = vars(parser.parse_args(argv))
    as_json = arguments.pop("json")
    with tempfile.TemporaryDirectory() as folder:
        find_no_tpu(dumps=pathlib.Path(folder))
        replace_jaxtyping()
        try:
            found = measure(Layer(**arguments), Dumps(pathlib.Path(folder)))
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
    print(json.dumps(found) if as_json else in_words(found))


def measure(layer: Layer, dumps: Dumps) -> dict[str, Any]:
    """Compiles a layer for one chip and returns its cost.

    Returns:
        estimated   cycles, the compiler's estimate
        counted     by kind of what the estimate leaves out, the fields of `Count`
        sparsecores see `on_sparsecores`; this is in none of the others
        sum         cycles: the estimate and all bundles that were counted, without stalls
        temporaries bytes
        seconds     that compiling took
    """
    # These imports are here because `main` prepares the environment before jax is imported.
    import jax
    import jax.numpy as jnp

    from massformer_jax.ops.deform_conv import deform_conv

    chip = jax.sharding.SingleDeviceSharding(topology_devices(TOPOLOGIES[layer.chip])[0])
    rows, taps = layer.rows or layer.height, layer.kernel**2

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=chip)

    inputs = (
        array(layer.dtype, layer.images, layer.height, layer.width, layer.channels),
        array(jnp.float32, layer.images, 2 * taps, rows, layer.width),
        array(jnp.float32, layer.images, taps, rows, layer.width),
        array(layer.dtype, layer.kernel, layer.kernel, layer.channels, layer.outputs),
    )
    first_row = array(jnp.int32)

    def forward(first_row, *inputs):
        return deform_conv(*inputs, first_row=first_row if layer.rows else 0)

    def backward(first_row, gradient, *inputs):
        return jax.vjp(lambda *x: forward(first_row, *x), *inputs)[1](gradient)

    arguments = first_row, *inputs
    if layer.backward:
        gradient = array(layer.dtype, layer.images, rows, layer.width, layer.outputs)
        arguments = first_row, gradient, *inputs
    start = time.perf_counter()
    dumps.clear()
    function = backward if layer.backward else forward
    compiled = jax.jit(function).trace(*arguments).lower().compile()
    seconds = time.perf_counter() - start
    text = compiled.as_text()
    counted = uncosted(text, dumps.count)
    estimated = cost(text).cycles
    return {
        "layer": layer._asdict(),
        "estimated": estimated,
        "counted": {kind: counted[kind]._asdict() for kind in KINDS},
        "sparsecores": dict(on_sparsecores(text)),
        "sum": estimated + sum(x.bundles for x in counted.values()),
        "temporaries": compiled.memory_analysis().temp_size_in_bytes,
        "seconds": round(seconds, 1),
    }


def in_words(found: dict[str, Any]) -> str:
    """Returns what `measure` found as lines of text."""
    counted = {kind: Count(**x) for kind, x in found["counted"].items()}
    every = Count()
    for one in counted.values():
        every = every.plus(one)
    clock = CHIPS[found["layer"]["chip"]].clock

    def ms(cycles):
        return f"{1e3 * cycles / clock:10.2f} ms"

    lines = [
        f"compiler's estimate {ms(found['estimated'])}",
        *(f"{kind:8} at least   {ms(x.bundles)}" for kind, x in counted.items()),
        f"sum                 {ms(found['sum'])}",
        f"waits (assumed)     {ms(every.stalls)}   {every.waits} of them",
        f"sum with waits      {ms(found['sum'] + every.stalls)}",
        *(f"on SparseCores      {n:10} times {what}" for what, n in found["sparsecores"].items()),
        f"temporaries         {found['temporaries'] / 1e6:10.1f} MB",
    ]
    if every.unknown:
        lines.append(f"{every.unknown} branches depend on data: what they guard counts once")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
