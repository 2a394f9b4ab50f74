"""Opening a packaged dataset, its classes, and reading its records.

A dataset is named by the folder that all datasets lie below, if it is alone there, or by its own
folder, `DATA/NAME`.

What is missing or damaged is found when a split is opened, as far as the ends of its files tell it:
a run should not learn at its first evaluation that it cannot evaluate.
"""

import json
import os
import re
from typing import Any

import grain
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from massformer_jax.classes import Class, check_classes, class_names, named_classes
from massformer_jax.data.bad_records import RecordError
from massformer_jax.errors import InputError
from massformer_jax.files import Place, place

_BUILD_COMMAND = "python -m massformer_jax.data.build --manual_dir RELEASE --data_dir"
_KEPT_ENCODED = {
    "image": tfds.decode.SkipDecoding(),
    "segmentation_mask": tfds.decode.SkipDecoding(),
}
_FEATURES = {*_KEPT_ENCODED, "file_name"}
_MASS13K = "mass13k"


class PipelineError(InputError):
    """The error of a dataset or a setting that cannot be used; the message is one line."""


def open_split(data_dir: str | os.PathLike, split: str) -> grain.sources.RandomAccessDataSource:
    """Opens a split, whose records can then be read in any order.

    Args:
        data_dir: the folder given to the build command, or that of the dataset itself, which has
            its name; the newest version is read.
        split: "train", "validation", "test", or a slice of one as TFDS writes it ("train[:10%]").

    Returns:
        A sequence of records {'image': bytes of a JPEG file, 'segmentation_mask': bytes of a PNG
        file, 'file_name': bytes, ...}.

    Raises:
        PipelineError: there is no complete dataset, or it has no such split, or one of its files is
            missing, cut off, or not the one that belongs there.
    """
    builder = _newest(data_dir)
    name = re.split(r"[\[+]", split)[0]
    if name not in builder.info.splits:
        present = ", ".join(builder.info.splits)
        raise PipelineError(f"{builder.data_dir}: no split {name!r}; it has {present}")
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        found = builder.info.file_format.value
        raise PipelineError(
            f"{builder.data_dir}: holds {found}; build it with {_command(data_dir)}"
        )
    info = f"{builder.data_dir}: dataset_info.json"
    try:
        shards = builder.info.splits[split].file_instructions
    except ValueError as error:
        reason = _one_line(error)
        raise PipelineError(f"{builder.data_dir}: no split {split!r}: {reason}") from error
    except Exception as error:  # of many types, all undocumented
        raise _damaged(info, _one_line(error), data_dir) from error
    if not shards:
        raise PipelineError(f"{builder.data_dir}: the split {split!r} holds no photograph")
    for shard in shards:
        if not str(shard.filename).isprintable():
            raise _damaged(info, "it names files with control characters", data_dir)
        _check_shard(shard.filename, shard.examples_in_shard, data_dir)
    return builder.as_data_source(split, decoders=_KEPT_ENCODED)


def split_names(data_dir: str | os.PathLike) -> list[str]:
    """Returns the names of the splits that the dataset has.

    Raises:
        PipelineError: there is no complete dataset.
    """
    return list(_newest(data_dir).info.splits)


def dataset_classes(data_dir: str | os.PathLike) -> tuple[Class, ...]:
    """Returns the classes of a dataset, in the order of their labels.

    Where a dataset does not tell colours, or names, they are those of `classes.class_palette` and
    `classes.class_names`.

    Raises:
        PipelineError: there is no complete dataset, or what it tells is no list of classes.
    """
    builder = _newest(data_dir)
    mask = builder.info.features["segmentation_mask"]
    try:
        names = mask.names or class_names(mask.num_classes)
        classes = named_classes(names, (builder.info.metadata or {}).get("palette") or ())
        check_classes(classes, "it")
    except (AttributeError, InputError, TypeError, ValueError) as error:
        what = f"{builder.data_dir}: the list of classes"
        raise _damaged(what, _one_line(error), data_dir) from error
    return classes


def dataset_settings(data_dir: str | os.PathLike) -> dict[str, Any]:
    """Returns what else decided about the records when they were built, see `Layout.settings`."""
    settings = (_newest(data_dir).info.metadata or {}).get("settings")
    return settings if isinstance(settings, dict) else {}


def folder_of(data_dir: str | os.PathLike) -> Place:
    """Returns the folder of all versions of the dataset.

    Raises:
        PipelineError: there is no complete dataset.
    """
    return _newest_version(data_dir).parent


def read_record(records: grain.sources.RandomAccessDataSource, number: int) -> dict[str, Any]:
    """Reads a record of a split, and raises RecordError whatever the reader raises."""
    try:
        return records[number]
    except Exception as error:  # the reader's errors have many types, all undocumented
        reason = _one_line(error)
        raise RecordError(
            f"record {number} of the split cannot be read: {reason}; copy or build the dataset "
            "again"
        ) from error


def _newest(data_dir: str | os.PathLike) -> tfds.core.DatasetBuilder:
    """Returns the builder of the dataset's newest complete version."""
    newest = _newest_version(data_dir)
    for file in (newest / "dataset_info.json", newest / "features.json"):
        try:
            json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise PipelineError(
                f"{file}: missing or damaged; copy it again, or build with {_command(data_dir)}"
            ) from error
    try:
        builder = tfds.builder_from_directory(newest)
        if builder.name != newest.parent.name:
            raise ValueError(f"it describes a dataset {builder.name!r}")
        if missing := sorted(_FEATURES - set(builder.info.features)):
            raise ValueError(f"it describes records without {missing[0]!r}")
        for name in builder.info.splits:
            if not name.isidentifier():
                raise ValueError(f"it describes a split {name!r}")
    except Exception as error:  # of many types, all undocumented
        what = f"{newest}: dataset_info.json or features.json"
        raise _damaged(what, _one_line(error), data_dir) from error
    return builder


def _newest_version(data_dir: str | os.PathLike) -> Place:
    """Returns the folder of the newest complete version of the dataset that is named.

    Raises:
        PipelineError: there is none, or several datasets are there and it is not said which.
    """
    root = place(data_dir)
    versions: dict[str, list[Place]] = {}
    for info in (*root.glob("*/*/dataset_info.json"), *root.glob("*/dataset_info.json")):
        # A killed build leaves a folder such as incomplete.A1B2C3_1.0.0.
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name):
            versions.setdefault(info.parent.parent.name, []).append(info.parent)
    if len(versions) > 1:  # TFDS may have put others beside them
        versions = {name: found for name, found in versions.items() if _has_masks(found[0])}
    if not versions:
        raise PipelineError(
            f"{data_dir}: no mass13k dataset; build it with {_command(data_dir, anew=False)}"
        )
    if len(versions) > 1:
        raise PipelineError(
            f"{data_dir}: holds the datasets {', '.join(sorted(versions))}; name one of them, "
            f"for instance {root / min(versions)}"
        )
    (found,) = versions.values()
    return max(found, key=lambda path: tfds.core.Version(path.name))


def _has_masks(version: Place) -> bool:
    """Tells whether a dataset may be one of label maps; one whose files are damaged may be."""
    try:
        return "segmentation_mask" in (version / "features.json").read_text()
    except (OSError, ValueError):
        return version.parent.name == _MASS13K


def _damaged(what: str, reason: str, data_dir: str | os.PathLike) -> PipelineError:
    """Returns the error of files that describe the dataset, and do it wrongly."""
    return PipelineError(
        f"{what} is damaged ({reason}); build the dataset again with {_command(data_dir)}"
    )


def _check_shard(file: str, count: int, data_dir: str | os.PathLike) -> None:
    """Checks that a file is complete, as far as its end says, and holds `count` records."""
    try:
        reader = ArrayRecordReader(file)
        found = reader.num_records()
        reader.close()
    except Exception as error:  # of many types, all undocumented
        what = "cut off or damaged" if place(file).exists() else "missing"
        raise PipelineError(
            f"{file}: the file is {what}; copy it again, or build with {_command(data_dir)}"
        ) from error
    if found != count:
        raise PipelineError(
            f"{file}: holds {found} records, and {count} belong there; copy it again, or build "
            f"with {_command(data_dir)}"
        )


def _command(data_dir: str | os.PathLike, *, anew: bool = True) -> str:
    """Returns the command that builds the dataset, or builds it anew, in quotes."""
    root = place(data_dir)
    infos = (*root.glob("*/*/dataset_info.json"), *root.glob("*/dataset_info.json"))
    names = {info.parent.parent.name for info in infos} or {_MASS13K}
    named = "" if _MASS13K in names else f" --layout LAYOUT --name {min(names)}"
    return f"`{_BUILD_COMMAND} {data_dir}{named}{' --overwrite' * anew}`"


def _one_line(error: Exception) -> str:
    """Returns what an error says, on one line and not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
