"""Writes a trained network as files that jax or onnxruntime alone run, without this package.

    python -m massformer_jax.export --checkpoint DIR --output DIR [--format onnx] [--size HxW|any]

The new folder holds the program (StableHLO or ONNX), of a CoordFormer two of them, the weights, and
export.json, which says how to call it, and perhaps a page that runs it in a browser. docs/export.md
has complete programs that do so.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Literal

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import check_local, check_new


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("massformer_jax.export", __doc__)
    command.add_checkpoint(parser)
    parser.add_argument("--output", required=True, help="new folder")
    parser.add_argument(
        "--format",
        default="stablehlo",
        help="of the program: stablehlo, for jax; mlir, the same as text, for compilers; or onnx",
    )
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="rows and columns of the images that it takes, multiples of 256; or any, for all such "
        "sizes, which takes more memory; not of a CoordFormer (default: 1024x1024)",
    )
    parser.add_argument(
        "--answer", default="labels", help="labels, the class of each pixel, or scores of all"
    )
    parser.add_argument(
        "--platforms",
        help="where a program of StableHLO runs; one file serves all that are named (default: "
        "cpu,cuda,tpu, and cpu for mlir)",
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        help="what the network computes in: float32, or with stablehlo tf32 or bfloat16",
    )
    parser.add_argument(
        "--weights",
        default="float32",
        help="what kernels and embeddings are stored in: float32, float16 for half the size, or "
        "int8 for a quarter",
    )
    parser.add_argument(
        "--page",
        action="store_true",
        help="with onnx: also a page that labels photographs in a browser",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    return command.run(lambda: _export(args))


def _export(args: argparse.Namespace) -> None:
    import jax

    from massformer_jax.export import folder
    from massformer_jax.export.family import family_of
    from massformer_jax.export.form import Form
    from massformer_jax.export.program import check_libraries, lower
    from massformer_jax.models.weights import load_weights

    # Everything that can be wrong is said before the weights are read, which takes longer.
    platforms = args.platforms
    if platforms is not None:
        platforms = tuple(name.strip() for name in platforms.split(","))
    form = Form(
        _size(args.size),
        args.answer,
        args.format,
        platforms,
        args.dtype,
        weights=args.weights,
        page=args.page,
    )
    check_local(args.output)
    output = pathlib.Path(args.output).absolute()
    check_new(output)
    check_libraries(form)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    weights = load_weights(args.checkpoint, device, step=args.step)
    exported = lower(weights, form)
    folder.write(output, weights, form, exported)
    *_, last = exported.programs.values()
    where = ", ".join(last.facts.get("platforms", ["onnxruntime and others"]))
    what = f"{form.answer} {family_of(weights.architecture).said_of(form)}, for {where}"
    print(f"{args.checkpoint} (step {weights.step}) -> {args.output}: {what}")


def _size(text: str | None) -> tuple[int, int] | Literal["any"] | None:
    """Returns rows and columns of "HxW", or "any", or None if nothing was said."""
    if text is None or text == "any":
        return text
    parts = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not parts:
        raise InputError(f"--size is {text!r}; use any, or HxW with multiples of 256: 1024x1024")
    return int(parts[1]), int(parts[2])


if __name__ == "__main__":
    sys.exit(main())
