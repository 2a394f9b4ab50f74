"""Scores label maps of any method: PNG files against PNG files, no network, no checkpoint.

    python -m massformer_jax.evaluate_files --predictions DIR --labels DIR [--output FILE.json]
        [--report FILE.html [--images DIR]]

Every PNG below DIR of `--labels` needs one of the same path and size below DIR of `--predictions`,
with the class of a pixel as its value (grey, or the indices of a palette). The report is a page of
tables, plots and the worst images; with `--images` it shows the photographs, which have the paths
of the label maps but for the suffix.
"""

import argparse
import collections
import concurrent.futures
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from massformer_jax import compilation, published
from massformer_jax.data.classes import IGNORE, class_names
from massformer_jax.data.images import decode_mask
from massformer_jax.errors import InputError
from massformer_jax.files import write_whole
from massformer_jax.metrics import (
    BOUNDARY_RATIO,
    TOLERANCES,
    Counts,
    add_counts,
    image_counts,
    zero_counts,
)
from massformer_jax.report.evaluation import evaluation_page
from massformer_jax.report.picture_files import find_photographs, read_pictures
from massformer_jax.report.worst import ranked_scores, score_table, worst
from massformer_jax.scores import (
    format_table,
    image_scores,
    percent,
    summarize,
    tolerance_name,
    write_json,
)


class Pair(NamedTuple):
    """The files of one image; `name` is their path below the two folders."""

    name: str
    prediction: pathlib.Path
    label: pathlib.Path


def find_pairs(
    predictions: str | os.PathLike, labels: str | os.PathLike
) -> tuple[list[Pair], list[str]]:
    """The PNG files that both folders have, by name, and what is wrong with the others.

    Hidden files are passed over, as are files that are no PNG.

    Raises:
        InputError: a folder is missing, or there is no PNG in the one with the labels.
    """
    found = []
    for folder in (pathlib.Path(predictions), pathlib.Path(labels)):
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; name one with a PNG an image")
        paths = (path.relative_to(folder) for path in folder.rglob("*"))
        visible = (path for path in paths if not any(part[0] == "." for part in path.parts))
        found.append({str(p): folder / p for p in visible if p.suffix.lower() == ".png"})
    ours, truths = found
    if not truths:
        raise InputError(f"{labels} holds no PNG; --labels names the folder of the label maps")
    problems = [f"{name}: no prediction" for name in truths.keys() - ours.keys()]
    problems += [f"{name}: a prediction, but no label map" for name in ours.keys() - truths.keys()]
    pairs = [Pair(name, ours[name], truths[name]) for name in sorted(ours.keys() & truths.keys())]
    return pairs, sorted(problems)


def read_pair(pair: Pair, num_classes: int) -> tuple[list[UInt8[np.ndarray, "h w"]], list[str]]:
    """Prediction and label map, or what is wrong with their files."""
    maps, problems = [], []
    for path, allowed in ((pair.prediction, ()), (pair.label, (IGNORE,))):
        try:
            labels = decode_mask(path)
        except InputError as error:
            problems.append(str(error))
            continue
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
            continue
        maps.append(labels)
        pixels = np.bincount(labels.ravel(), minlength=256)
        wrong = [v for v in np.flatnonzero(pixels) if v >= num_classes and v not in allowed]
        if wrong:
            known = " or ".join([f"0..{num_classes - 1}", *map(str, allowed)])
            values = ", ".join(f"{v} ({pixels[v]} pixels)" for v in wrong[:3])
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            problems.append(f"{path}: holds {values}{more}, not {known}")
    if len(maps) == 2 and maps[0].shape != maps[1].shape:
        (h, w), (i, j) = (x.shape for x in maps)
        problems.append(
            f"{pair.name}: the prediction has {h} rows of {w}, the label map {i} of {j}"
        )
    return maps, problems


def evaluate_files(
    predictions: str | os.PathLike,
    labels: str | os.PathLike,
    *,
    num_classes: int = 7,
    boundary_ratio: float = BOUNDARY_RATIO,
    tolerances: tuple[float, ...] = TOLERANCES,
) -> tuple[list[str], Counts]:
    """Names and counts (int64 [n ...]) of all images, in the same order.

    Files are decoded on all cores, ahead of the counting, and read once: a wrong file found late
    stops the counting, the rest is still checked.

    Args:
        predictions: folder of the predictions.
        labels: folder of the label maps.
        num_classes: number of classes k.
        boundary_ratio: see `metrics.image_counts`.
        tolerances: likewise.

    Raises:
        InputError: some files cannot be scored; names all of them, a line each.
    """
    pairs, problems = find_pairs(predictions, labels)
    pool = zero_counts(num_classes, len(tolerances))
    waiting = None
    for maps, found in _read_ahead(pairs, num_classes):
        problems += found
        if problems:
            continue
        counts = image_counts(
            *maps, num_classes=num_classes, boundary_ratio=boundary_ratio, tolerances=tolerances
        )
        if waiting is not None:
            pool = add_counts(pool, waiting)
        waiting = counts
    if problems:
        raise InputError(
            f"nothing was scored; {len(problems)} things to mend:\n  " + "\n  ".join(problems)
        )
    return [pair.name for pair in pairs], add_counts(pool, waiting)


def _read_ahead(
    pairs: list[Pair], num_classes: int
) -> Iterator[tuple[list[np.ndarray], list[str]]]:
    cores = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(cores) as threads:
        # No more than these are held: a pair of 12 megapixels is 25 MB.
        pending = collections.deque()
        for pair in pairs:
            pending.append(threads.submit(read_pair, pair, num_classes))
            if len(pending) > cores:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def report_of(
    names: Sequence[str], pool: Counts, *, boundary_ratio: float, tolerances: Sequence[float]
) -> dict[str, Any]:
    """What the JSON holds: settings, scores, confusion matrix, and the scores of every image."""
    return {
        "classes": list(class_names(pool.confusion.shape[-1])),
        "boundary_ratio": boundary_ratio,
        "tolerances": list(tolerances),
        **summarize(pool, tolerances),
        "confusion": pool.confusion.sum(0).tolist(),  # by truth, then by prediction
        "images": {name: image_scores(pool, i, tolerances) for i, name in enumerate(names)},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 2 if nothing was scored."""
    parser = argparse.ArgumentParser(
        prog="python -m massformer_jax.evaluate_files",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--predictions", required=True, help="folder of PNG files to score")
    parser.add_argument("--labels", required=True, help="folder of PNG files with the truth")
    parser.add_argument("--output", help="JSON file to write all scores to")
    parser.add_argument("--classes", type=int, default=7, help="how many there are (7)")
    parser.add_argument(
        "--boundary-ratio",
        type=float,
        default=BOUNDARY_RATIO,
        help="of BIoU, share of the diagonal: 0.001 (as released), 0.02 (original Boundary IoU)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        action="append",
        help="of BF1, again for each: share of the diagonal, or pixels from 1 on (0.0075, 0.001)",
    )
    parser.add_argument(
        "--published", choices=published.SPLITS, help="show the run among the paper's results"
    )
    parser.add_argument("--report", help="HTML file to write, a page with the worst images")
    parser.add_argument("--images", help="folder of the photographs, for the report")
    parser.add_argument("--name", help="of the method in tables (the folder of the predictions)")
    compilation.add_flag(parser)
    args = parser.parse_args(argv)
    compilation.keep_compiled(args.compilation_cache)
    tolerances = tuple(args.tolerance or TOLERANCES)
    name = args.name or pathlib.Path(args.predictions).resolve().name
    try:
        _check_settings(args, tolerances)
        photographs = find_photographs(args.images, args.labels) if args.images else {}
        names, pool = evaluate_files(
            args.predictions,
            args.labels,
            num_classes=args.classes,
            boundary_ratio=args.boundary_ratio,
            tolerances=tolerances,
        )
        summary = report_of(names, pool, boundary_ratio=args.boundary_ratio, tolerances=tolerances)
        if args.output:
            write_json(args.output, summary)
        if args.report:
            _write_report(args, name, summary, photographs)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(format_table(summary, summary["classes"]))
    for tolerance in map(tolerance_name, tolerances):
        images, pooled = summary[f"BF1_images@{tolerance}"], summary[f"mBF1_pooled@{tolerance}"]
        print(
            f"BF1@{tolerance} image by image {percent(images)}, of all contours {percent(pooled)}"
        )
    print(f"{len(names)} images of {name}")
    if args.published:
        print(f"\n{published.table(name, summary, args.published)}")
        print(f"\n{published.markdown_row(name, summary)}")
    return 0


def _write_report(args: argparse.Namespace, name: str, summary: dict, photographs: dict) -> None:
    names, classes = list(summary["images"]), len(summary["classes"])
    table = score_table(summary["images"], ranked_scores(summary), classes)
    sources = {"": args.predictions}
    pictures = read_pictures(
        [names[i] for i in worst(table)],
        args.labels,
        sources,
        photographs,
        boundary_ratio=args.boundary_ratio,
        num_classes=classes,
    )
    page = evaluation_page(name, summary, pictures, split=args.published)
    write_whole(args.report, page.encode())


def _check_settings(args: argparse.Namespace, tolerances: Sequence[float]) -> None:
    if not 1 <= args.classes <= IGNORE:
        raise InputError(f"--classes {args.classes}: 1..{IGNORE} can be told apart in a PNG")
    if not 0 < args.boundary_ratio <= 0.1:
        raise InputError(f"--boundary-ratio {args.boundary_ratio}: a share up to 0.1")
    for tolerance in tolerances:
        if not (0 <= tolerance <= 0.05 or 1 <= tolerance <= 256):
            raise InputError(f"--tolerance {tolerance}: a share up to 0.05, or 1..256 pixels")
    if args.images and not args.report:
        raise InputError("--images is for the pictures of a report: add --report FILE.html")
    if args.published and args.boundary_ratio != BOUNDARY_RATIO:
        raise InputError("--published compares boundaries of 0.001: leave --boundary-ratio out")


if __name__ == "__main__":
    sys.exit(main())
