"""Measures time, memory and FLOPs of the network on this machine, or compiles it for a TPU.

    python -m scripts.benchmark --task inference --model massformer_r50 --size 1024x1024
    python -m scripts.benchmark --task train --model massformer_r50 --size 1024x1024 --batch 16 \\
        --topology v5e:4x4 --json
    python -m scripts.benchmark --task deform_conv --size 1024x1024 --compare

It runs from a checkout and needs jax, flax, optax and numpy, and nothing else. `--compare` also
needs PyTorch, and `--topology` needs libtpu, but no TPU. Weights and images are made up.
docs/performance.md shows the results.

With `--json` the output is one object on one line:
    seconds            median of the timed runs; null if the program was only compiled
    temp_bytes         temporaries of one device, as the compiler gives them
    argument_bytes     arguments of one device, as the compiler gives them
    flops              FLOPs of the whole batch: matrix products and convolutions, where a
                       multiplication and an addition count as two and the body of a loop counts
                       as often as it runs
    device             processor, with the number of cores or devices that were used
    versions           versions of Python and the libraries
    layers             the same for each deformable convolution (with deform_conv or --compare)
It also has task, model, size, batch, dtype, topology, runs, compile_seconds and date. For
deform_conv, seconds and FLOPs are sums over the layers, forward and backward, and the bytes are
those of the largest layer.
"""

import argparse
import datetime
import json
import sys
from typing import Any

from massformer_jax.errors import InputError
from scripts.arguments import parse_count, parse_size
from scripts.bare_machine import replace_jaxtyping
from scripts.tpu_compiler import find_no_tpu

TASKS = ("inference", "train", "deform_conv")
DTYPES = ("float32", "tf32", "bfloat16")


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    args = _parse(argv)
    if args.topology:
        find_no_tpu()
    replace_jaxtyping()
    try:
        record = _measure(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(record) if args.json else _table(record))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", required=True, choices=TASKS, help="what is measured")
    add("--model", default="massformer_r50", metavar="NAME", help="or massformer_r18_lite")
    add(
        "--size",
        default=(1024, 1024),
        type=parse_size,
        metavar="HxW",
        help="of the images, in pixels",
    )
    add("--batch", default=None, type=parse_count, metavar="N", help="1; for train 2")
    add("--dtype", default="float32", choices=DTYPES, help="of the computation")
    add("--topology", metavar="NAME", help="compile for TPUs, such as v5e:2x2, v5e:4x4, v5p:2x2x1")
    add("--compile-only", action="store_true", help="do not run what was compiled")
    add("--compare", action="store_true", help="time PyTorch's deformable convolution as well")
    add(
        "--runs", default=5, type=parse_count, metavar="N", help="timed runs, after one that is not"
    )
    add("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args(argv)
    if args.batch is None:
        args.batch = 2 if args.task == "train" else 1
    return args


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the JSON object of the measurement."""
    # These imports are here because `main` prepares the environment before jax is imported.
    from massformer_jax.models.build import architecture
    from scripts.benchmark.layers import measure_layers, total
    from scripts.benchmark.networks import devices_for, measure_network
    from scripts.conditions import describe, versions

    network = architecture(args.model)
    devices = devices_for(args.topology, args.batch)
    runs = 0 if args.compile_only or args.topology else args.runs
    what = network, args.size, args.batch, args.dtype, devices
    layers = None
    if args.compare or args.task == "deform_conv":
        layers = measure_layers(*what, runs=runs, compare=args.compare)
    if args.task == "deform_conv":
        result = total(layers)
    else:
        result = measure_network(args.task, *what, runs=runs)
    libraries = ["jax", "jaxlib", "flax", "numpy"]
    libraries += ["libtpu"] * bool(args.topology) + ["torch"] * args.compare
    record = {
        **result,
        "device": describe(devices),
        "versions": versions(*libraries),
        "task": args.task,
        "model": args.model,
        "size": "{}x{}".format(*args.size),
        "batch": args.batch,
        "dtype": args.dtype,
        "topology": args.topology,
        "runs": runs,
        "date": datetime.date.today().isoformat(),
    }
    return record if layers is None else {**record, "layers": layers}


def _table(record: dict[str, Any]) -> str:
    """Returns the record as text for people."""
    where = record["device"] if record["topology"] is None else f"{record['device']}, compiled only"
    took = "not run"
    if record["seconds"] is not None:
        took = f"{record['seconds']:.3f} s, median of {record['runs']}"
    lines = [
        "{task}, {model}, {size}, batch {batch}, {dtype}".format(**record),
        f"  device       {where}",
        f"  time         {took}; compiled in {record['compile_seconds']:.1f} s",
        f"  temporaries  {record['temp_bytes'] / 1e6:,.0f} MB per device",
        f"  arguments    {record['argument_bytes'] / 1e6:,.0f} MB per device",
        f"  FLOPs        {record['flops'] / 1e9:,.1f} G",
        "  versions     " + ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
    ]
    for layer in record.get("layers", ()):
        lines.append("  {layer}: {height}x{width}, {features_in} to {features_out}".format(**layer))
        for name in ("ours", "pytorch"):
            if name in layer:
                lines.append(f"    {name:8}" + _layer_line(layer[name]))
    return "\n".join(lines)


def _layer_line(values: dict[str, Any]) -> str:
    cells = []
    for name, label in (("forward", "forward"), ("gradient", "forward and backward")):
        part = values[name]
        if part["seconds"] is not None:
            cells.append(f"{label} {1e3 * part['seconds']:.1f} ms")
        if part.get("temp_bytes") is not None:
            cells.append(f"{part['temp_bytes'] / 1e6:,.0f} MB")
    if "implementation" in values:
        cells.append(f"{values['implementation']}, differs by {values['difference']:.1e}")
    return ", ".join(cells)


if __name__ == "__main__":
    main()
