"""Segments photographs and videos of any size.

    python -m massformer_jax.predict --checkpoint DIR --output DIR IMAGE_OR_VIDEO_OR_FOLDER…

For each photograph an index PNG of the same size is written, in the colours of the classes; the
flag `--write` names other formats. Of a video, a video is written for each format, or with
`--frames` a folder of pictures. Folders are visited to their depths. In Python,
`massformer_jax.Segmenter` does the same.
"""

import argparse
import contextlib
import functools
import itertools
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import check_local, check_outputs, write_atomically

if TYPE_CHECKING:
    from massformer_jax.data.ahead import Stopwatch
    from massformer_jax.inference.parts import Click, Rectangle
    from massformer_jax.inference.progress import PredictionProgress
    from massformer_jax.inference.segmenter import Segmenter
    from massformer_jax.inference.stream import Answer
    from massformer_jax.output.outputs import Outputs

# Threads at most. Each may hold a photograph and its labels, 50 MB at 12 megapixels; or the scores,
# 352 MB.
_WRITERS, _WRITERS_OF_SCORES = 8, 2

Names = Mapping[pathlib.Path, pathlib.PurePath]


def __getattr__(name: str) -> Any:
    # `massformer_jax.predict.Segmenter` is an older name of `massformer_jax.Segmenter`.
    if name == "Segmenter":
        from massformer_jax.inference.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _parser() -> argparse.ArgumentParser:
    from massformer_jax.inference.flags import add_part, add_protocol
    from massformer_jax.output.flags import add_formats

    parser = command.parser("massformer_jax.predict", __doc__)
    command.add_network(parser)
    parser.add_argument(
        "--output",
        required=True,
        help="folder for what is written; photographs below a folder get the same folders here",
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out photographs and videos whose files are all there, of whatever checkpoint",
    )
    parser.add_argument(
        "--frames",
        action="store_true",
        help="write the frames of a video as numbered pictures in a folder, not as a video",
    )
    parser.add_argument(
        "--smooth",
        action="store_true",
        help="steady the scores of a video over time, or those of the photographs of a folder, "
        "which then are a sequence in the order of their names",
    )
    add_formats(parser)
    add_protocol(parser)
    add_part(parser)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE_OR_VIDEO_OR_FOLDER",
        help="photographs, videos, or folders of them",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit status: 0 if all is well, 1 if some photographs or videos failed, 2 if all
        failed or an argument is wrong.
    """
    args = _parser().parse_args(argv)
    return command.run(lambda: _predict(args))


def _predict(args: argparse.Namespace) -> int:
    from massformer_jax import compilation
    from massformer_jax.data.ahead import Stopwatch
    from massformer_jax.data.folders import find_photographs
    from massformer_jax.inference.flags import part_of, protocol_of
    from massformer_jax.inference.progress import PredictionProgress
    from massformer_jax.inference.segmenter import Segmenter
    from massformer_jax.output import formats
    from massformer_jax.output.flags import formats_of
    from massformer_jax.output.outputs import Outputs
    from massformer_jax.video import clips

    check_local(*args.images, args.output)
    compilation.keep_compiled(args.compilation_cache)
    output = pathlib.Path(args.output)
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file; name a folder")
    wanted, options = formats_of(args)
    part = part_of(args)
    no_clips = clips.why_not(wanted, frames=args.frames)
    found, remarks = find_photographs(args.images, without=output, no_clips=no_clips)
    names = {x.path: x.name for x in found if not x.is_clip}
    clip_names = {x.path: x.name for x in found if x.is_clip}
    if clip_names and no_clips:
        raise InputError(f"{next(iter(clip_names))}: {no_clips}")
    if args.smooth and args.skip_existing and names:
        raise InputError(
            "--smooth needs all photographs of a sequence, and --skip-existing leaves some out; "
            "pass one of the two"
        )
    if part and (args.smooth or clip_names):
        what = "--smooth" if args.smooth else next(iter(clip_names))
        raise InputError(f"--region and --click are of photographs alone; leave out {what}")
    if args.smooth:
        names = dict(sorted(names.items(), key=_natural))

    def checked(groups):
        outputs = Outputs(output, wanted, groups, options)
        files = [x for name in names.values() for x in outputs.paths(name)]
        of_clips = {
            path: [output / x for x in clips.clip_files(name, wanted, groups, frames=args.frames)]
            for path, name in clip_names.items()
        }
        _check(output, files, names, [*names, *clip_names], skip_existing=args.skip_existing)
        clips.check_clips(of_clips, files, [*names, *clip_names], frames=args.frames)
        return outputs, of_clips

    checked(())  # what is called by classes can be checked when they are known
    once = formats.written_once({name: path for path, name in names.items()}, output, options)
    segmenter = Segmenter.load(
        args.checkpoint,
        step=args.step,
        dtype=args.dtype,
        devices=args.devices,
        **protocol_of(args),
    )
    if part:
        segmenter.check_asked()
    groups = formats.all_groups(segmenter.classes)
    if args.classes is not None:
        groups = formats.parse_groups(args.classes, segmenter.classes)
    outputs, of_clips = checked(groups)
    if args.click is not None and outputs.needs_scores:
        raise InputError("a click has labels, and no scores; leave out the formats of soft edges")
    for remark in remarks:
        command.say_beside_output(remark)
    output.mkdir(parents=True, exist_ok=True)

    def to_do(files: Mapping[pathlib.Path, Iterable[pathlib.Path]]) -> list[pathlib.Path]:
        return [
            path
            for path, written in files.items()
            if not (args.skip_existing and all(file.exists() for file in written))
        ]

    photographs = to_do({path: outputs.paths(name) for path, name in names.items()})
    videos, stopwatch, sizes = to_do(of_clips), Stopwatch(), []
    skipped = len(found) - len(photographs) - len(videos)
    with (
        PredictionProgress(len(photographs) + len(videos), skipped) as progress,
        compilation.waits_said(progress.say),
    ):
        failures = _photographs(
            segmenter,
            photographs,
            names,
            outputs,
            progress,
            stopwatch,
            sizes,
            part=part,
            smooth=args.smooth,
        )
        damaged = 0
        for path in videos:
            try:
                written = clips.predict_clip(
                    segmenter,
                    path,
                    clip_names[path],
                    output,
                    wanted,
                    groups,
                    options,
                    frames=args.frames,
                    smooth=args.smooth,
                    say=progress.say,
                    progress=lambda done, expected, path=path: progress.frame(path, done, expected),
                )
            except InputError as error:
                failures += 1
                progress.failed(path, _advised(path, error))
                continue
            if written.damage is None:
                progress.done(path, of_clips[path], written.frames)
                continue
            damaged += 1
            progress.failed(path, f"{path}: {written.damage}; {written.frames} frames are written")
    for path, content in once.items():
        if failures:
            command.say_beside_output(f"{output / path} is not written, since masks are missing")
        else:
            write_atomically(output / path, content)
    if len(found) > 1:
        command.say_beside_output(progress.summary(stopwatch.seconds))
    if remark := segmenter.size_remark(sizes):
        command.say_beside_output(remark)
    return 2 if failures == len(found) else 1 if failures or damaged else 0


def _photographs(
    segmenter: "Segmenter",
    paths: Sequence[pathlib.Path],
    names: Names,
    outputs: "Outputs",
    progress: "PredictionProgress",
    stopwatch: "Stopwatch",
    sizes: list[tuple[int, int]],
    *,
    part: "Rectangle | Click | None",
    smooth: bool,
) -> int:
    """Segments photographs and writes what is made of them; notes their sizes, returns failures."""
    from massformer_jax.data.ahead import map_ahead
    from massformer_jax.inference.parts import part_answers
    from massformer_jax.inference.stream import TooLargeError

    def write(answer):
        """Writes what is made of one photograph, and tells at once, while others are computed."""
        path, error = answer.source, answer.error
        try:
            if error is None:
                sizes.append(answer.image.shape[:2])
                outputs.write(names[path], answer, segmenter.classes, segmenter.palette)
        except TooLargeError as other:
            error = other  # which gets its path with its advice
        except InputError as other:
            error = InputError(f"{path}: {other}")
        if error is None:
            progress.done(path, outputs.paths(names[path]))
        else:
            progress.failed(path, _advised(path, error))
        return error is not None

    scores = smooth or outputs.needs_scores
    how = functools.partial(part_answers, segmenter, part=part) if part else segmenter.answers
    answers = how(paths, scores=scores, stopwatch=stopwatch)
    if smooth:
        answers = _steadied(answers, labels=not outputs.needs_scores)
    threads = min(_WRITERS_OF_SCORES if scores else _WRITERS, os.cpu_count() or 1)
    return sum(map_ahead(write, answers, threads=threads))


def _steadied(answers: Iterable["Answer"], *, labels: bool) -> Iterator["Answer"]:
    """Yields steadied answers, as labels or as scores; every folder is a sequence of its own."""
    from massformer_jax.video.smoothing import labelled, steadied

    for _, sequence in itertools.groupby(answers, lambda answer: answer.source.parent):
        steady = steadied(sequence)
        yield from map(labelled, steady) if labels else steady


def _natural(item: tuple[pathlib.Path, pathlib.PurePath]) -> tuple:
    """Returns what photographs are sorted by: their folder, and their name with numbers as such."""
    path, name = item
    parts = re.split(r"(\d+)", name.name)
    return path.parent, [(int(x), "") if x.isdecimal() else (-1, x) for x in parts], name.name


def _advised(path: pathlib.Path, error: Exception) -> Exception | str:
    """Returns an error, and if the memory does not suffice, which flag needs less of it."""
    from massformer_jax.inference.stream import TooLargeError

    if not isinstance(error, TooLargeError):
        return error
    return f"{path}: {error}" + (f", with {error.flag}" if error.flag else "")


def _check(
    folder: pathlib.Path,
    files: Sequence[pathlib.Path],
    names: Names,
    inputs: Iterable[pathlib.Path],
    *,
    skip_existing: bool,
) -> None:
    """Checks that neither what is read is written over, nor what people may have made themselves.

    That is a Photoshop file, unless it is left as it is, and what is no mask in the place of one.
    Files of other formats are replaced.

    Raises:
        InputError: something of the kind would be written over.
    """
    from massformer_jax.output.formats import FORMATS

    check_outputs(files, inputs)
    for file in files:
        if file.suffix == ".psd" and file.exists() and not skip_existing:
            raise InputError(
                f"{file} is there and may have been edited; move it, name another --output, or "
                "pass --skip-existing"
            )
    label_maps = {
        folder / file for name in names.values() for file in FORMATS["labels"].files(name, ())
    }
    _check_masks([file for file in files if file in label_maps])


def _check_masks(masks: Sequence[pathlib.Path]) -> None:
    """Checks that what is at the paths of the masks are older masks, and no photographs.

    Raises:
        InputError: one of them is another file.
    """
    from massformer_jax.data.png import PALETTED, PngError, read_header

    for path in masks:
        if not path.exists():
            continue
        with contextlib.suppress(PngError), path.open("rb") as file:
            if read_header(file).colour == PALETTED:
                continue
        raise InputError(f"{path} is there and no mask of this command; name another --output")


if __name__ == "__main__":
    sys.exit(main())
