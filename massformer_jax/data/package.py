"""Building the dataset in a folder of its own: alone there, complete or not at all."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from massformer_jax.data_builders.mass13k.mass13k_dataset_builder import Builder
from massformer_jax.data_builders.mass13k.report import DatasetError


def build(
    manual_dir: str | os.PathLike, data_dir: str | os.PathLike, *, strict: bool = False
) -> tfds.core.DatasetBuilder:
    """Checks the release's files and writes the dataset, unless there is a complete one already.

    Args:
        manual_dir: the folder of the release.
        data_dir: the folder of all datasets; this one goes to `mass13k/<version>` below it.
        strict: whether an oddity of the release stops the build, as a problem does.

    Returns:
        The builder of the complete dataset; its `info` describes the splits.

    Raises:
        DatasetError: the release has problems, all of which the message lists; or something else
            has the dataset's folder, or is building there. Nothing new is left behind.
        OSError: a file or folder cannot be read or written. Nothing new is left behind.
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
    made = [folder for folder in version.parents if not folder.exists()]
    version.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _alone_in(version.parent):
            # A killed build leaves its folder behind, which never has the dataset's own name.
            for leftover in version.parent.glob(f"incomplete.*_{version.name}"):
                shutil.rmtree(leftover)
            # Nothing is downloaded. So the empty download folders of TFDS go to a place that is
            # removed, and its lines about "Downloading, unknown size" are not shown. Neither is
            # the builder's report, which the command prints once the dataset has its name.
            with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(None):
                builder.download_and_prepare(
                    download_dir=downloads,
                    download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
                    file_format="array_record",
                )
    finally:
        # The first folder that is not empty, because it holds the dataset, ends this.
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
    return builder


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Holds a lock on the folder. The system releases it when the process ends in any way.

    Raises:
        DatasetError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"{folder}: another build is at work here; wait for it") from error
        yield
    finally:
        os.close(descriptor)
