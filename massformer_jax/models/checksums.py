"""Checksums of a checkpoint's files: a list that is written last, and compared before it is read.

Orbax renames a folder when all of it is written, so a killed run leaves no half of a checkpoint. In
a bucket it writes a last file instead, `commit_success.txt`, without which nothing takes the folder
for a checkpoint. What Orbax does not notice is a file that changes, shrinks or vanishes later, and
a changed byte may become thousands of wrong weights.
"""

import hashlib
import json
from typing import Any

from massformer_jax.files import Place, names_below, write_atomically

LIST = "checksums.json"
# Orbax notes in it when the folder got its name, after the list is written.
NOTED_LATER = "_CHECKPOINT_METADATA"


def write_checksums(folder: Place) -> None:
    """Writes the list of a complete checkpoint: sizes and SHA-256 of all its files."""
    sums = {name: _sum(folder / name) for name in _files(folder)}
    write_atomically(folder / LIST, (json.dumps({"files": sums}, indent=1) + "\n").encode())


def damage(folder: Place) -> str:
    """Returns what is wrong with a checkpoint, "" if nothing is.

    One without a list counts as damaged: the run ended before it was complete.
    """
    try:
        listed = json.loads((folder / LIST).read_text())["files"]
        expected = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in listed.items()}
    except FileNotFoundError:
        return f"it has no {LIST}, which is written last"
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return f"its {LIST} cannot be read"
    if problem := note_damage(folder):
        return problem
    there = set(_files(folder))
    missing = sorted(expected.keys() - there)
    if missing:
        return f"{missing[0]} is missing" + (
            f", and {len(missing) - 1} more" if missing[1:] else ""
        )
    for name, written in expected.items():
        try:
            found = _sum(folder / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
        if (found["bytes"], found["sha256"]) != written:
            return f"{name} is not what was written"
    return ""


def note_damage(folder: Place) -> str:
    """Returns what is wrong with Orbax's notes, "" if nothing is.

    Orbax reads those of all checkpoints in a folder, whichever is restored.
    """
    try:
        noted = json.loads((folder / NOTED_LATER).read_text())
    except (OSError, ValueError):
        return f"its {NOTED_LATER} cannot be read"
    if not isinstance(noted, dict) or not all(map(_may_be_noted, noted, noted.values())):
        return f"its {NOTED_LATER} is not what was written"
    return ""


def _may_be_noted(key: str, value: Any) -> bool:
    """Tells whether Orbax may have written this value; it raises ValueError for other ones."""
    if key.endswith("_timestamp_nsecs"):
        return value is None or (type(value) is int and 0 <= value < 2**63)
    if key == "item_handlers":
        return isinstance(value, dict) and all(isinstance(name, str) for name in value.values())
    return value is None or isinstance(value, dict)


def _files(folder: Place) -> list[str]:
    """Returns the paths of the files below the folder that are listed, relative to it."""
    later = (LIST, NOTED_LATER)
    return [name for name in names_below(folder) if name.rsplit("/", 1)[-1] not in later]


def _sum(path: Place) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}
