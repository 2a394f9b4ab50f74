"""The photographs and clips below folders, and what files made of them are called."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from massformer_jax.data.photographs import PHOTOGRAPH_SUFFIXES, RAW_SUFFIXES, READ
from massformer_jax.errors import InputError
from massformer_jax.files import composed, files_below, some_of

CLIP_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".mpg", ".mpeg"),
        *(".3gp", ".wmv"),
    }
)


class Photograph(NamedTuple):
    """A file, and its name below the folder that it was found in.

    Attributes:
        path: of the file.
        name: the path below the folder that was passed, or the name of a file that was passed.
    """

    path: pathlib.Path
    name: pathlib.PurePath

    @property
    def is_clip(self) -> bool:
        """Whether it is a video by its name."""
        return self.name.suffix.lower() in CLIP_SUFFIXES


def find_photographs(
    inputs: Sequence[str], *, without: pathlib.Path, no_clips: str = ""
) -> tuple[list[Photograph], list[str]]:
    """Returns the files among the inputs, and the photographs and clips below the folders, sorted.

    Hidden files and folders are passed over, such as those that a Mac leaves. Where a camera has
    stored a photograph twice, the developed one is taken, and not that of the sensor (RAW).

    Args:
        inputs: paths of files and folders.
        without: a folder that is passed over, because files are written to it.
        no_clips: why clips in folders are left out; empty if they are not.

    Returns:
        The photographs and clips, and lines for each folder that holds something else, which name
        it.

    Raises:
        InputError: a path does not exist, a folder holds no photograph, or what is made of two
            photographs would have one name.
        OSError: a folder may not be read.
    """
    found, remarks = [], []
    for path in map(pathlib.Path, inputs):
        if path.is_dir():
            own = _inside(path, without)
            files = [name for name in files_below(path) if own is None or own not in name.parents]
            clips = [name for name in files if name.suffix.lower() in CLIP_SUFFIXES]
            known = PHOTOGRAPH_SUFFIXES if no_clips else PHOTOGRAPH_SUFFIXES | CLIP_SUFFIXES
            names = [name for name in files if name.suffix.lower() in known]
            others = [str(name) for name in files if name not in {*names, *clips}]
            others = some_of(others, most=20)
            if not names and clips:
                raise InputError(f"{path} holds videos alone: {no_clips}")
            if not names:
                there = f", but {others}" if others else ""
                raise InputError(f"{path} holds no photograph ({READ}) and no video{there}")
            if no_clips and clips:
                left = some_of([str(name) for name in clips])
                remarks.append(f"{path}: left out {left}: {no_clips}")
            if others:
                remarks.append(f"{path}: left out {others}; photographs are {READ}")
            names, raw = _without_raw_twins(names)
            if raw:
                twins = some_of([str(name) for name in raw])
                remarks.append(f"{path}: left out {twins}, which are there developed, too")
            found += [Photograph(path / name, name) for name in names]
        elif path.is_file():
            found.append(Photograph(path, pathlib.PurePath(path.name)))
        else:
            raise InputError(f"{path} does not exist; pass photographs or folders of them")
    by_stem: dict[tuple[str, bool], Photograph] = {}
    for photograph in {x.path: x for x in found}.values():
        stem = photograph.name.with_suffix("")
        other = by_stem.setdefault((composed(stem), photograph.is_clip), photograph)
        if other is not photograph:
            both = stem if photograph.is_clip else stem.with_suffix(".png")
            raise InputError(
                f"{other.path} and {photograph.path} would both become {both}; predict them apart"
            )
    return list(by_stem.values()), remarks


def _inside(folder: pathlib.Path, other: pathlib.Path) -> pathlib.PurePath | None:
    """Returns the path of another folder below this one, or None if it is not below it."""
    folder, other = folder.resolve(), other.resolve()
    return other.relative_to(folder) if folder in other.parents else None


def _without_raw_twins(
    names: Sequence[pathlib.PurePath],
) -> tuple[list[pathlib.PurePath], list[pathlib.PurePath]]:
    """Returns photographs without the RAW files that lie beside others of their name; and these."""

    def is_raw(name):
        return name.suffix.lower() in RAW_SUFFIXES

    developed = {name.with_suffix("") for name in names if not is_raw(name)}
    twins = [name for name in names if is_raw(name) and name.with_suffix("") in developed]
    return [name for name in names if name not in set(twins)], twins
