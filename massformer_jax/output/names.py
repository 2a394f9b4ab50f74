"""The names of the files that are written of a photograph.

Each function takes the path of a photograph relative to the folders that were passed, with its own
suffix, and the groups. It returns paths relative to the output.
"""

import re
import zlib
from collections.abc import Callable
from pathlib import PurePath

from massformer_jax.output.prediction import Group

Names = Callable[[PurePath, tuple[Group, ...]], tuple[PurePath, ...]]

# By how much nerfstudio reduces photographs, each size in a folder of its own.
NERFSTUDIO_REDUCTIONS = (2, 4, 8)

_LONGEST = 60  # letters that tell the group


def beside(ending: str) -> Names:
    """Returns the function for one file, whose name ends in `ending` instead of the suffix."""
    return lambda photograph, groups: (photograph.with_name(photograph.stem + ending),)


def for_each_group(ending: str, folder: str = "") -> Names:
    """Returns the function for one file for each group, in a folder; the name ends in `ending`."""
    return lambda photograph, groups: tuple(
        PurePath(folder, photograph).with_name(f"{photograph.stem}_{of_group(group)}{ending}")
        for group in groups
    )


def colmap(photograph: PurePath, groups: tuple[Group, ...]) -> tuple[PurePath, ...]:
    """Returns the path of COLMAP's mask, in which the photograph's suffix stays."""
    return (PurePath("masks", f"{photograph}.png"),)


def metashape(photograph: PurePath, groups: tuple[Group, ...]) -> tuple[PurePath, ...]:
    """Returns the path of Metashape's mask, for the template `{filename}_mask.png`."""
    return (PurePath("metashape", photograph).with_name(f"{photograph.stem}_mask.png"),)


def nerfstudio(photograph: PurePath, groups: tuple[Group, ...]) -> tuple[PurePath, ...]:
    """Returns the path of nerfstudio's mask, and of the reduced ones.

    Nerfstudio looks for reduced masks by their names alone, not by the folders below `masks`.
    """
    reduced = (PurePath(f"masks_{n}", f"{photograph.stem}.png") for n in NERFSTUDIO_REDUCTIONS)
    return (PurePath("masks", photograph).with_suffix(".png"), *reduced)


def of_group(group: Group) -> str:
    """Returns the name of a group as a part of a file's name, for every file system.

    Letters, digits, "+", "-" and "_" stay, and a space becomes a hyphen. If more than that has to
    be changed or cut off, a checksum tells the name from others.
    """
    spaced = group.name.replace(" ", "-")
    name = re.sub(r"[^\w+-]+", "-", spaced).strip("-")
    if name == spaced and len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}-{zlib.crc32(group.name.encode()):08x}"
