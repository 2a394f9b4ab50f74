"""Writes pseudo labels: of a model, or of anybody's masks, alone or painted over exact labels.

    massformer pseudo --checkpoint RUN --output OUT --confidence 0.9 PHOTO_OR_FOLDER…
    massformer pseudo --checkpoint RUN --classes car=7 --onto LABELS --output OUT PHOTO_OR_FOLDER…
    massformer pseudo --masks 7=MASKS --onto LABELS --output OUT

Each label map is an 8-bit grey PNG of the photograph's size, under its name. A pixel gets the label
of a class that is at least as probable as the confidence. Elsewhere it is unknown, 255; with
--onto it keeps its exact label where all these classes are together at most as probable as 1 - the
confidence, and is unknown only in between. Where exact labels counted the new classes to label 0,
--split-from 0 keeps all other exact labels, which are known better than any mask. Masks are PNGs
whose grey values are the probability of one class, from 0 to 255, under the names of the exact
labels: of SAM, or of any other program.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import check_local, check_outputs, pngs_below, some_of, write_atomically

if TYPE_CHECKING:
    import numpy as np

    from massformer_jax.inference.segmenter import Segmenter


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit status: 0 if all is well, 1 if some photographs failed, 2 if all failed or an
        argument is wrong.
    """
    from massformer_jax.inference.flags import add_protocol

    parser = command.parser("massformer_jax.output.pseudo", __doc__)
    command.add_network(parser, required=False)
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder to write into")
    parser.add_argument(
        "--confidence", type=float, default=0.9, help="probability from which a pixel is labelled"
    )
    parser.add_argument(
        "--classes",
        metavar="NAME[=LABEL],…",
        help="classes of the checkpoint, and which labels they get (default: all, with their own)",
    )
    parser.add_argument(
        "--masks",
        action="append",
        default=[],
        metavar="LABEL=FOLDER",
        help="masks of a class, instead of a checkpoint; may be given for several classes",
    )
    parser.add_argument("--onto", type=pathlib.Path, help="folder of exact label maps")
    parser.add_argument(
        "--split-from",
        type=int,
        metavar="LABEL",
        help="paint over this exact label alone, to which the new classes were counted",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="write over label maps of the output that are there, which people may have corrected",
    )
    add_protocol(parser)
    parser.add_argument("images", nargs="*", metavar="IMAGE_OR_FOLDER", help="photographs")
    args = parser.parse_args(argv)
    return command.run(lambda: _write(args))


def _write(args: argparse.Namespace) -> int:
    check_local(*args.images, args.output, args.onto)
    if not 0 < args.confidence <= 1:
        raise InputError(f"--confidence is {args.confidence}; use more than 0, and at most 1")
    if args.onto is not None and not args.onto.is_dir():
        raise InputError(f"--onto {args.onto} is no folder; name the folder of exact label maps")
    if args.split_from is not None and args.onto is None:
        raise InputError("--split-from needs --onto, the exact labels that it is one of")
    if args.split_from is not None and not 0 <= args.split_from <= 254:
        raise InputError(f"--split-from is {args.split_from}; labels are 0 to 254")
    if args.masks:
        if args.checkpoint or args.images or args.classes:
            raise InputError("--masks needs no checkpoint, classes or photographs; leave them out")
        if args.onto is None:
            raise InputError("--masks needs --onto, the exact labels that they are painted over")
        return _of_masks(args)
    if not args.checkpoint or not args.images:
        raise InputError("name a --checkpoint and photographs, or --masks and --onto")
    return _of_checkpoint(args)


def _of_masks(args: argparse.Namespace) -> int:
    """Paints masks over exact labels; returns the exit status."""
    import numpy as np

    from massformer_jax.data.images import decode_mask
    from massformer_jax.output.pseudo_labels import encode_grey, pseudo_labels

    folders = {}
    for label, folder in map(_mask_folder, args.masks):
        if label in folders:
            raise InputError(f"--masks names {label} twice; put its masks into one folder")
        folders[label] = folder
    masks = {label: pngs_below(folder) for label, folder in folders.items()}
    exact = pngs_below(args.onto)
    if not exact:
        raise InputError(f"--onto {args.onto} holds no PNG; name the folder of exact label maps")
    for label, found in masks.items():
        if others := sorted(found.keys() - exact.keys()):
            raise InputError(
                f"{folders[label]}: {some_of(others)} without a label map of the same name in "
                f"{args.onto}"
            )
    outputs = {name: args.output / name for name in exact}
    read = [path for found in (exact, *masks.values()) for path in found.values()]
    check_outputs(outputs.values(), read)
    _check_free(outputs.values(), args)
    for name, path in exact.items():
        labels = decode_mask(path)
        there = [label for label in masks if name in masks[label]]
        if there:
            probabilities = [_probability(masks[label][name], labels.shape) for label in there]
            stacked = np.stack(probabilities, -1)
            labels = pseudo_labels(stacked, there, args.confidence, labels, args.split_from)
        write_atomically(outputs[name], encode_grey(labels))
    print(f"wrote {len(exact)} label maps to {args.output}")
    for label, found in masks.items():
        if missing := sorted(exact.keys() - found.keys()):
            print(
                f"{len(missing)} without a mask of {label}, which was not annotated in them: "
                f"{some_of(missing)}; say so with labels.unannotated"
            )
    return 0


def _check_free(outputs: Iterable[pathlib.Path], args: argparse.Namespace) -> None:
    """Raises InputError if label maps are there already and are not to be written over."""
    if not args.overwrite and (there := next((x for x in outputs if x.exists()), None)):
        raise InputError(f"{there} is there already; name another --output, or pass --overwrite")


def _mask_folder(text: str) -> tuple[int, pathlib.Path]:
    """Returns the label and the folder that LABEL=FOLDER names."""
    match = re.fullmatch(r"(\d+)=(.+)", text)
    if not match or int(match[1]) > 254 or not pathlib.Path(match[2]).is_dir():
        raise InputError(f"--masks {text}: use LABEL=FOLDER, a label of 0 to 254 and a folder")
    return int(match[1]), pathlib.Path(match[2])


def _probability(path: pathlib.Path, shape: tuple[int, int]) -> "np.ndarray":
    """Returns the probability that a mask gives every pixel, float32 [h, w]."""
    import numpy as np

    from massformer_jax.data.images import decode_mask

    mask = decode_mask(path)
    if mask.max() == 1:
        raise InputError(
            f"{path}: the mask holds 0 and 1, which would be hardly probable; save 0 and 255"
        )
    if mask.shape != shape:
        sizes = (f"{w}x{h}" for h, w in (mask.shape, shape))
        raise InputError("{}: the mask is {}, the label map {}".format(path, *sizes))
    return mask.astype(np.float32) / 255


def _of_checkpoint(args: argparse.Namespace) -> int:
    """Writes what a model is sure of; returns the exit status."""
    from massformer_jax import compilation
    from massformer_jax.data.folders import find_photographs
    from massformer_jax.data.images import decode_mask
    from massformer_jax.inference.flags import protocol_of
    from massformer_jax.inference.progress import PredictionProgress
    from massformer_jax.inference.segmenter import Segmenter
    from massformer_jax.output.pseudo_labels import encode_grey, pseudo_labels

    compilation.keep_compiled(args.compilation_cache)
    no_clips = "pseudo labels are of photographs"
    found, remarks = find_photographs(args.images, without=args.output, no_clips=no_clips)
    for remark in remarks:
        command.say_beside_output(remark)
    names = {x.path: x.name.with_suffix(".png") for x in found}
    exact = {path: args.onto / name for path, name in names.items()} if args.onto else {}
    for path, labels in exact.items():
        if not labels.is_file():
            raise InputError(f"{path}: there is no label map {labels}; see --onto")
    outputs = [args.output / name for name in names.values()]
    check_outputs(outputs, [*names, *exact.values()])
    _check_free(outputs, args)
    segmenter = Segmenter.load(
        args.checkpoint,
        step=args.step,
        dtype=args.dtype,
        devices=args.devices,
        **protocol_of(args),
    )
    labels_of = _labels_of(args.classes, segmenter)
    failures = 0
    with (
        PredictionProgress(len(names), 0) as progress,
        compilation.waits_said(progress.say),
    ):
        for answer in segmenter.answers(list(names), scores=True):
            path = answer.source
            if answer.error is not None:
                failures += 1
                progress.failed(path, answer.error)
                continue
            try:
                scores, under = answer.answer, decode_mask(exact[path]) if exact else None
            except InputError as error:
                failures += 1
                progress.failed(path, error)
                continue
            if under is not None and under.shape != scores.shape[:2]:
                failures += 1
                progress.failed(path, f"{path}: {exact[path]} is of another size")
                continue
            probabilities = scores / scores.sum(-1, keepdims=True).clip(1e-12)
            chosen = probabilities[..., list(labels_of)]
            values = list(labels_of.values())
            labels = pseudo_labels(chosen, values, args.confidence, under, args.split_from)
            target = args.output / names[path]
            write_atomically(target, encode_grey(labels))
            progress.done(path, (target,))
    return 2 if failures == len(names) else 1 if failures else 0


def _labels_of(text: str | None, segmenter: "Segmenter") -> Mapping[int, int]:
    """Returns which labels classes get, by their labels in the checkpoint."""
    from massformer_jax.classes import label_of

    if text is None:
        return {label: label for label in range(len(segmenter.classes))}
    found = {}
    for part in text.split(","):
        name, _, label = part.rpartition("=") if re.search(r"=\d+$", part) else (part, "", "")
        own = label_of(name.strip(), segmenter.classes)
        if own in found:
            raise InputError(f"--classes {text}: {name.strip()} is named twice")
        found[own] = int(label or own)
        if found[own] > 254:
            raise InputError(f"--classes {part}: labels are 0 to 254")
    return found


if __name__ == "__main__":
    sys.exit(main())
