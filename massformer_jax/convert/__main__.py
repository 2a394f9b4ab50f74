"""Converts weights of PyTorch to ours, and ours to those of PyTorch.

    python -m massformer_jax.convert --input FILE --output DIR [--model NAME]
    python -m massformer_jax.convert --to-torch --input DIR --output FILE.safetensors

`massformer_jax.convert.names` tells which tensor is which.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import check_local, in_bucket, place


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("massformer_jax.convert", __doc__)
    parser.add_argument("--input", required=True, help="file; with --to-torch a checkpoint")
    parser.add_argument("--output", required=True, help="new folder; with --to-torch a file")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="massformer_r50 or massformer_r18_lite (default: what the file's tensors tell)",
    )
    parser.add_argument(
        "--key", help="where in a .pth file the state dict lies, as in model.ema (default: found)"
    )
    parser.add_argument(
        "--step", type=int, help="with --to-torch: the weights after this step (default: the best)"
    )
    parser.add_argument("--to-torch", action="store_true", help="write .safetensors for PyTorch")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    return command.run(lambda: _convert(args))


def _convert(args: argparse.Namespace) -> None:
    import jax

    from massformer_jax.convert.weights import weights_of, write_safetensors
    from massformer_jax.convert.weights_file import read_weights
    from massformer_jax.files import check_outputs, files_below
    from massformer_jax.models.build import architecture
    from massformer_jax.models.weights import load_weights, save_weights

    # A bucket may hold our weights. Files of PyTorch are read and written here.
    check_local(args.output if args.to_torch else args.input)
    output = place(args.output)
    if args.to_torch:
        for option in ("key", "model"):
            if getattr(args, option) is not None:
                raise InputError(f"--{option} is of files of PyTorch; leave it out with --to-torch")
        if output.suffix != ".safetensors":
            raise InputError(f"--output {output}: name a file that ends in .safetensors")
        folder = pathlib.Path(args.input)
        local = not in_bucket(args.input) and folder.is_dir()
        read = [folder / path for path in files_below(folder)] if local else []
        # A checkpoint has no such files: one there may be what this command wrote before.
        check_outputs([output], [path for path in read if path.suffix != ".safetensors"])
        device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        weights = load_weights(args.input, device, step=args.step)
        write_safetensors(weights, output)
    else:
        if args.step is not None:
            raise InputError("--step is of checkpoints of this project; pass --to-torch with it")
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise InputError(f"--output {output} exists; name a new folder")
        named = architecture(args.model) if args.model else None
        source = read_weights(args.input, args.key)
        for note in source.notes:
            print(f"{args.input}: {note}")
        weights = weights_of(source, named)
        save_weights(output, weights)
    count = sum(leaf.size for leaf in jax.tree.leaves(weights.params))
    what = "MaSSFormer" if "classes" in weights.architecture else "encoder only"
    arguments = ", ".join(f"{key} {value}" for key, value in weights.architecture.items())
    print(f"{args.input} -> {output}: {what}, {count:,} parameters ({arguments})")


if __name__ == "__main__":
    sys.exit(main())
