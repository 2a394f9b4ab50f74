"""Converts weights of PyTorch to ours, and ours to those of PyTorch; pushes weights to the Hub.

    python -m massformer_jax.convert --input FILE --output DIR [--model NAME]
    python -m massformer_jax.convert --to-torch --input DIR --output FILE.safetensors
    python -m massformer_jax.convert --input DIR_OR_FILE --push hf://OWNER/NAME --license ID

`massformer_jax.models.names` tells which tensor is which. hf:// names weights on the Hub of Hugging
Face, also as the --input (docs/weights.md).
"""

import argparse
import contextlib
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import (
    check_local,
    check_new,
    folder_written_atomically,
    in_bucket,
    names_below,
    place,
)

if TYPE_CHECKING:
    from massformer_jax.models.weights import Weights

_FILES = (".pth", ".pt", ".bin", ".safetensors")  # what names of the Hub end in that name a file


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("massformer_jax.convert", __doc__)
    parser.add_argument(
        "--input", required=True, help="file or folder of weights; with --to-torch a checkpoint"
    )
    parser.add_argument(
        "--output",
        help="new folder; with --to-torch a file; with --push what is pushed is kept here",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="massformer_r50 or massformer_r18_lite (default: what the file's tensors tell)",
    )
    parser.add_argument(
        "--key", help="where in a .pth file the state dict lies, as in model.ema (default: found)"
    )
    parser.add_argument(
        "--step", type=int, help="of a checkpoint: the weights after this step (default: the best)"
    )
    parser.add_argument("--to-torch", action="store_true", help="write .safetensors for PyTorch")
    parser.add_argument(
        "--push",
        metavar="hf://OWNER/NAME",
        help="upload the weights and a model card to the Hub, in one commit",
    )
    parser.add_argument(
        "--license", metavar="ID", help="with --push: licence of the weights, as in apache-2.0"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    return command.run(lambda: _convert(args))


def _convert(args: argparse.Namespace) -> None:
    _check_flags(args)
    if args.to_torch:
        weights = _to_torch(args)
    elif args.push is not None:
        weights = _push(args)
    else:
        weights = _from_torch(args)

    import jax

    from massformer_jax.models.build import family_name

    count = sum(leaf.size for leaf in jax.tree.leaves(weights.params))
    what = "encoder only"
    if "classes" in weights.architecture:
        what = family_name(weights.architecture)
    arguments = ", ".join(f"{key} {value}" for key, value in weights.architecture.items())
    target = args.output if args.push is None else args.push
    print(f"{args.input} -> {target}: {what}, {count:,} parameters ({arguments})")


def _check_flags(args: argparse.Namespace) -> None:
    """Raises InputError if flags do not belong together."""
    if args.push is not None and args.to_torch:
        raise InputError("--push uploads what PyTorch reads, too; leave --to-torch out")
    if args.push is None and args.license is not None:
        raise InputError("--license is of what is pushed; pass --push with it")
    if args.push is not None and not args.license:
        raise InputError("--push needs --license ID, the licence of the weights: apache-2.0, other")
    if args.license and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", args.license):
        raise InputError(
            f"--license is {args.license!r}; write it as the Hub does: apache-2.0, cc-by-nc-4.0"
        )
    if args.push is None and args.output is None:
        raise InputError("--output is missing; name what is to be written")


def _to_torch(args: argparse.Namespace) -> "Weights":
    """Writes the file for PyTorch."""
    from massformer_jax.convert.weights import write_safetensors
    from massformer_jax.files import check_outputs, files_below
    from massformer_jax.models.build import is_coordformer
    from massformer_jax.models.exchange import is_exchanged

    check_local(args.output)
    output = place(args.output)
    _refuse_file_flags(args, "with --to-torch")
    if output.suffix != ".safetensors":
        raise InputError(f"--output {output}: name a file that ends in .safetensors")
    folder = pathlib.Path(args.input)
    local = not in_bucket(args.input) and folder.is_dir()
    read = [folder / path for path in files_below(folder)] if local else []
    if not (local and is_exchanged(folder)):
        # A checkpoint has no such files: one there may be what this command wrote before.
        read = [path for path in read if path.suffix != ".safetensors"]
    check_outputs([output], read)
    weights = _checkpoint(args.input, args.step)
    if is_coordformer(weights.architecture):
        raise InputError(
            f"{args.input} holds a CoordFormer, and no code of PyTorch reads one; leave it as it is"
        )
    write_safetensors(weights, output)
    return weights


def _from_torch(args: argparse.Namespace) -> "Weights":
    """Writes a folder of our weights; on a disk it appears when it is complete."""
    from massformer_jax.models.full_disk import leave_it_to_the_command, why_no_more
    from massformer_jax.models.weights import save_weights

    check_local(args.input)  # our weights may be in a bucket, files of PyTorch are read here
    output = place(args.output)
    check_new(output)
    weights = _weights(args)
    leave_it_to_the_command()
    try:
        if in_bucket(output):
            save_weights(output, weights)
        else:
            with folder_written_atomically(pathlib.Path(output).absolute()) as part:
                try:
                    save_weights(part, weights)
                except Exception:
                    _wait_for_the_others(part)
                    raise
    except Exception as error:  # Orbax's have many types
        if reason := why_no_more(error):
            raise InputError(f"{output} cannot be written: {reason}; make room") from error
        raise
    return weights


def _wait_for_the_others(folder: pathlib.Path) -> None:
    """Waits until nothing new appears in a folder for a second.

    When an array cannot be written, Orbax leaves the others behind; they would make the folder
    again after it is removed.
    """
    before = None
    while (now := names_below(folder)) != before:
        before = now
        time.sleep(1)


def _push(args: argparse.Namespace) -> "Weights":
    """Writes the folder that is exchanged, with its card, and uploads it when all is written."""
    from massformer_jax.convert.card import model_card
    from massformer_jax.convert.weights import write_exchanged
    from massformer_jax.files import write_atomically
    from massformer_jax.models import hub

    check_local(args.output)
    name = hub.parse_name(args.push)
    hub.library()
    if args.output is not None:
        check_new(place(args.output))
    weights = _weights(args)
    summary = _evaluation(args.input, weights)
    with _folder(args.output) as folder:
        write_exchanged(weights, folder)
        card = model_card(weights, name, args.license, summary)
        write_atomically(folder / "README.md", card.encode())
        address = hub.upload(folder, name, f"Weights of step {weights.step}, by massformer_jax")
    print(f"pushed as {address}")
    return weights


def _weights(args: argparse.Namespace) -> "Weights":
    """Reads the input, whatever it is: our weights, or a file of PyTorch."""
    from massformer_jax.convert.weights import weights_of
    from massformer_jax.convert.weights_file import read_weights
    from massformer_jax.models.build import architecture
    from massformer_jax.models.hub import local_file

    path = local_file(args.input, _FILES)
    if in_bucket(path) or pathlib.Path(path).is_dir():
        _refuse_file_flags(args, f"with {args.input}, which is a folder")
        return _checkpoint(path, args.step)
    if args.step is not None:
        raise InputError("--step is of checkpoints of this project; leave it out with a file")
    named = architecture(args.model) if args.model else None
    source = read_weights(path, args.key)
    for note in source.notes:
        print(f"{args.input}: {note}")
    return weights_of(source, named)


def _checkpoint(path: str | os.PathLike, step: int | None) -> "Weights":
    import jax

    from massformer_jax.models.weights import load_weights

    device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    return load_weights(path, device, step=step)


def _evaluation(path: str, weights: "Weights") -> dict | None:
    """Returns the last evaluation of a workdir if it is of these weights."""
    from massformer_jax.metrics.summary_file import read_summary

    file = pathlib.Path(path) / "eval" / "metrics.json"
    if not file.is_file():
        return None
    summary = read_summary(file)
    provenance = summary.get("provenance")
    step = provenance.get("step") if isinstance(provenance, Mapping) else None
    if step == weights.step:
        return summary
    print(f"{file} is of step {step} and not of {weights.step}: the model card tells no scores")
    return None


@contextlib.contextmanager
def _folder(output: str | None) -> Iterator[pathlib.Path]:
    """Yields a folder, which then gets the name that is given, or else is removed at the end."""
    if output is not None:
        with folder_written_atomically(pathlib.Path(output).absolute()) as part:
            yield part
        return
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def _refuse_file_flags(args: argparse.Namespace, when: str) -> None:
    for option in ("key", "model"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option} is of files of PyTorch; leave it out {when}")


if __name__ == "__main__":
    sys.exit(main())
