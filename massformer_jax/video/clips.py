"""Segmenting clips: which files are written of one, and one clip from its first frame to its last.

This module imports at its top only what is needed before the arguments of a command are checked.
"""

import contextlib
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from massformer_jax.errors import InputError
from massformer_jax.files import check_outputs, some_of
from massformer_jax.output.formats import FORMATS, Options, encode_all, files_of
from massformer_jax.output.prediction import Group, Prediction

if TYPE_CHECKING:
    from massformer_jax.inference.segmenter import Segmenter
    from massformer_jax.inference.stream import Answer
    from massformer_jax.video.reading import Clip, Frame

# What can be written of clips, as videos and as numbered pictures. The other formats are read by
# programs that want the frames as files, too: these are segmented as photographs.
AS_VIDEOS = ("labels", "overlay", "alpha")
AS_FRAMES = (*AS_VIDEOS, "cutout", "probabilities")

# Suffixes for overlays: sound that a clip of this kind holds fits into them.
_LIKE = {".mp4": ".mp4", ".m4v": ".mp4", ".mov": ".mov"}
_OTHERS = ".mkv"
_FRAME = re.compile(r"\d{6,}\.\w+")


class Written(NamedTuple):
    """What became of a clip.

    Attributes:
        frames: number of frames that were written.
        damage: what is wrong with the rest of the clip, or None.
    """

    frames: int
    damage: str | None


def why_not(formats: Sequence[str], *, frames: bool) -> str:
    """Returns why no clips can be written in these formats, or an empty text if they can.

    Args:
        formats: names of formats.
        frames: whether numbered pictures are written instead of videos.
    """
    known = AS_FRAMES if frames else AS_VIDEOS
    for name in formats:
        if name in known:
            continue
        if name in AS_FRAMES:
            return f"{name} of a clip is written as pictures: pass --frames"
        return (
            f"--write {name} is for photographs; extract the frames (ffmpeg -i CLIP %06d.png), and "
            "predict these"
        )
    from massformer_jax.video.reading import check_av

    try:
        check_av()
    except InputError as error:
        return str(error)
    return ""


def clip_files(
    clip: pathlib.PurePath, formats: Sequence[str], groups: tuple[Group, ...], *, frames: bool
) -> tuple[pathlib.PurePath, ...]:
    """Returns the paths of the videos, or of the folders of pictures, that are written of a clip.

    Args:
        clip: its path below the folder that is segmented, with its suffix.
        formats: names of formats.
        groups: of classes, for those formats that are written of each group.
        frames: whether numbered pictures are written instead of videos.
    """
    files = []
    for name in formats:
        for path in FORMATS[name].files(clip, groups):
            folder = path.with_suffix("")
            if frames:
                files.append(folder)
            elif name == "overlay":
                files.append(path.with_suffix(_LIKE.get(clip.suffix.lower(), _OTHERS)))
            elif name == "labels":
                files.append(path.with_name(f"{clip.stem}_labels.mkv"))
            else:
                files.append(path.with_suffix(".mkv"))
    return tuple(files)


def check_clips(
    files: Mapping[pathlib.Path, Sequence[pathlib.Path]],
    others: Sequence[pathlib.Path],
    inputs: Sequence[pathlib.Path],
    *,
    frames: bool,
) -> None:
    """Checks that nothing but older files of the same kind is written over.

    Args:
        files: what is written of each clip, the paths of `clip_files` below the output.
        others: what else is written.
        inputs: the files that are read.
        frames: whether the files are folders of pictures.

    Raises:
        InputError: something else is in the place of a file, or two would be in one place.
    """
    written = [file for several in files.values() for file in several]
    if not frames:
        check_outputs(written, inputs)
        return
    used = Counter(folder for file in (*written, *others) for folder in (file, *file.parents))
    for clip, folders in files.items():
        for folder in folders:
            _check_folder(folder, inputs)
            if used[folder] > 1:
                raise InputError(
                    f"the frames of {clip} would lie in {folder}, and so would other files; "
                    "predict it apart"
                )


def _check_folder(folder: pathlib.Path, inputs: Sequence[pathlib.Path]) -> None:
    """Checks that a folder is not there, or holds older frames alone."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, where a folder is to be; name another --output")
    if folder.resolve() in {path.parent.resolve() for path in inputs}:
        raise InputError(f"{folder} is read and would be written over; write elsewhere")
    if strange := sorted(x.name for x in folder.iterdir() if not _FRAME.fullmatch(x.name)):
        raise InputError(
            f"{folder} holds {some_of(strange)} and would be written over; name another --output"
        )


def predict_clip(
    segmenter: "Segmenter",
    path: pathlib.Path,
    name: pathlib.PurePath,
    output: pathlib.Path,
    wanted: Sequence[str],
    groups: tuple[Group, ...],
    options: Options,
    *,
    frames: bool,
    smooth: bool,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> Written:
    """Segments a clip, and writes what is wanted of it; each file appears when it is whole.

    Few frames are held at a time, however long the clip is.

    Args:
        segmenter: segments its frames.
        path: where the clip is read.
        name: its path below the folder that is segmented, with its suffix.
        output: the folder that is written to.
        wanted: names of formats.
        groups: of classes, for those formats that are written of each group.
        options: how they are written.
        frames: whether numbered pictures are written instead of videos.
        smooth: whether the scores are steadied over time.
        say: is told lines that the user should see.
        progress: is told after each frame how many are written, and how many there are; 0 if the
            clip does not tell.

    Raises:
        InputError: it is no video that can be read, or holds no frame, or a frame is too large for
            the memory. Then nothing is written.
        OSError: the disk is full, or a folder may not be written to.
    """
    from massformer_jax.data.ahead import map_ahead
    from massformer_jax.output.outputs import predicted
    from massformer_jax.video.reading import opened
    from massformer_jax.video.smoothing import labelled, steadied

    needs = frozenset().union(*(FORMATS[x].needs for x in wanted))
    files = (output / x for x in clip_files(name, wanted, groups, frames=frames))
    done = 0
    with contextlib.ExitStack() as stack:
        clip = stack.enter_context(opened(path))
        writers = [
            stack.enter_context(x) for x in _writers(clip, name, wanted, groups, files, frames, say)
        ]
        answers = segmenter.answers(clip.frames(), scores=smooth or bool(needs))

        def write(answer: "Answer") -> None:
            if answer.error is not None:
                raise answer.error
            if smooth and not needs:
                answer = labelled(answer)
            made = predicted(answer, segmenter.classes, segmenter.palette, groups, needs)
            encoded = _encoded if frames else _shown
            for writer, content in zip(writers, encoded(wanted, made, options), strict=True):
                writer(answer.source, content)

        # One thread, so that frames stay in their order; it encodes while others are computed. It
        # has ended before the writers are closed, whatever happens here.
        written = map_ahead(write, steadied(answers) if smooth else answers, threads=1)
        for _ in stack.enter_context(contextlib.closing(written)):
            done += 1
            progress(done, clip.expected)
        if not done:
            raise InputError(f"{path}: {clip.damage}")
    return Written(done, clip.damage)


def _writers(
    clip: "Clip",
    name: pathlib.PurePath,
    wanted: Sequence[str],
    groups: tuple[Group, ...],
    files: Iterator[pathlib.Path],
    frames: bool,
    say: Callable[[str], None],
) -> Iterator[contextlib.AbstractContextManager[Callable[["Frame", object], None]]]:
    """Yields what writes each of the files that `clip_files` named."""
    from massformer_jax.video import writing

    if frames:
        for file, picture in zip(files, files_of(wanted, name, groups), strict=True):
            yield writing.pictures(file, picture.suffix)
        return
    for kind in wanted:
        for _ in FORMATS[kind].files(name, groups):
            yield writing.video(next(files), clip, sound=kind == "overlay", say=say)


def _encoded(wanted: Sequence[str], prediction: Prediction, options: Options) -> Iterator[bytes]:
    """Yields the contents of the pictures of a frame, in the order of `clip_files`."""
    from massformer_jax.output.pictures import tinted
    from massformer_jax.report.overlay import jpeg

    for name in wanted:
        if name == "overlay":
            # With a legend of all groups, all frames have one size.
            yield jpeg(tinted(prediction, options.opacity, legend=options.legend))
        else:
            yield from encode_all([name], prediction, options)


def _shown(wanted: Sequence[str], prediction: Prediction, options: Options) -> Iterator[np.ndarray]:
    """Yields the pictures of a frame for videos, in the order of `clip_files`."""
    from massformer_jax.output import pictures

    for name in wanted:
        if name == "labels":
            yield prediction.labels
        elif name == "overlay":
            yield pictures.tinted(prediction, options.opacity, legend=options.legend)
        else:
            bits = pictures.eight_bits if options.alpha_bits == 8 else pictures.sixteen_bits
            yield from (bits(prediction.alphas[group.name]) for group in prediction.groups)
