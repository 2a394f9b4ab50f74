"""Finding files below a folder, and writing files so that they are complete or not there at all."""

import contextlib
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from massformer_jax.errors import InputError


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
    is made if it is missing.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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


def _identity(path: pathlib.Path) -> tuple[int, int]:
    """Returns what tells a file from all others, whatever path leads to it."""
    status = path.stat()
    return status.st_dev, status.st_ino
