"""Finding files below a folder, and writing files so that they are complete or not there at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


def files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the paths of what lies below a folder, relative to it and sorted.

    Hidden files and what lies in hidden folders are left out, such as those that a Mac leaves.
    """
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(path for path in paths if not any(part[0] == "." for part in path.parts))


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
