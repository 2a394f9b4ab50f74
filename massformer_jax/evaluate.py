"""Scores of a model over a split: counts on the device, at the photographs' own resolution."""

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from massformer_jax import distributed, sharding
from massformer_jax.data.transforms import resize_image
from massformer_jax.files import write_whole
from massformer_jax.inference import label_function, network_size
from massformer_jax.metrics import Counts, add_counts, image_counts, zero_counts
from massformer_jax.overlay import comparison
from massformer_jax.scores import best_constant_miou, format_table, summarize, write_json
from massformer_jax.train_state import model_graph

PICTURE_HEIGHT = 768  # of each panel at most: pictures are to look at, labels are in the counts


class Batch(NamedTuple):
    """Photographs of one size; the first `count` are real, the rest fill up the devices."""

    images: np.ndarray  # uint8 [b, h, w, 3], at network size
    labels: np.ndarray  # uint8 [b, i, j], at the photographs' own size
    examples: Sequence[Mapping[str, Any]]
    count: int


def evaluation_step(
    model: Mapping[str, Any], mesh: Mesh, *, dtype: DTypeLike = "float32"
) -> Callable[..., tuple[jax.Array, Counts]]:
    """Jitted step(params, batch_stats, images, labels) -> label maps [b, i, j], counts [b, k].

    Args:
        model: keyword arguments of MaSSFormer.
        mesh: over which photographs are split.
        dtype: that the network computes in.
    """
    predict = label_function(model_graph(model, training=False), dtype=dtype)
    count = functools.partial(image_counts, num_classes=model["classes"])

    def step(params, batch_stats, images, labels):
        predictions = predict(params, batch_stats, images, labels.shape[1:])
        return predictions, jax.vmap(count)(predictions, labels)

    whole, split = sharding.replicated(mesh), sharding.batch_sharded(mesh)
    return jax.jit(step, in_shardings=(whole, whole, split, split), out_shardings=split)


def evaluate(
    step: Callable[..., tuple[jax.Array, Counts]],
    params: Any,
    batch_stats: Any,
    examples: Iterable[Mapping[str, Any]],
    *,
    mesh: Mesh,
    classes: Sequence[str],
    resolution: str,
    output: pathlib.Path,
    pictures: int,
) -> dict[str, Any]:
    """Evaluates all examples and writes `metrics.json` and pictures into `output`.

    Args:
        step: of `evaluation_step`.
        params: the weights, replicated over `mesh`.
        batch_stats: the running statistics, likewise.
        examples: `image` uint8 [h, w, 3], `label` uint8 [h, w], `file_name`.
        mesh: every device of it takes one photograph at a time.
        classes: their names.
        resolution: see `network_size`.
        output: folder to write into.
        pictures: of how many examples the truth and the prediction are drawn.

    With several processes each passes its own share of the examples; the counts of all are pooled,
    and the first process writes.

    Returns:
        The summary (see `scores.summarize`), with `images`, how many there were, and
        `best_constant_mIoU`, what one class everywhere would reach.
    """
    pool, images, waiting = zero_counts(len(classes)), 0, None
    pictures = pictures if distributed.is_first() else 0
    for batch in batches_by_size(examples, mesh.shape[sharding.DATA], resolution):
        split = sharding.batch_sharded(mesh)
        placed = jax.device_put((batch.images, batch.labels), split)
        predictions, counts = step(params, batch_stats, *placed)
        # The batch before is fetched while this one is computed.
        if waiting is not None:
            pool = add_counts(pool, waiting)
        waiting = Counts(*(field[: batch.count] for field in counts))
        for example, labels in zip(batch.examples, predictions, strict=False):
            if images < pictures:
                draw(output, example, np.asarray(labels), classes)
            images += 1
    if waiting is not None:
        pool = add_counts(pool, waiting)
    pool = pool_processes(pool)
    summary = {
        **summarize(pool),
        "images": len(pool.confusion),
        "best_constant_mIoU": best_constant_miou(pool),
    }
    if distributed.is_first():
        write_json(output / "metrics.json", {"classes": list(classes), **summary})
    return summary


def pool_processes(pool: Counts) -> Counts:
    """The counts (int64 [n ...]) of all processes' images, one process after the other.

    As bytes: arrays on devices have 32 bits, and may not count beyond 2^31.
    """
    fields = []
    for field in pool:
        parts = distributed.gather_bytes(field.tobytes())
        fields.append(np.frombuffer(b"".join(parts), np.int64).reshape(-1, *field.shape[1:]))
    return Counts(*fields)


def report(summary: Mapping[str, Any], classes: Sequence[str]) -> str:
    """The table of an evaluation, how many photographs it stands for, and a floor to compare."""
    constant = 100 * summary["best_constant_mIoU"]
    return (
        f"{format_table(dict(summary), classes)}\n{summary['images']} photographs; "
        f"one class everywhere has a mean IoU of {constant:.2f} at best"
    )


def batches_by_size(
    examples: Iterable[Mapping[str, Any]], size: int, resolution: str
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
            yield _batch(same, size, resolution)
            same.clear()
    for left in collected.values():
        if left:
            yield _batch(left, size, resolution)


def _batch(examples: list, size: int, resolution: str) -> Batch:
    filled = examples + [examples[-1]] * (size - len(examples))
    shown = network_size(*examples[0]["label"].shape, resolution)
    return Batch(
        np.stack([resize_image(example["image"], shown) for example in filled]),
        np.stack([example["label"] for example in filled]),
        tuple(examples),
        len(examples),
    )


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
    write_whole(output / f"{pathlib.Path(example['file_name']).stem}.png", encoded)
