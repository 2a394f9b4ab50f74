"""Segments photographs of any size.

    python -m massformer_jax.predict --checkpoint DIR --output DIR IMAGE_OR_FOLDER…

For each photograph an index PNG of the same size is written, in the colours of the classes; the
flag `--write` names other formats. Folders are visited to their depths. In Python,
`massformer_jax.Segmenter` does the same.
"""

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import check_local, check_outputs, write_atomically
from massformer_jax.inference.protocol import BLENDS, RELEASE_SCALES

if TYPE_CHECKING:
    from massformer_jax.output.formats import Options
    from massformer_jax.output.outputs import Outputs

_WRITERS = 2  # threads; each may hold scores, 352 MB at 12 megapixels


def __getattr__(name: str) -> Any:
    # `massformer_jax.predict.Segmenter` is an older name of `massformer_jax.Segmenter`.
    if name == "Segmenter":
        from massformer_jax.inference.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _parser() -> argparse.ArgumentParser:
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
        help="leave out photographs of which all files are there, of whatever checkpoint",
    )
    _add_formats(parser)
    _add_protocol(parser)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE_OR_FOLDER", help="photographs, or folders of them"
    )
    return parser


def _add_formats(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that tell what is written of each photograph."""
    from massformer_jax.output.formats import DEFAULT, FORMATS

    about = "\n".join(f"  {name:14}{form.about}" for name, form in FORMATS.items())
    group = parser.add_argument_group(
        "what is written of each photograph", f"{about}\nMore about them is in docs/outputs.md."
    )
    group.add_argument(
        "--write", default=",".join(DEFAULT), metavar="A,B,…", help="names of these formats"
    )
    group.add_argument(
        "--classes",
        metavar="A,B+C,…",
        help="classes that are written; several count as one if joined by +: sky,person+tree "
        "(default: each class)",
    )
    group.add_argument(
        "--opacity", type=float, default=0.5, help="of the colours in overlays, from 0 to 1"
    )
    group.add_argument("--legend", action="store_true", help="name the colours below overlays")
    group.add_argument(
        "--alpha-bits", type=int, default=8, choices=(8, 16), help="bits of a pixel of alpha"
    )
    group.add_argument(
        "--transforms",
        type=pathlib.Path,
        metavar="transforms.json",
        help="nerfstudio's file, of which a copy that names the masks is written",
    )


def _formats(args: argparse.Namespace) -> tuple[tuple[str, ...], "Options"]:
    """Returns the names of the formats that are written, and what is adjusted in them.

    Raises:
        InputError: they do not fit together, or with the classes.
    """
    from massformer_jax.output.formats import Options, check_formats, parse_formats

    options = Options(
        opacity=args.opacity,
        legend=args.legend,
        alpha_bits=args.alpha_bits,
        transforms=args.transforms,
    )
    wanted = parse_formats(args.write)
    check_formats(wanted, args.classes, options)
    return wanted, options


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that tell how photographs are shown to the network."""
    group = parser.add_argument_group("how photographs are shown to the network")
    group.add_argument(
        "--resolution",
        default="native",
        help="size: native (as it is), release (as large as fits into 4096x3072), or HxW (as large "
        "as fits into H rows and W columns)",
    )
    group.add_argument(
        "--window",
        default="",
        metavar="HxW",
        help="show windows of H rows and W columns (default: the whole photograph at once)",
    )
    group.add_argument(
        "--stride",
        default="",
        metavar="HxW",
        help="distance from one window to the next (default: two thirds of the window)",
    )
    group.add_argument(
        "--blend",
        default="average",
        choices=BLENDS,
        help="how scores are joined where windows overlap: average, as released, or smooth, so "
        "that windows fade into each other",
    )
    released = ",".join(f"{scale:g}" for scale in RELEASE_SCALES)
    group.add_argument(
        "--tta",
        action="store_true",
        help=f"test-time augmentation as released: --scales {released} --flip",
    )
    group.add_argument(
        "--scales", metavar="A,B,…", help="show it at these multiples of its size (default: 1)"
    )
    group.add_argument("--flip", action="store_true", help="show it also mirrored left and right")


def _protocol(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the keyword arguments of `Protocol` that the flags stand for.

    Raises:
        InputError: the scales are not numbers.
    """
    scales = RELEASE_SCALES if args.tta else (1.0,)
    if args.scales is not None:
        try:
            scales = tuple(float(scale) for scale in args.scales.split(","))
        except ValueError as error:
            raise InputError(f"--scales is {args.scales!r}; use numbers: 0.5,1,1.5") from error
    return {
        "resolution": args.resolution,
        "window": args.window,
        "stride": args.stride,
        "blend": args.blend,
        "scales": scales,
        "flip": args.flip or args.tta,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit status: 0 if all is well, 1 if some photographs failed, 2 if all photographs failed
        or an argument is wrong.
    """
    args = _parser().parse_args(argv)
    return command.run(lambda: _predict(args))


def _predict(args: argparse.Namespace) -> int:
    from massformer_jax import compilation
    from massformer_jax.data.ahead import Stopwatch, map_ahead
    from massformer_jax.data.folders import find_photographs
    from massformer_jax.inference.progress import PredictionProgress
    from massformer_jax.inference.segmenter import Segmenter, TooLargeError
    from massformer_jax.output import formats
    from massformer_jax.output.outputs import Outputs

    check_local(*args.images, args.output)
    compilation.keep_compiled(args.compilation_cache)
    output = pathlib.Path(args.output)
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file; name a folder")
    wanted, options = _formats(args)
    photographs, remarks = find_photographs(args.images, without=output)
    names = {photograph.path: photograph.name for photograph in photographs}
    # What is called by classes can be checked when they are known.
    _check(output, Outputs(output, wanted, (), options), names)
    once = formats.written_once({name: path for path, name in names.items()}, output, options)
    segmenter = Segmenter.load(
        args.checkpoint,
        step=args.step,
        dtype=args.dtype,
        devices=args.devices,
        **_protocol(args),
    )
    groups = formats.all_groups(segmenter.classes)
    if args.classes is not None:
        groups = formats.parse_groups(args.classes, segmenter.classes)
    outputs = Outputs(output, wanted, groups, options)
    _check(output, outputs, names)
    for remark in remarks:
        command.say_beside_output(remark)
    output.mkdir(parents=True, exist_ok=True)
    to_do = [
        path
        for path, name in names.items()
        if not (args.skip_existing and all(file.exists() for file in outputs.paths(name)))
    ]

    def write(answer):
        try:
            if answer.error is None:
                sizes.append(answer.image.shape[:2])
                outputs.write(names[answer.source], answer, segmenter.classes, segmenter.palette)
        except InputError as error:
            return answer.source, InputError(f"{answer.source}: {error}")
        return answer.source, answer.error

    stopwatch, failures, sizes = Stopwatch(), 0, []
    with (
        PredictionProgress(len(to_do), len(names) - len(to_do)) as progress,
        compilation.waits_said(progress.say),
    ):
        answers = segmenter.answers(to_do, scores=outputs.needs_scores, stopwatch=stopwatch)
        for path, error in map_ahead(write, answers, threads=_WRITERS):
            if error is None:
                progress.done(path, outputs.paths(names[path]))
                continue
            failures += 1
            too_large = isinstance(error, TooLargeError)
            progress.failed(path, f"{path}: {error}, with --window" if too_large else error)
    for path, content in once.items():
        if failures:
            command.say_beside_output(f"{output / path} is not written, since masks are missing")
        else:
            write_atomically(output / path, content)
    if len(names) > 1:
        command.say_beside_output(progress.summary(stopwatch.seconds))
    if remark := segmenter.size_remark(sizes):
        command.say_beside_output(remark)
    return (2 if failures == len(names) else 1) if failures else 0


def _check(
    folder: pathlib.Path, outputs: "Outputs", names: Mapping[pathlib.Path, pathlib.PurePath]
) -> None:
    """Checks that nothing but older files of this command is written over.

    Raises:
        InputError: a photograph would be written over, or what is no mask is in the place of one.
    """
    from massformer_jax.output.formats import FORMATS

    files = [file for name in names.values() for file in outputs.paths(name)]
    check_outputs(files, names)
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
