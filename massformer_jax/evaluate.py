"""Scores of a model over a split: counts on the device, at the photographs' own resolution."""

import collections
import concurrent.futures
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jax.sharding import Mesh

from massformer_jax import distributed, sharding
from massformer_jax.data.classes import class_palette
from massformer_jax.data.images import encode_mask
from massformer_jax.evaluate_files import report_of
from massformer_jax.files import write_whole
from massformer_jax.metrics import (
    BOUNDARY_RATIO,
    TOLERANCES,
    Counts,
    add_counts,
    image_counts,
    zero_counts,
)
from massformer_jax.overlay import comparison
from massformer_jax.progress import EvaluationProgress
from massformer_jax.protocols import WHOLE, Protocol, Shown, label_function, show
from massformer_jax.published import markdown_table
from massformer_jax.report.collect import Gallery
from massformer_jax.report.evaluation import evaluation_page
from massformer_jax.scores import best_constant_miou, format_table, mean_iou, write_json
from massformer_jax.train_state import model_graph

PICTURE_HEIGHT = 768  # of each panel at most: pictures are to look at, labels are in the counts

PUBLISHED = {"validation": "val", "test": "test"}  # names of the splits here and in the paper


class Batch(NamedTuple):
    """Photographs of one size; the first `count` are real, the rest fill up the devices."""

    images: Shown  # uint8 [b, h, w, 3], at network size, on the host
    labels: np.ndarray  # uint8 [b, i, j], at the photographs' own size
    examples: Sequence[Mapping[str, Any]]
    count: int


def evaluation_step(
    model: Mapping[str, Any],
    mesh: Mesh,
    *,
    protocol: Protocol = WHOLE,
    dtype: str = "float32",
) -> Callable[..., tuple[jax.Array, Counts]]:
    """step(params, batch_stats, images, labels) -> label maps [b, i, j], counts [b, k].

    It runs jitted parts: those of `protocols.label_function`, and one that counts. `images` are
    what `protocols.show` gives.

    Args:
        model: keyword arguments of MaSSFormer.
        mesh: over which photographs are split, and over its axis `spatial` their rows.
        protocol: how photographs are shown to the network.
        dtype: that the network computes in, one of `massformer_jax.precision.DTYPES`.
    """
    predict = label_function(model_graph(model, training=False), protocol, dtype=dtype, mesh=mesh)
    photographs = sharding.photographs_sharded(mesh)
    count = jax.jit(
        jax.vmap(functools.partial(image_counts, num_classes=model["classes"])),
        in_shardings=photographs,
        out_shardings=photographs,
    )

    def step(params, batch_stats, images, labels):
        predictions = predict(params, batch_stats, images, labels.shape[1:])
        return predictions, count(predictions, labels)

    return step


def evaluate(
    step: Callable[..., tuple[jax.Array, Counts]],
    params: Any,
    batch_stats: Any,
    examples: Iterable[Mapping[str, Any]],
    *,
    mesh: Mesh,
    classes: Sequence[str],
    protocol: Protocol,
    output: pathlib.Path,
    pictures: int,
    save_predictions: bool = False,
    total: int | None = None,
    split_name: str = "",
) -> dict[str, Any]:
    """Evaluates all examples and writes scores, pictures and label maps into `output`.

    Into `metrics.json` the scores, into `row.md` those of the paper's table, as Markdown; beside
    them the pictures, and into `predictions/` the label maps, which `evaluate_files` reads;
    `report.html` shows the scores and the worst images.

    While the devices compute, the next photographs are read, the counts of those before are
    fetched, and what came out is written.

    Args:
        step: of `evaluation_step`.
        params: the weights, replicated over `mesh`.
        batch_stats: the running statistics, likewise.
        examples: `image` uint8 [h, w, 3], `label` uint8 [h, w], `file_name`.
        mesh: every device of it takes one photograph, or its rows of one, at a time.
        classes: their names.
        protocol: that of `step`.
        output: folder to write into.
        pictures: of how many examples the truth and the prediction are drawn.
        save_predictions: write all label maps.
        total: how many examples there are, for the progress bar.
        split_name: whose they are; "validation" and "test" are shown among the published results.

    With several processes each passes its own share of the examples; the counts of all are pooled,
    and the first process writes.

    Returns:
        What `metrics.json` holds: `evaluate_files.report_of`, `protocol`, and
        `best_constant_mIoU`, what one class everywhere would reach.
    """

    def start(batch):
        return step(params, batch_stats, batch.images, batch.labels)

    names, pool = [], zero_counts(len(classes))
    gallery = Gallery(len(classes), BOUNDARY_RATIO)
    pictures = pictures if distributed.is_first() else 0
    batches = batches_by_size(examples, sharding.photographs_at_once(mesh), protocol)
    with Writer() as writer, EvaluationProgress(total, shown=distributed.is_first()) as progress:
        for batch, (predictions, counts) in one_behind(start, batches):
            pool = add_counts(pool, Counts(*(field[: batch.count] for field in counts)))
            progress.update(batch.count, mean_iou(pool))
            to_draw = batch.examples[: max(0, pictures - len(names))]
            names += [mask_name(example) for example in batch.examples]
            worst = gallery.choose(names, pool)
            if not (to_draw or save_predictions or worst):
                continue
            maps = np.asarray(predictions)
            for i in worst:
                example = batch.examples[i]
                photograph = mask_name(example), example["image"], example["label"]
                writer.submit(gallery.draw, *photograph, maps[i])
            for example, labels in zip(to_draw, maps, strict=False):
                writer.submit(draw, output, example, labels, classes)
            for example, labels in zip(batch.examples, maps, strict=False):
                if save_predictions:
                    writer.submit(save, output / "predictions", example, labels, len(classes))
    names, pool = pool_processes(names, pool)
    summary = {
        "protocol": dataclasses.asdict(protocol),
        **report_of(names, pool, boundary_ratio=BOUNDARY_RATIO, tolerances=TOLERANCES),
        "classes": list(classes),
        "best_constant_mIoU": best_constant_miou(pool),
    }
    drawn = gallery.pictures(summary)
    if distributed.is_first():
        write_json(output / "metrics.json", summary)
        write_whole(output / "row.md", markdown_table(output.parent.name, summary).encode())
        shown = {
            key: str(value)
            for key, value in dataclasses.asdict(protocol).items()
            if key == "resolution" or value != getattr(WHOLE, key)
        }
        page = evaluation_page(
            output.parent.name,
            summary,
            drawn,
            split=PUBLISHED.get(split_name),
            details={"split": split_name, **shown},
        )
        write_whole(output / "report.html", page.encode())
    return summary


def pool_processes(names: list[str], pool: Counts) -> tuple[list[str], Counts]:
    """Names and counts (int64 [n ...]) of all processes' images, one process after the other.

    As bytes: arrays on devices have 32 bits, and may not count beyond 2^31.
    """
    shares = distributed.gather_bytes(json.dumps(names).encode())
    fields = []
    for field in pool:
        parts = distributed.gather_bytes(field.tobytes())
        fields.append(np.frombuffer(b"".join(parts), np.int64).reshape(-1, *field.shape[1:]))
    return [name for share in shares for name in json.loads(share)], Counts(*fields)


def report(summary: Mapping[str, Any], classes: Sequence[str]) -> str:
    """The table of an evaluation, how many photographs it stands for, and a floor to compare."""
    constant = 100 * summary["best_constant_mIoU"]
    return (
        f"{format_table(dict(summary), classes)}\n{len(summary['images'])} photographs; "
        f"one class everywhere has a mean IoU of {constant:.2f} at best"
    )


def one_behind(start: Callable[[Any], Any], batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """(batch, what `start` gave for it), each after the next one was started.

    `start` returns before the devices are done, so that they always have something to do.
    """
    waiting = None
    for batch in batches:
        started = batch, start(batch)
        if waiting is not None:
            yield waiting
        waiting = started
    if waiting is not None:
        yield waiting


class Writer:
    """Threads that write; with so many photographs, 50 MB each, at most waiting for them."""

    def __init__(self, threads: int = 2, waiting: int = 8):
        self._threads = concurrent.futures.ThreadPoolExecutor(threads)
        self._pending = collections.deque()
        self._waiting = waiting

    def __enter__(self) -> "Writer":
        return self

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Calls it some time; raises what an earlier one raised."""
        while len(self._pending) >= self._waiting:
            self._pending.popleft().result()
        self._pending.append(self._threads.submit(function, *arguments))

    def __exit__(self, kind, *_) -> None:
        self._threads.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for job in self._pending:
                job.result()


def batches_by_size(
    examples: Iterable[Mapping[str, Any]], size: int, protocol: Protocol
) -> Iterator[Batch]:
    """Collects photographs of equal size until there are `size`; what is left comes filled up.

    Sizes are never mixed: the network sees the whole image, so padding to a common size would
    change the answers.
    """
    collected: dict[tuple, list] = {}
    for example in examples:
        same = collected.setdefault(example["image"].shape, [])
        same.append(example)
        if len(same) == size:
            yield _batch(same, size, protocol)
            same.clear()
    for left in collected.values():
        if left:
            yield _batch(left, size, protocol)


def _batch(examples: list, size: int, protocol: Protocol) -> Batch:
    filled = examples + [examples[-1]] * (size - len(examples))
    return Batch(
        show(protocol, [example["image"] for example in filled]),
        np.stack([example["label"] for example in filled]),
        tuple(examples),
        len(examples),
    )


def mask_name(example: Mapping[str, Any]) -> str:
    """What the label map of a photograph is called."""
    return f"{pathlib.Path(example['file_name']).stem}.png"


def save(folder: pathlib.Path, example: Mapping[str, Any], labels: np.ndarray, k: int) -> None:
    """Writes the label map as an index PNG, in the colours of its k classes."""
    palette = np.array(class_palette(k), np.uint8)
    write_whole(folder / mask_name(example), encode_mask(labels, palette))


def draw(
    output: pathlib.Path, example: Mapping[str, Any], labels: np.ndarray, classes: Sequence[str]
) -> None:
    """Photograph, truth and prediction side by side, as PNG."""
    factor = min(1.0, PICTURE_HEIGHT / labels.shape[0])
    size = tuple(round(side * factor) for side in labels.shape[::-1])
    image = cv2.resize(example["image"], size, interpolation=cv2.INTER_AREA)
    truth, prediction = (
        cv2.resize(x, size, interpolation=cv2.INTER_NEAREST) for x in (example["label"], labels)
    )
    picture = comparison(image, truth, prediction, class_names=classes)
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    write_whole(output / mask_name(example), encoded)
