"""Compares two evaluations of the same images: what got better, what got worse.

    python -m massformer_jax.compare A.json B.json --output FILE.html
        [--labels DIR --predictions DIR_A DIR_B [--images DIR]]

A.json and B.json are what `evaluate_files --output` writes, or the `metrics.json` of two runs. With
the folders of the label maps and of both predictions, the page shows the images that changed most,
and with the folder of the photographs these, too.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import check_local, check_outputs, composed, pngs_below, write_atomically


def read_evaluation(path: str) -> dict[str, Any]:
    """Reads the JSON of an evaluation; names of images lose their suffixes and are sorted.

    Raises:
        InputError: there is no such file, or it holds no evaluation, or a damaged one.
    """
    from massformer_jax.metrics.summary_file import read_summary

    summary = read_summary(path)
    # For the same image, one evaluation may name the photograph and the other the label map.
    images = {composed(_without_suffix(name)): scores for name, scores in summary["images"].items()}
    return {**summary, "images": dict(sorted(images.items()))}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, or 2 if nothing was written."""
    args = _parser().parse_args(argv)
    return command.run(lambda: _compare(args))


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("massformer_jax.compare", __doc__)
    parser.add_argument("first", metavar="A.json", help="the first evaluation")
    parser.add_argument("second", metavar="B.json", help="the second evaluation")
    parser.add_argument("--output", required=True, help="HTML file to write")
    parser.add_argument(
        "--names",
        nargs=2,
        help="names of the two (default: those of the files, or of folders where these are equal)",
    )
    parser.add_argument("--labels", help="folder of the label maps")
    parser.add_argument("--predictions", nargs=2, help="folders of the predictions")
    parser.add_argument("--images", help="folder of the photographs")
    command.add_compilation_cache(parser)
    return parser


def _compare(args: argparse.Namespace) -> None:
    from massformer_jax import compilation
    from massformer_jax.classes import named_classes
    from massformer_jax.report.comparison import changed_most, check_comparable, comparison_page
    from massformer_jax.report.picture_files import find_photographs, read_pictures

    check_local(args.first, args.second, args.output, args.images, args.labels)
    check_local(*args.predictions or ())
    compilation.keep_compiled(args.compilation_cache)
    if bool(args.labels) != bool(args.predictions) or (args.images and not args.labels):
        raise InputError("pictures need --labels and --predictions, and may have --images")
    check_outputs([args.output], [args.first, args.second])
    first, second = read_evaluation(args.first), read_evaluation(args.second)
    check_comparable(first, second)
    pictures = {}
    if args.labels:
        folders = {folder: _found(folder) for folder in (args.labels, *args.predictions)}
        names = _label_maps(folders[args.labels], changed_most(first, second))
        photographs = find_photographs(args.images, args.labels) if args.images else {}
        read = [*photographs.values()]
        for folder, there in folders.items():
            read += there.values()
            for name in names:
                if name not in there:
                    raise InputError(f"{folder} holds no {name}, which was evaluated")
        check_outputs([args.output], read)
        drawn = read_pictures(
            names,
            args.labels,
            dict(zip(("_a", "_b"), args.predictions, strict=True)),
            photographs,
            boundary_ratio=first["boundary_ratio"],
            num_classes=len(first["classes"]),
            classes=named_classes(first["classes"], first["palette"]) if "palette" in first else (),
        )
        pictures = {_without_suffix(name): picture for name, picture in drawn.items()}
    names = args.names or _names(args.first, args.second)
    page = comparison_page(tuple(names), (first, second), pictures)
    write_atomically(args.output, page.encode())
    print(f"wrote {args.output}")


def _label_maps(there: Iterable[str], names: Sequence[str]) -> list[str]:
    """Returns the names of images as those of the label maps are, with their suffixes."""
    by_name = {_without_suffix(name): name for name in there}
    return [by_name.get(name, f"{name}.png") for name in names]


def _found(folder: str) -> dict[str, pathlib.Path]:
    """Returns the label maps below a folder; raises InputError if it is none."""
    if not pathlib.Path(folder).is_dir():
        raise InputError(f"{folder} is no folder; name one of label maps")
    return pngs_below(folder)


def _without_suffix(name: str) -> str:
    return str(pathlib.Path(name).with_suffix(""))


def _names(first: str, second: str) -> tuple[str, str]:
    """Returns what to call two files: their stems, or the first folders that tell them apart."""
    stems = pathlib.Path(first).stem, pathlib.Path(second).stem
    if stems[0] != stems[1]:
        return stems
    parts = (pathlib.Path(os.path.abspath(path)).parts for path in (first, second))
    return next((pair for pair in zip(*parts, strict=False) if pair[0] != pair[1]), stems)


if __name__ == "__main__":
    sys.exit(main())
