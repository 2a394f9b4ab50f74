"""Scores label maps of any method: it compares PNG files, without a network or a checkpoint.

    python -m massformer_jax.evaluate_files --predictions DIR --labels DIR [--output FILE.json]
        [--report FILE.html [--images DIR]]

For each PNG in the folder of `--labels` there has to be one with the same path and size in the
folder of `--predictions`. The value of a pixel is its class, in grey or as an index into a palette.
The report is a page with tables, plots and the worst images. With `--images` it also shows the
photographs; their paths are those of the label maps except for the suffix.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import check_local

if TYPE_CHECKING:
    from massformer_jax.classes import Class


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("massformer_jax.evaluate_files", __doc__)
    parser.add_argument("--predictions", required=True, help="folder of PNG files to score")
    parser.add_argument("--labels", required=True, help="folder of PNG files with the truth")
    parser.add_argument("--output", help="JSON file to write all scores to")
    parser.add_argument(
        "--classes",
        type=_number_or_list,
        default=7,
        help="number of classes, or a file that lists their names and colours (.txt, .json, .xml)",
    )
    parser.add_argument(
        "--boundary-ratio",
        type=float,
        default=0.001,
        help="width of the boundaries of BIoU as a share of the diagonal: the release has 0.001, "
        "the paper of Boundary IoU 0.02",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        action="append",
        help="a tolerance of BF1, a share of the diagonal if below 1, else pixels; for several "
        "tolerances, at most six, give the flag several times (default: 0.0075, 0.001 and 1)",
    )
    parser.add_argument(
        "--published",
        choices=("val", "test"),
        help="show the scores among the published ones, if the label maps are MaSS13K's",
    )
    parser.add_argument("--report", help="HTML file to write, a page with the worst images")
    parser.add_argument("--images", help="folder of the photographs, for the report")
    parser.add_argument(
        "--name", help="name of the method in tables (default: the folder of the predictions)"
    )
    command.add_compilation_cache(parser)
    return parser


def _number_or_list(text: str) -> int | pathlib.Path:
    return int(text) if text.lstrip("-").isdecimal() else pathlib.Path(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, or 2 if nothing was scored."""
    args = _parser().parse_args(argv)
    return command.run(lambda: _evaluate(args))


def _evaluate(args: argparse.Namespace) -> None:
    from massformer_jax import compilation
    from massformer_jax.classes import IGNORE, names_of, palette_of
    from massformer_jax.data.images import mask_size
    from massformer_jax.evaluation.label_map_files import evaluate_files, find_pairs
    from massformer_jax.evaluation.provenance import Dataset, provenance, provenance_text
    from massformer_jax.files import check_outputs, files_below, is_png, some_of
    from massformer_jax.metrics import published
    from massformer_jax.metrics.counts import TOLERANCES
    from massformer_jax.metrics.scores import (
        evaluation_summary,
        format_table,
        ignored_share,
        ignored_text,
        nothing_labelled,
        percent,
        tolerance_name,
        write_json,
    )
    from massformer_jax.report.picture_files import find_photographs

    check_local(args.predictions, args.labels, args.images, args.output, args.report)
    compilation.keep_compiled(args.compilation_cache)
    tolerances = tuple(args.tolerance or TOLERANCES)
    name = args.name or pathlib.Path(args.predictions).resolve().name
    classes = _classes(args.classes)
    _check_settings(args, tolerances)
    photographs = find_photographs(args.images, args.labels) if args.images else {}
    pairs, _ = find_pairs(args.predictions, args.labels)
    check_outputs(
        [path for path in (args.output, args.report) if path],
        [
            *photographs.values(),
            *(path for pair in pairs for path in pair[1:]),
            *([args.classes] if classes else []),
        ],
    )
    names, pool = evaluate_files(
        args.predictions,
        args.labels,
        num_classes=len(classes) if classes else args.classes,
        classes=classes,
        boundary_ratio=args.boundary_ratio,
        tolerances=tolerances,
    )
    summary = evaluation_summary(
        names, pool, boundary_ratio=args.boundary_ratio, tolerances=tolerances
    )
    if classes:
        summary |= {"classes": list(names_of(classes)), "palette": palette_of(classes)}
    if nothing_labelled(summary):
        raise InputError(
            f"nothing is labelled in {args.labels}: all pixels of the {len(names)} label maps are "
            f"{IGNORE}, which is ignored; name label maps with classes"
        )
    sizes = [mask_size(pair.label) for pair in pairs]
    summary["ignored_share"] = ignored_share(pool, sizes)
    summary["provenance"] = provenance(
        Dataset(str(pathlib.Path(args.labels).resolve()), split=args.published),
        names,
        sizes,
        predictions=str(pathlib.Path(args.predictions).resolve()),
    )
    if args.output:
        write_json(args.output, summary)
    if args.report:
        _write_report(args, name, summary, photographs, classes)
    print(format_table(summary, summary["classes"]))
    for tolerance in map(tolerance_name, tolerances):
        images, pooled = summary[f"BF1_images@{tolerance}"], summary[f"mBF1_pooled@{tolerance}"]
        print(
            f"BF1@{tolerance} image by image {percent(images)}, of all contours {percent(pooled)}"
        )
    print(f"{len(names)} images of {name}; {ignored_text(summary['ignored_share'])}")
    print(provenance_text(summary["provenance"]))
    for folder in (args.predictions, args.labels):
        others = [str(path) for path in files_below(pathlib.Path(folder)) if not is_png(path)]
        if others:
            named = some_of(others, most=20)
            command.say_beside_output(f"{folder}: left out {named}; only PNG is read")
    if args.published:
        split, reason = published.comparable(summary)
        print(f"\n{published.table(name, summary, split) if split else reason}")
        print(f"\n{published.markdown_row(name, summary)}")


def _write_report(
    args: argparse.Namespace,
    name: str,
    summary: dict[str, Any],
    photographs: dict,
    classes: "Sequence[Class]",
) -> None:
    from massformer_jax.files import write_atomically
    from massformer_jax.report.evaluation import evaluation_page
    from massformer_jax.report.picture_files import read_pictures
    from massformer_jax.report.worst import ranked_scores, score_table, worst

    names, count = list(summary["images"]), len(summary["classes"])
    table = score_table(summary["images"], ranked_scores(summary), count)
    pictures = read_pictures(
        [names[i] for i in worst(table)],
        args.labels,
        {"": args.predictions},
        photographs,
        boundary_ratio=args.boundary_ratio,
        num_classes=count,
        classes=classes,
    )
    page = evaluation_page(name, summary, pictures, among_published=bool(args.published))
    write_atomically(args.report, page.encode())


def _classes(given: int | pathlib.Path) -> "tuple[Class, ...]":
    """Returns the classes of a list; nothing if only their number is given."""
    from massformer_jax.data_builders.folder.class_lists import read_classes

    return () if isinstance(given, int) else read_classes(given)[0]


def _check_settings(args: argparse.Namespace, tolerances: Sequence[float]) -> None:
    from massformer_jax.classes import IGNORE
    from massformer_jax.metrics.counts import BOUNDARY_RATIO, MOST_TOLERANCES

    if isinstance(args.classes, int) and not 1 <= args.classes <= IGNORE:
        raise InputError(f"--classes {args.classes}: 1..{IGNORE} can be told apart in a PNG")
    if not 0 < args.boundary_ratio <= 0.1:
        raise InputError(f"--boundary-ratio {args.boundary_ratio}: a share up to 0.1")
    if len(tolerances) > MOST_TOLERANCES:
        raise InputError(
            f"--tolerance is given {len(tolerances)} times; at most {MOST_TOLERANCES} are counted "
            "at once: leave some out, and score again with those"
        )
    for tolerance in tolerances:
        if not (0 <= tolerance <= 0.05 or 1 <= tolerance <= 256):
            raise InputError(f"--tolerance {tolerance}: a share up to 0.05, or 1..256 pixels")
    if args.images and not args.report:
        raise InputError("--images is for the pictures of a report: add --report FILE.html")
    if args.published and args.boundary_ratio != BOUNDARY_RATIO:
        raise InputError("--published compares boundaries of 0.001: leave --boundary-ratio out")


if __name__ == "__main__":
    sys.exit(main())
