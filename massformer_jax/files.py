"""Files and folders, on disks that this machine sees and in buckets of Google Cloud Storage.

A place is a `pathlib.Path`, or for gs://… an `epath.Path`, which has the same methods. A bucket has
neither folders nor links, and it cannot rename. It holds objects, each of which appears when it has
been written to its end; a folder is the common beginning of some names.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from massformer_jax.errors import InputError

if TYPE_CHECKING:
    from etils import epath

Place = pathlib.PurePosixPath  # what both kinds have in common, without importing `epath`

_BUCKET = "gs://"


def place(path: str | os.PathLike) -> Place:
    """Returns the place that a path names.

    If it is in a bucket, the bucket is asked whether it can be read, once for each process.

    Raises:
        InputError: it is in a bucket that cannot be used, or in something else that is no folder.
    """
    text = os.fspath(path)
    if not in_bucket(text):
        if scheme := re.match(r"gs:/|\w+://", text):
            raise InputError(
                f"{text}: {scheme[0]} is no place; use a folder, or gs://BUCKET/FOLDER as text"
            )
        return pathlib.Path(path)
    bucket = text.removeprefix(_BUCKET).split("/")[0]
    if not bucket:
        raise InputError(f"{text} names no bucket; use gs://BUCKET/FOLDER")
    _open(bucket)
    from etils import epath

    return epath.Path(text)


def in_bucket(path: str | os.PathLike) -> bool:
    """Tells whether a path leads into a bucket."""
    return os.fspath(path).startswith(_BUCKET)


def check_local(*paths: str | os.PathLike | None) -> None:
    """Checks that paths are on this machine, where a command works with nothing else.

    Raises:
        InputError: one leads into a bucket.
    """
    for path in paths:
        if path is not None and re.match("gs:/", os.fspath(path)):
            raise InputError(
                f"{path} is in a bucket, which works for --workdir, data_dir of a training and "
                "weights only; use a folder of this machine (`gcloud storage cp -r` copies it)"
            )


def orbax_path(folder: Place) -> "epath.Path":
    """Returns the path of a folder as Orbax wants it: absolute, and of the kind that it uses."""
    from etils import epath

    return epath.Path(folder) if in_bucket(folder) else epath.Path(folder).resolve()


def names_below(folder: Place) -> list[str]:
    """Returns the paths of all files below a folder, relative to it and sorted."""
    if in_bucket(folder):
        files, root = _objects(folder)
        return sorted(name.removeprefix(f"{root}/") for name in files.find(root))
    found = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in found)


def rename_folder(folder: Place, new: Place) -> None:
    """Gives a folder another name, which nothing has yet.

    In a bucket its objects are copied there, and deleted when all are copied. If this is
    interrupted, one of the two is complete.
    """
    if not in_bucket(folder):
        pathlib.Path(folder).rename(new)
        return
    files, root = _objects(folder)
    _, target = _objects(new)
    for name in files.find(root):
        files.copy(name, target + name.removeprefix(root))
    files.rm(root, recursive=True)


def upload(folder: pathlib.Path, target: Place) -> None:
    """Copies the files below a folder of this machine to a place in a bucket."""
    for name in names_below(folder):
        (target / name).write_bytes((folder / name).read_bytes())


def _objects(folder: Place):
    """Returns the file system of fsspec for a bucket, and the name that a folder has in it."""
    import fsspec

    return fsspec.url_to_fs(os.fspath(folder))


@functools.cache
def _open(bucket: str) -> None:
    """Prepares the libraries for buckets, and asks this one whether it can be read.

    Raises:
        InputError: a library is missing, or the bucket cannot be read.
    """
    try:
        import fsspec
        import gcsfs  # noqa: F401
        from google.cloud import storage
    except ImportError as error:
        raise InputError(
            f"gs:// needs libraries of Google's ({error}); pip install 'massformer-jax[gcs]'"
        ) from error
    # Other processes, and Orbax itself, write objects that gcsfs would not find in a list it keeps.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    # Where TensorFlow is installed, too, etils would use it instead, which raises other errors.
    os.environ.setdefault("EPATH_USE_TF", "false")
    try:
        next(iter(storage.Client().list_blobs(bucket, max_results=1)), None)
    except Exception as error:  # of credentials, of the network, of the service
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"gs://{bucket} cannot be read: {reason}; see «Where things lie» in docs/pods.md"
        ) from error


def files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the paths of the files below a folder, relative to it and sorted.

    Links are followed; where they lead round in a circle, each folder is entered once. Hidden files
    and what lies in hidden folders are left out, such as those that a Mac leaves.

    Raises:
        OSError: a folder may not be read.
    """
    found = []

    def enter(inside: pathlib.Path, entered: frozenset[tuple[int, int]]) -> None:
        """Adds the files below a folder; `entered` are this folder and those around it."""
        for name in os.listdir(folder / inside):
            path = folder / inside / name
            if name.startswith("."):
                continue
            if not path.is_dir():
                found.append(inside / name)
            elif (identity := _identity(path)) not in entered:
                enter(inside / name, entered | {identity})

    enter(pathlib.Path(), frozenset([_identity(folder)]))
    return sorted(found)


def composed(name: str | os.PathLike) -> str:
    """Returns a name in composed letters (NFC): é may also be written as e and an accent (NFD).

    Macs and archives made on them do so, and to a reader both names are the same.
    """
    return unicodedata.normalize("NFC", os.fspath(name))


def is_png(path: pathlib.Path) -> bool:
    """Tells whether a file is a PNG by its name."""
    return path.suffix.lower() == ".png"


def pngs_below(folder: str | os.PathLike) -> dict[str, pathlib.Path]:
    """Returns the PNG files below a folder, sorted, by their paths below it in composed letters.

    Raises:
        InputError: two names differ in the composition of their letters alone.
        OSError: a folder may not be read.
    """
    folder, found = pathlib.Path(folder), {}
    for path in files_below(folder):
        if not is_png(path):
            continue
        other = found.setdefault(composed(path), folder / path)
        if other != folder / path:
            raise InputError(f"{folder} holds {composed(path)} twice, in other Unicode; remove one")
    return dict(sorted(found.items()))


def some_of(names: Sequence[str], most: int = 3) -> str:
    """Returns the first of some names, and how many more there are, as one text."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextlib.contextmanager
def written_atomically(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a path to write to, beside the wanted one; renames the file at the end.

    After an error the unfinished file is removed, and what was at the wanted path stays. The folder
    is made if it is missing. What belongs into a bucket is written on this machine, and then sent
    as one object.
    """
    if in_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            yield (part := pathlib.Path(folder) / "part")
            place(path).write_bytes(part.read_bytes())
        return
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_atomically(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields an empty folder to write to, beside the wanted one; renames it at the end.

    It takes the place of an older folder. After an error or an interrupt the unfinished one is
    removed, and what was at the wanted path stays. Folders around it are made if they are missing.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{x}") for x in ("part", "old"))
    part.mkdir()
    try:
        yield part
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        if old.exists() and not folder.exists():  # stopped between the two renames
            old.rename(folder)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes the bytes as `written_atomically` does."""
    with written_atomically(path) as part:
        part.write_bytes(data)


def check_outputs(
    outputs: Iterable[str | os.PathLike], inputs: Iterable[str | os.PathLike]
) -> None:
    """Checks that no file that is read is written over, before anything is computed or written.

    Two paths name the same file also through links, or if they are spelt in different ways.

    Args:
        outputs: the files that will be written; most of them are not there yet.
        inputs: the files that are read.

    Raises:
        InputError: an output is one of the inputs, or is written twice, or is a folder.
    """
    read = {}
    for path in map(pathlib.Path, inputs):
        with contextlib.suppress(OSError):  # whoever reads it will say what is wrong with it
            read[_identity(path)] = path
    written = {}
    for path in map(pathlib.Path, outputs):
        place = path.parent.resolve() / path.name
        if place in written:
            raise InputError(f"{written[place]} and {path} are the same file; name two files")
        written[place] = path
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file to write")
        source = read.get(_identity(path)) if path.exists() else None
        if source is not None:
            same = "" if source == path else f" (as {source})"
            raise InputError(f"{path} is read{same} and would be written over; write elsewhere")


def check_new(folder: Place) -> None:
    """Checks that there is no such folder yet, or an empty one, so that nothing is written over.

    Raises:
        InputError: there is something, be it a link.
    """
    if (not in_bucket(folder) and folder.is_symlink()) or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is no folder; name a new one")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds files already; name a new folder")


def _identity(path: pathlib.Path) -> tuple[int, int]:
    """Returns what tells a file from all others, whatever path leads to it."""
    status = path.stat()
    return status.st_dev, status.st_ino


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file here, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
