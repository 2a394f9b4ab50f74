"""Tells what a dataset holds: shares of the classes, sizes, and how intricate its masks are.

    python -m massformer_jax.data.stats --data_dir DIR [--split train] [--output page.html]

Prints a table, and writes a page of plots that needs nothing but a browser, with the same numbers
beside it as JSON. All cores read the label maps of all photographs. A label map of 12 megapixels
takes one core about a second.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import check_local


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = command.parser("massformer_jax.data.stats", __doc__)
    parser.add_argument("--data_dir", required=True, help="folder given to the build")
    parser.add_argument(
        "--split", help="one split, or a slice as train[:10%%] (default: all splits)"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, help="page to write (.html); JSON goes beside it"
    )
    args = parser.parse_args(argv)
    return command.run(lambda: _tell(args))


def _tell(args: argparse.Namespace) -> None:
    """Prints the table of each split, and writes the page and its numbers if they are wanted."""
    if args.output is not None and args.output.suffix != ".html":
        raise InputError(f"--output {args.output}: name a file that ends in .html")

    from massformer_jax.classes import names_of
    from massformer_jax.data.records import dataset_classes, folder_of, split_names
    from massformer_jax.data.stats.page import page
    from massformer_jax.data.stats.summary import split_stats, summarise, table
    from massformer_jax.files import check_outputs, files_below, write_atomically

    check_local(args.output)
    if args.output is not None:
        numbers = args.output.with_suffix(".json")
        dataset = pathlib.Path(folder_of(args.data_dir))
        # Former pages, with numbers beside them, are not read; all else of a dataset is.
        read = [dataset / path for path in files_below(dataset)] if dataset.is_dir() else []
        read = [path for path in read if not path.with_suffix(".html").exists()]
        check_outputs([args.output, numbers], read)
    splits = [args.split] if args.split else split_names(args.data_dir)
    summaries, classes = {}, dataset_classes(args.data_dir)
    for split in splits:
        summaries[split] = summarise(split_stats(args.data_dir, split), names_of(classes))
        print(table(split, summaries[split]), flush=True)
    if args.output is not None:
        write_atomically(args.output, page(summaries, classes).encode())
        write_atomically(numbers, json.dumps(summaries, indent=1).encode())
        print(f"wrote {args.output} and {numbers}")


if __name__ == "__main__":
    sys.exit(main())
