"""Packages the release's folder as a TFDS dataset of array_record files.

    python -m massformer_jax.data.build --manual_dir DIR --data_dir DIR

The folder `--manual_dir` holds `images` (or `images_pad`) and `annotations`, each with the folders
`train`, `val` and `test`; they may also lie deeper, as archives leave them. The names and headers
of all files are checked before anything is written, and the dataset appears under `--data_dir` only
when it is complete. At the end the command prints a report of what it found, which is also kept
beside the records as build_report.json. A dataset that is there already is kept if it was built
from the same files; if it was built from others, this is an error, unless --overwrite is given.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from massformer_jax import command
from massformer_jax.files import check_local


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = command.parser("massformer_jax.data.build", __doc__)
    parser.add_argument("--manual_dir", required=True, type=Path, help="folder of the release")
    parser.add_argument("--data_dir", required=True, type=Path, help="folder to write below")
    parser.add_argument(
        "--strict", action="store_true", help="take oddities of the release for errors"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a dataset that is there already, once the new one is complete",
    )
    args = parser.parse_args(argv)
    # So that a plain `kill` leaves as little behind as an error does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return command.run(lambda: _build(args))


def _build(args: argparse.Namespace) -> None:
    """Builds the dataset and prints what is in it."""
    from massformer_jax.data.package import build, dataset_folder, is_complete
    from massformer_jax.data_builders.mass13k.mass13k_dataset_builder import REPORT_FILE
    from massformer_jax.data_builders.mass13k.report import Report

    check_local(args.manual_dir, args.data_dir)
    kept = is_complete(dataset_folder(args.data_dir)) and not args.overwrite
    builder = build(args.manual_dir, args.data_dir, strict=args.strict, overwrite=args.overwrite)
    for name, split in builder.info.splits.items():
        size = split.num_bytes / 2**20
        shards = f"{split.num_shards} shard" + "s" * (split.num_shards > 1)
        print(f"{name:>10}: {split.num_examples:6d} examples, {shards}, {size:.1f} MiB")
    if kept:
        print(
            f"dataset {builder.info.full_name} was already in {builder.data_dir}, built from these "
            "files; nothing was written (--overwrite builds it anew)"
        )
        return
    report_file = Path(builder.data_dir) / REPORT_FILE
    print(Report.from_json(report_file.read_text()))
    print(f"dataset {builder.info.full_name} is in {builder.data_dir}; see {REPORT_FILE} there")


if __name__ == "__main__":
    sys.exit(main())
