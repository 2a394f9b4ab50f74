"""Packages the release's folder, or one's own, as a TFDS dataset of array_record files.

    python -m massformer_jax.data.build --manual_dir DIR --data_dir DIR
        [--layout folder --name NAME --classes FILE [--val_share 0.1]]

The folder `--manual_dir` holds `images` (or `images_pad`) and `annotations`, each with the folders
`train`, `val` and `test`; they may also lie deeper, as archives leave them. The names and headers
of all files are checked before anything is written, and the dataset appears under `--data_dir` only
when it is complete. At the end the command prints a report of what it found, which is also kept
beside the records as build_report.json. A dataset that is there already is kept if it was built
from the same files; if it was built from others, this is an error, unless --overwrite is given.

With --layout, the folder is one's own: `folder` is photographs in images/ and label maps in
labels/, each perhaps with train/ and val/; cvat, labelme and label_studio are exports of masks by
these tools. --classes lists names, and perhaps colours: text, JSON, or what those tools write.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import check_local

if TYPE_CHECKING:
    from massformer_jax.data_builders.mass13k.layout import Layout

LAYOUTS = ("mass13k", "folder", "cvat", "labelme", "label_studio")


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
    own = parser.add_argument_group("one's own photographs and classes")
    own.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0], help="how the files lie")
    own.add_argument("--name", help="name of the dataset, in small letters; needed for --layout")
    own.add_argument(
        "--classes",
        type=Path,
        help="list of classes: .txt, .json or .xml; cvat and labelme have one in the export",
    )
    own.add_argument("--palette", type=Path, help="palette PNG whose colours the classes have")
    own.add_argument(
        "--first_label",
        type=int,
        choices=(0, 1),
        default=0,
        help="value of the first class in the label maps; with 1, the value 0 is unlabelled",
    )
    own.add_argument(
        "--images", type=Path, help="folder of the photographs, if it has another name"
    )
    own.add_argument("--labels", type=Path, help="folder of the label maps, likewise")
    own.add_argument("--split_lists", type=Path, help="folder of train.txt, val.txt and test.txt")
    own.add_argument("--val_share", type=float, default=0.0, help="share for validation, 0 to 1")
    own.add_argument("--test_share", type=float, default=0.0, help="share for the test, 0 to 1")
    own.add_argument("--seed", type=int, default=0, help="decides which photographs these are")
    own.add_argument("--rest", help="label_studio: class of the pixels that no mask covers")
    args = parser.parse_args(argv)
    # So that a plain `kill` leaves as little behind as an error does. What the process did about it
    # before holds again afterwards: it may have called this function, and go on.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return command.run(lambda: _build(args))
    finally:
        signal.signal(signal.SIGTERM, before)


def _build(args: argparse.Namespace) -> None:
    """Builds the dataset and prints what is in it."""
    from massformer_jax.data.package import build, dataset_folder, is_complete
    from massformer_jax.data_builders.mass13k.mass13k_dataset_builder import REPORT_FILE
    from massformer_jax.data_builders.mass13k.report import Report

    check_local(args.manual_dir, args.data_dir)
    layout = _layout(args)
    kept = is_complete(dataset_folder(args.data_dir, layout.name)) and not args.overwrite
    builder = build(
        args.manual_dir,
        args.data_dir,
        strict=args.strict,
        overwrite=args.overwrite,
        layout=layout,
    )
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


def _layout(args: argparse.Namespace) -> "Layout":
    """Returns what the flags say; raises InputError for what does not go together."""
    from massformer_jax.data_builders.mass13k.layout import RELEASE

    if args.layout == LAYOUTS[0]:
        of_others = ("name", "classes", "palette", "first_label", "images", "labels")
        of_others += ("split_lists", "val_share", "test_share", "seed", "rest")
        for name in of_others:
            if getattr(args, name):
                raise InputError(f"--{name} is for one's own photographs: add --layout folder")
        return RELEASE

    from massformer_jax.data_builders.folder.layouts import Wanted, layout

    return layout(
        Wanted(
            kind=args.layout,
            root=args.manual_dir,
            name=args.name,
            classes=args.classes,
            palette=args.palette,
            first_label=args.first_label,
            images=args.images,
            masks=args.labels,
            lists=args.split_lists,
            validation_share=args.val_share,
            test_share=args.test_share,
            seed=args.seed,
            rest=args.rest,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
