"""Segments photographs of any size.

    python -m massformer_jax.predict --checkpoint DIR --output DIR [--overlay] IMAGE_OR_FOLDER…

For each photograph an index PNG of the same size is written, in the colours of the classes. In
Python, `massformer_jax.Segmenter` does the same.
"""

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import check_local, check_outputs, composed, some_of, write_atomically
from massformer_jax.inference.protocol import BLENDS, RELEASE_SCALES


def __getattr__(name: str) -> Any:
    # `massformer_jax.predict.Segmenter` is an older name of `massformer_jax.Segmenter`.
    if name == "Segmenter":
        from massformer_jax.inference.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def find_images(inputs: Sequence[str]) -> tuple[list[pathlib.Path], list[str]]:
    """Returns the files among the inputs, and the photographs directly inside the folders, sorted.

    Hidden files in folders are passed over, such as those that a Mac leaves.

    Args:
        inputs: paths of files and folders.

    Returns:
        The photographs, and a line for each folder that holds something else, which names it.

    Raises:
        InputError: a path does not exist, a folder holds no photograph, or two photographs would
            be written to the same mask.
    """
    from massformer_jax.data.photographs import PHOTOGRAPH_SUFFIXES

    found, remarks, known = [], [], ", ".join(sorted(PHOTOGRAPH_SUFFIXES))
    for name in inputs:
        path = pathlib.Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
            # A link to nothing is kept: it will fail by its name.
            images = [
                p
                for p in inside
                if p.suffix.lower() in PHOTOGRAPH_SUFFIXES and (p.is_file() or not p.exists())
            ]
            others = some_of(sorted({p.name for p in inside} - {p.name for p in images}), most=20)
            if not images:
                there = f", but {others}" if others else ""
                raise InputError(f"{path} holds no photograph ({known}){there}")
            if others:
                remarks.append(f"{path}: left out {others}; photographs end in {known}")
            found += images
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path} does not exist; pass photographs or folders of them")
    by_stem = {}
    for path in dict.fromkeys(found):
        other = by_stem.setdefault(composed(path.stem), path)
        if other != path:
            raise InputError(
                f"{other} and {path} would both become {path.stem}.png; predict them apart"
            )
    return list(by_stem.values()), remarks


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("massformer_jax.predict", __doc__)
    parser.add_argument(
        "--checkpoint", required=True, help="workdir of a training run, or converted weights"
    )
    parser.add_argument(
        "--step", type=int, help="take the weights after this step (default: the best, or the last)"
    )
    parser.add_argument("--output", required=True, help="folder for the masks (index PNG)")
    parser.add_argument("--overlay", action="store_true", help="also write coloured pictures")
    _add_protocol(parser)
    parser.add_argument(
        "--dtype",
        default="float32",
        help="what the network computes in: float32, tf32 or bfloat16; on accelerators tf32 is "
        "faster than float32, and bfloat16 is faster still and takes half the memory",
    )
    parser.add_argument(
        "--devices", type=int, default=1, help="number of devices that share each photograph's rows"
    )
    command.add_compilation_cache(parser)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE_OR_FOLDER", help="photographs, or folders of them"
    )
    return parser


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
    from massformer_jax.data.images import encode_mask
    from massformer_jax.data.photographs import read_photograph
    from massformer_jax.inference.segmenter import Segmenter, TooLargeError
    from massformer_jax.report.overlay import overlay_jpeg

    check_local(*args.images, args.output)
    compilation.keep_compiled(args.compilation_cache)
    images, remarks = find_images(args.images)
    output = pathlib.Path(args.output)
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file; name a folder")
    masks = [output / f"{path.stem}.png" for path in images]
    overlays = [output / f"{path.stem}_overlay.jpg" for path in images if args.overlay]
    check_outputs([*masks, *overlays], images)
    _check_masks(masks)
    segmenter = Segmenter.load(
        args.checkpoint,
        step=args.step,
        dtype=args.dtype,
        devices=args.devices,
        **_protocol(args),
    )
    for remark in remarks:
        command.say_beside_output(remark)
    output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for i, (path, mask) in enumerate(zip(images, masks, strict=True)):
        try:
            image = read_photograph(path)
            with compilation.waits_said():
                labels = segmenter.predict(image)
        except TooLargeError as error:
            command.print_error(f"{path}: {error}, with --window")
            failed += 1
            continue
        except MemoryError:
            command.print_error(f"{path}: there is not the memory to decode it")
            failed += 1
            continue
        except (InputError, OSError) as error:
            command.print_error(error)
            failed += 1
            continue
        write_atomically(mask, encode_mask(labels, segmenter.palette))
        if args.overlay:
            picture = overlay_jpeg(image, labels, palette=segmenter.palette)
            write_atomically(overlays[i], picture)
        print(f"{path} -> {mask}")
    return (2 if failed == len(images) else 1) if failed else 0


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
