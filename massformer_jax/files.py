"""Writing files so that they are there completely or not at all."""

import os
import pathlib


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Writes beside the place and renames; makes the folder if it is missing."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
