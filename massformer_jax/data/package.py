"""Building the dataset in a folder of its own: alone there, complete or not at all."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from massformer_jax.classes import names_of
from massformer_jax.data.records import dataset_classes, dataset_settings, open_split, split_names
from massformer_jax.data_builders.mass13k.layout import RELEASE, Layout
from massformer_jax.data_builders.mass13k.mass13k_dataset_builder import Builder
from massformer_jax.data_builders.mass13k.report import DatasetError
from massformer_jax.data_builders.mass13k.sources import check_same_source


def dataset_folder(data_dir: str | os.PathLike, name: str = RELEASE.name) -> Path:
    """Returns the folder that the dataset has, or will have, below the folder of all datasets."""
    return Path(data_dir) / name / str(Builder.VERSION)


def is_complete(version: Path) -> bool:
    """Tells whether the folder holds a dataset, and not an unfinished one."""
    return (version / "dataset_info.json").exists()  # written last, by TFDS


def build(
    manual_dir: str | os.PathLike,
    data_dir: str | os.PathLike,
    *,
    strict: bool = False,
    overwrite: bool = False,
    layout: Layout = RELEASE,
) -> tfds.core.DatasetBuilder:
    """Checks the release's files and writes the dataset, unless there is one of the same files.

    Args:
        manual_dir: the folder of the release.
        data_dir: the folder of all datasets; this one goes to `NAME/<version>` below it.
        strict: whether an oddity of the release stops the build, as a problem does.
        overwrite: whether a dataset that is there is replaced, once the new one is complete.
        layout: which dataset this is, and how its files lie in the folder.

    Returns:
        The builder of the complete dataset; its `info` describes the splits.

    Raises:
        DatasetError: the release has problems, all of which the message lists; or there is a
            dataset of other files; or something else has the dataset's folder, or is building
            there. Nothing new is left behind, and a dataset that was there stays.
        PipelineError: a dataset is there that is damaged.
        OSError: a file or folder cannot be read or written. Likewise.
    """
    manual_dir, version = Path(manual_dir), dataset_folder(data_dir, layout.name)
    if not manual_dir.is_dir() or not any(manual_dir.iterdir()):
        raise DatasetError(f"{manual_dir}: no folder, or an empty one; name the extracted release")
    if manual_dir.resolve().is_relative_to(version.parent.resolve()):
        raise DatasetError(
            f"{manual_dir}: lies where datasets are written; name another --data_dir"
        )
    if is_complete(version) and not overwrite:
        for split in split_names(version.parent):
            open_split(version.parent, split)  # finds damage
        _check_same_layout(version, layout)
        check_same_source(version, manual_dir, layout.find)
        return Builder(data_dir=os.fspath(data_dir), layout=layout)
    if version.exists() and not is_complete(version):
        raise DatasetError(f"{version}: not a complete dataset; remove this folder and build again")
    made = [folder for folder in version.parents if not folder.exists()]
    version.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _alone_in(version.parent):
            # A killed build leaves its folder behind, which never has the dataset's own name.
            for leftover in version.parent.glob(f"incomplete.*_{version.name}"):
                shutil.rmtree(leftover)
            if is_complete(version):
                _replace(version, manual_dir, strict, layout)
            else:
                _write(data_dir, manual_dir, strict, layout)
    finally:
        # The first folder that is not empty, because it holds the dataset, ends this.
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
    return Builder(data_dir=os.fspath(data_dir), layout=layout)


def _check_same_layout(version: Path, layout: Layout) -> None:
    """Raises DatasetError if a dataset that is there has other classes, or was read otherwise."""
    there, wanted = dataset_classes(version.parent), layout.classes
    anew = "pass --overwrite to build it anew, or another --name"
    if there != wanted:
        what = (
            ", ".join(names_of(there)) if names_of(there) != names_of(wanted) else "other colours"
        )
        raise DatasetError(f"{version}: is there already, with other classes ({what}); {anew}")
    settings = dataset_settings(version.parent)
    for key, value in layout.settings.items():
        if settings.get(key) != value:
            raise DatasetError(
                f"{version}: is there already, built with {key}={settings.get(key)} and not "
                f"{value}; {anew}"
            )


def _write(data_dir: str | os.PathLike, manual_dir: Path, strict: bool, layout: Layout) -> None:
    """Writes the dataset below a folder that holds none."""
    builder = Builder(data_dir=os.fspath(data_dir), strict=strict, layout=layout)
    # Nothing is downloaded. So the empty download folders of TFDS go to a place that is removed,
    # and its lines about "Downloading, unknown size" are not shown. Neither is the builder's
    # report, which the command prints once the dataset has its name.
    with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(None):
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
            file_format="array_record",
        )


def _replace(version: Path, manual_dir: Path, strict: bool, layout: Layout) -> None:
    """Writes the dataset anew beside the one that is there, which it then replaces."""
    beside = version.with_name(f"incomplete.new_{version.name}")
    former = version.with_name(f"incomplete.former_{version.name}")
    try:
        _write(beside, manual_dir, strict, layout)
        version.rename(former)
        try:
            dataset_folder(beside, layout.name).rename(version)
        except BaseException:
            former.rename(version)
            raise
    finally:
        for folder in (beside, former):
            shutil.rmtree(folder, ignore_errors=True)


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
