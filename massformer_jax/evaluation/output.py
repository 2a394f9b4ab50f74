"""The files that an evaluation writes: of each photograph, and of all of them together."""

import collections
import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from massformer_jax.classes import CLASSES, RGB
from massformer_jax.data.images import encode_mask
from massformer_jax.files import Place, write_atomically
from massformer_jax.inference.protocol import DEFAULT_PROTOCOL, Protocol
from massformer_jax.metrics.published import markdown_table
from massformer_jax.metrics.scores import write_json
from massformer_jax.report.collect import Gallery
from massformer_jax.report.evaluation import evaluation_page
from massformer_jax.report.overlay import comparison
from massformer_jax.report.pictures import Picture

# Rows of each panel at most: the pictures are to be looked at, and scores do not depend on them.
PICTURE_HEIGHT = 768


class Writer:
    """Threads that write files, with a bound on how much may wait for them.

    A photograph and its maps take 50 MB, so only a few may wait.

    Args:
        threads: number of threads.
        waiting: number of calls that may be unfinished at any time.
    """

    def __init__(self, threads: int = 2, waiting: int = 8):
        self._threads = concurrent.futures.ThreadPoolExecutor(threads)
        self._pending = collections.deque()
        self._waiting = waiting

    def __enter__(self) -> "Writer":
        return self

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Has a thread call the function; raises what an earlier call has raised."""
        while len(self._pending) >= self._waiting:
            self._pending.popleft().result()
        self._pending.append(self._threads.submit(function, *arguments))

    def __exit__(self, kind, *_) -> None:
        self._threads.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for job in self._pending:
                job.result()


class PhotographFiles:
    """The files that are written of single photographs: label maps and pictures.

    Args:
        writer: writes them.
        gallery: draws the worst photographs for the report.
        folder: where pictures are written; label maps are written into its `predictions/`.
        classes: names of the classes.
        palette: their colours.
        pictures: number of photographs, counted from the first, that are drawn beside the truth
            and the prediction.
        save_predictions: whether all label maps are written.
    """

    def __init__(
        self,
        writer: Writer,
        gallery: Gallery,
        folder: Place,
        classes: Sequence[str],
        palette: Sequence[RGB],
        *,
        pictures: int,
        save_predictions: bool,
    ):
        self._writer, self._gallery = writer, gallery
        self._folder, self._classes = folder, classes
        self._palette = np.array(palette, np.uint8)
        self._left_to_draw, self._save_predictions = pictures, save_predictions

    def write(
        self, examples: Sequence[Mapping[str, Any]], predictions: Any, worst: Sequence[int]
    ) -> None:
        """Writes what is wanted of the photographs of a batch.

        Args:
            examples: the photographs, `n` of them.
            predictions: their label maps, uint8 [b, i, j] on the devices, b >= n. They are fetched
                only if something is to be written.
            worst: which of the photographs are the worst so far, counted from 0.
        """
        drawn = examples[: self._left_to_draw]
        self._left_to_draw -= len(drawn)
        if not (drawn or worst or self._save_predictions):
            return
        maps = np.asarray(predictions)
        for i in worst:
            image, truth = examples[i]["image"], examples[i]["label"]
            self._writer.submit(self._gallery.draw, mask_name(examples[i]), image, truth, maps[i])
        for example, labels in zip(drawn, maps, strict=False):
            self._writer.submit(
                draw_comparison, self._folder, example, labels, self._classes, self._palette
            )
        if self._save_predictions:
            folder = self._folder / "predictions"
            for example, labels in zip(examples, maps, strict=False):
                self._writer.submit(write_mask, folder, example, labels, self._palette)


def mask_name(example: Mapping[str, Any]) -> str:
    """Returns the file name of a photograph's label map."""
    return f"{pathlib.Path(example['file_name']).stem}.png"


def write_mask(
    folder: Place, example: Mapping[str, Any], labels: np.ndarray, palette: np.ndarray
) -> None:
    """Writes a label map as an index PNG, in the colours of its classes, uint8 [k 3]."""
    write_atomically(folder / mask_name(example), encode_mask(labels, palette))


def draw_comparison(
    folder: Place,
    example: Mapping[str, Any],
    labels: np.ndarray,
    classes: Sequence[str],
    palette: np.ndarray,
) -> None:
    """Writes the photograph, the truth and the prediction side by side, as one PNG."""
    factor = min(1.0, PICTURE_HEIGHT / labels.shape[0])
    size = tuple(max(1, round(side * factor)) for side in labels.shape[::-1])
    image = cv2.resize(example["image"], size, interpolation=cv2.INTER_AREA)
    truth, prediction = (
        cv2.resize(x, size, interpolation=cv2.INTER_NEAREST) for x in (example["label"], labels)
    )
    picture = comparison(image, truth, prediction, class_names=classes, palette=palette)
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    write_atomically(folder / mask_name(example), encoded)


def write_results(
    folder: Place,
    summary: Mapping[str, Any],
    pictures: Mapping[str, Picture],
    *,
    protocol: Protocol,
) -> None:
    """Writes `metrics.json`, `row.md` and `report.html` of an evaluation.

    Args:
        folder: where to; the folder above it gives the run its name.
        summary: what `metrics.json` holds.
        pictures: the worst photographs, by the names of their label maps.
        protocol: how the network saw the photographs.
    """
    name = folder.parent.name
    write_json(folder / "metrics.json", summary)
    write_atomically(folder / "row.md", markdown_table(name, summary).encode())
    unusual = {
        key: str(value)
        for key, value in dataclasses.asdict(protocol).items()
        if key == "resolution" or value != getattr(DEFAULT_PROTOCOL, key)
    }
    # The published methods have MaSS13K's classes; scores of others are not compared with them.
    known = tuple(summary["classes"]) == CLASSES
    page = evaluation_page(name, summary, pictures, among_published=known, details=unusual)
    write_atomically(folder / "report.html", page.encode())
