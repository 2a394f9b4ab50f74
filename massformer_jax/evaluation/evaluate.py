"""Scores of a model over a data split, counted on the devices at the size of each photograph."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from massformer_jax.classes import RGB, class_palette
from massformer_jax.data.bad_records import BadRecords
from massformer_jax.errors import InputError
from massformer_jax.evaluation.batches import batches_by_size
from massformer_jax.evaluation.one_behind import one_behind
from massformer_jax.evaluation.output import PhotographFiles, Writer, mask_name, write_results
from massformer_jax.evaluation.progress import EvaluationProgress
from massformer_jax.evaluation.provenance import Dataset, Model, provenance, provenance_text
from massformer_jax.files import Place
from massformer_jax.inference.protocol import DEFAULT_PROTOCOL, Protocol
from massformer_jax.inference.views import label_function
from massformer_jax.metrics.counts import (
    BOUNDARY_RATIO,
    TOLERANCES,
    Counts,
    add_counts,
    image_counts,
    zero_counts,
)
from massformer_jax.metrics.scores import (
    best_constant_miou,
    evaluation_summary,
    format_table,
    ignored_share,
    ignored_text,
    mean_iou,
    nothing_labelled,
    percent,
)
from massformer_jax.models.build import model_graph
from massformer_jax.parallel import processes, sharding
from massformer_jax.report.collect import Gallery

_NAMED = 10  # photographs that were left out are named in what is printed, up to this number


def evaluation_function(
    architecture: Mapping[str, Any],
    mesh: Mesh,
    *,
    protocol: Protocol = DEFAULT_PROTOCOL,
    dtype: str = "float32",
) -> Callable[..., tuple[jax.Array, Counts]]:
    """Returns evaluate_batch(params, batch_stats, images, labels).

    That function returns label maps, uint8 [b, i, j], and `Counts` whose fields are [b, ...]. Its
    `images` are what `inference.views.show` returns. It is not to be jitted: it calls jitted
    functions, those of `inference.views.label_function` and one that counts.

    Args:
        architecture: keyword arguments of MaSSFormer.
        mesh: photographs are divided among its devices, and the rows of a photograph among those
            along its axis `spatial`.
        protocol: how the network sees photographs.
        dtype: what the network computes in, one of `massformer_jax.ops.precision.DTYPES`.
    """
    graph = model_graph(architecture, training=False)
    predict = label_function(graph, protocol, dtype=dtype, mesh=mesh)
    photographs = sharding.photographs_sharded(mesh)
    count = jax.jit(
        jax.vmap(functools.partial(image_counts, num_classes=architecture["classes"])),
        in_shardings=photographs,
        out_shardings=photographs,
    )

    def evaluate_batch(params, batch_stats, images, labels):
        predictions = predict(params, batch_stats, images, labels.shape[1:])
        return predictions, count(predictions, labels)

    return evaluate_batch


def evaluate(
    evaluate_batch: Callable[..., tuple[jax.Array, Counts]],
    params: Any,
    batch_stats: Any,
    examples: Iterable[Mapping[str, Any]],
    *,
    mesh: Mesh,
    classes: Sequence[str],
    palette: Sequence[RGB] = (),
    protocol: Protocol,
    output: Place,
    pictures: int,
    save_predictions: bool = False,
    total: int | None = None,
    bad_records: BadRecords | None = None,
    dataset: Dataset,
    model: Model | None = None,
) -> dict[str, Any]:
    """Evaluates all examples and writes scores, pictures and label maps into `output`.

    `metrics.json` gets the scores, `row.md` those of the paper's table in Markdown, and
    `report.html` shows the scores and the worst photographs. Pictures lie beside them. The label
    maps go into `predictions/`, which `massformer_jax.evaluate_files` reads.

    While the devices compute, the host reads the next photographs, fetches the counts of those
    before, and writes files. With several processes, each passes its own share of the examples,
    and writes the label maps of these; the counts of all are pooled, and the first process writes
    everything else.

    Args:
        evaluate_batch: what `evaluation_function` returned for this mesh and protocol.
        params: the weights, replicated over `mesh`.
        batch_stats: the running statistics, likewise.
        examples: each with `image`, uint8 [h, w, 3], `label`, uint8 [h, w], and `file_name`.
        mesh: each of its devices gets one photograph at a time, or its rows of one.
        classes: names of the classes.
        palette: their colours; without any, those of `classes.class_palette`.
        protocol: how the network sees photographs.
        output: folder to write into.
        pictures: number of examples of which the truth and the prediction are drawn.
        save_predictions: whether all label maps are written.
        total: number of examples, for the progress bar; None if it is unknown.
        bad_records: gets the records that are left out while the examples are read.
        dataset: where the examples are from. All of MaSS13K's validation or test split are shown
            among the published results.
        model: where the weights are from.

    Returns:
        What `metrics.json` holds: `metrics.scores.evaluation_summary`, `protocol`,
        `best_constant_mIoU`, the best mIoU that one class everywhere can reach, `skipped`, a line
        for each record that was left out, and `provenance`.

    Raises:
        InputError: no photograph is left, in any process; or label maps of two would have the same
            name, as photographs of two splits may.
    """

    def start(batch):
        return evaluate_batch(params, batch_stats, batch.images, batch.labels)

    first_process = processes.is_first()
    names, sizes, pool = [], [], zero_counts(len(classes))
    palette = tuple(palette) or class_palette(len(classes))
    gallery = Gallery(len(classes), BOUNDARY_RATIO, palette)
    batches = batches_by_size(
        _of_other_names(examples), sharding.photographs_at_once(mesh), protocol
    )
    with Writer() as writer, EvaluationProgress(total, shown=first_process) as progress:
        photographs = PhotographFiles(
            writer,
            gallery,
            output,
            classes,
            palette,
            pictures=pictures if first_process else 0,
            save_predictions=save_predictions,
        )
        for batch, (predictions, counts) in one_behind(start, batches):
            pool = add_counts(pool, Counts(*(field[: batch.count] for field in counts)))
            names += [mask_name(example) for example in batch.examples]
            sizes += [example["label"].shape for example in batch.examples]
            progress.update(batch.count, mean_iou(pool))
            photographs.write(batch.examples, predictions, gallery.choose(names, pool))
    names, pool = pool_processes(names, pool)
    check_names(names)  # each process has seen its own share alone
    sizes = [tuple(size) for size in _of_all_processes(sizes)]
    skipped = _of_all_processes(bad_records.messages if bad_records else [])
    if not names:
        why = f": {skipped[0]}" if skipped else ""
        raise InputError(f"none of the photographs can be evaluated{why}; build the dataset again")
    summary = {
        "protocol": dataclasses.asdict(protocol),
        **evaluation_summary(names, pool, boundary_ratio=BOUNDARY_RATIO, tolerances=TOLERANCES),
        "classes": list(classes),
        "palette": [list(rgb) for rgb in palette],
        "best_constant_mIoU": best_constant_miou(pool),
        "ignored_share": ignored_share(pool, sizes),
        "skipped": skipped,
        "provenance": provenance(dataset, names, sizes, model),
    }
    drawn = gallery.pictures(summary)
    if first_process:
        write_results(output, summary, drawn, protocol=protocol)
    return summary


def check_names(names: Sequence[str]) -> None:
    """Checks that no two label maps have the same name: one would be lost in silence.

    Raises:
        InputError: two have; names the first.
    """
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(
            f"{twice} is the label map of two photographs; evaluate one split at a time, or give "
            "the photographs different names and build the dataset again"
        )


def _of_other_names(examples: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yields the examples; raises InputError at the first whose label map has an earlier name."""
    seen = set()
    for example in examples:
        name = mask_name(example)
        if name in seen:
            check_names([name, name])
        seen.add(name)
        yield example


def pool_processes(names: list[str], pool: Counts) -> tuple[list[str], Counts]:
    """Returns names and counts (int64 [n ...]) of all images, one process after the other."""
    fields = []
    # Counts travel as bytes: arrays on devices have 32 bits and cannot count beyond 2^31.
    for field in pool:
        parts = processes.gather_bytes(field.tobytes())
        fields.append(np.frombuffer(b"".join(parts), np.int64).reshape(-1, *field.shape[1:]))
    return _of_all_processes(names), Counts(*fields)


def _of_all_processes(mine: list) -> list:
    """Returns what JSON can hold, of one process after the other."""
    return [
        item
        for share in processes.gather_bytes(json.dumps(mine).encode())
        for item in json.loads(share)
    ]


def evaluation_text(summary: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Returns what is printed of an evaluation.

    It is the table of scores, the number of photographs, the best mIoU of a constant answer to
    compare with, the share of the pixels that count in no score, which photographs were left out,
    and where all this comes from. If nothing is labelled, that is said in the place of the scores.
    """
    count, constant = len(summary["images"]), percent(summary["best_constant_mIoU"])
    scores = (
        f"nothing is labelled in these {count} photographs, so there are no scores\n"
        if nothing_labelled(summary)
        else f"{format_table(dict(summary), classes)}\n{count} photographs; "
        f"one class everywhere has a mean IoU of {constant} at best\n"
        f"{ignored_text(summary['ignored_share'])}\n"
    )
    after = f"{_skipped_text(summary['skipped'])}{provenance_text(summary['provenance'])}"
    return scores + after


def _skipped_text(skipped: Sequence[str]) -> str:
    """Returns lines that name the records that were left out, or nothing if there are none."""
    if not skipped:
        return ""
    named = [f"  {line}" for line in skipped[:_NAMED]]
    if len(skipped) > _NAMED:
        named.append(f"  and {len(skipped) - _NAMED} more, named in metrics.json")
    count = f"{len(skipped)} photograph" + "s" * (len(skipped) > 1)
    lines = [f"{count} could not be read, and the scores are those of all others:", *named]
    return "\n".join([*lines, ""])
