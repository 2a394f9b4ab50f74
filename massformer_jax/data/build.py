"""Packages the release's folder as a TFDS dataset of array_record files.

    python -m massformer_jax.data.build --manual_dir DIR --data_dir DIR

DIR of `--manual_dir` holds `images` (or `images_pad`) and `annotations`, each with `train`, `val`
and `test`, or folders around them. Names and headers of all files are checked before anything is
written, and the dataset appears under `--data_dir` only when it is complete. The build ends with a
report of what was found, which also lies beside the records as build_report.json.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from data_builders.mass13k.mass13k_dataset_builder import REPORT_FILE, Builder
from data_builders.mass13k.report import DatasetError, Report
from massformer_jax.errors import InputError


def build(
    manual_dir: str | os.PathLike, data_dir: str | os.PathLike, *, strict: bool = False
) -> tfds.core.DatasetBuilder:
    """Checks the release's files and writes the dataset, unless it is there already.

    Args:
      manual_dir: the folder of the release.
      data_dir: where datasets live; this one goes to `mass13k/<version>` below it.
      strict: whether an oddity stops the build, as a problem does.

    Returns:
      The builder of the finished dataset: `builder.info` tells its splits.

    Raises:
      DatasetError: lists every problem of the release, or names an unfinished dataset in the way;
        no dataset is left.
      OSError: a file or folder cannot be read or written.
    """
    manual_dir = Path(manual_dir)
    if not manual_dir.is_dir() or not any(manual_dir.iterdir()):
        raise DatasetError(f"{manual_dir}: no folder, or an empty one; name the extracted release")
    builder = Builder(data_dir=os.fspath(data_dir), strict=strict)
    version = Path(builder.data_dir)
    if (version / "dataset_info.json").exists():  # written last, by TFDS
        return builder
    if version.exists():
        raise DatasetError(f"{version}: not a complete dataset; remove this folder and build again")
    made = [path for path in (version.parent, *version.parents[1:]) if not path.exists()]
    version.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _alone_in(version.parent):
            # A killed build leaves its folder behind; it never has the dataset's own name.
            for leftover in version.parent.glob(f"incomplete.*_{version.name}"):
                shutil.rmtree(leftover)
            # Nothing is downloaded: the empty download folders of TFDS go where they vanish,
            # and its lines about "Downloading, unknown size" are kept from the user, as is the
            # report until the dataset is there.
            with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(None):
                builder.download_and_prepare(
                    download_dir=downloads,
                    download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
                    file_format="array_record",
                )
    finally:
        with contextlib.suppress(OSError):  # not empty: it holds the dataset
            for path in made:
                path.rmdir()
    return builder


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Holds a lock on the folder, which ends with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DatasetError(f"{folder}: another build is at work here; wait for it") from error
    finally:
        os.close(descriptor)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m massformer_jax.data.build",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--manual_dir", required=True, type=Path, help="folder of the release")
    parser.add_argument("--data_dir", required=True, type=Path, help="folder to write below")
    parser.add_argument(
        "--strict", action="store_true", help="take oddities of the release for errors"
    )
    args = parser.parse_args(argv)
    # So that a plain `kill` leaves as little behind as an error does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        builder = build(args.manual_dir, args.data_dir, strict=args.strict)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, split in builder.info.splits.items():
        size = split.num_bytes / 2**20
        shards = f"{split.num_shards} shard" + "s" * (split.num_shards > 1)
        print(f"{name:>10}: {split.num_examples:6d} examples, {shards}, {size:.1f} MiB")
    report = Path(builder.data_dir) / REPORT_FILE
    print(Report.from_json(report.read_text()))
    print(f"dataset {builder.info.full_name} is in {builder.data_dir}; see {report.name} there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
