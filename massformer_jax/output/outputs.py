"""The files that a run writes of its photographs, in the formats that were asked for."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from massformer_jax.data.photographs import photograph_orientation
from massformer_jax.files import write_atomically
from massformer_jax.inference.stream import Answer, lack_of_memory
from massformer_jax.output.formats import FORMATS, Options, encode_all, files_of
from massformer_jax.output.prediction import Group, Prediction


class Outputs:
    """The files of some formats below a folder.

    Args:
        folder: where they are written.
        formats: names of formats.
        groups: of classes, for those formats that are written of each group.
        options: how they are written.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        formats: Sequence[str],
        groups: tuple[Group, ...],
        options: Options,
    ):
        self._folder, self._formats = folder, formats
        self._groups, self._options = groups, options
        self._needs = frozenset().union(*(FORMATS[name].needs for name in formats))
        self._stored = any(FORMATS[name].stored for name in formats)

    @property
    def needs_scores(self) -> bool:
        """Whether some format needs the scores of all classes, and not the labels alone."""
        return bool(self._needs)

    def paths(self, photograph: pathlib.PurePath) -> tuple[pathlib.Path, ...]:
        """Returns the paths of all files of a photograph, in the order in which they are written.

        Args:
            photograph: its path below the folder that is segmented, with its suffix.
        """
        return tuple(
            self._folder / path for path in files_of(self._formats, photograph, self._groups)
        )

    def write(
        self,
        photograph: pathlib.PurePath,
        answer: Answer,
        classes: tuple[str, ...],
        palette: np.ndarray,
    ) -> None:
        """Writes all files of a photograph, each when it is complete.

        Args:
            photograph: its path below the folder that is segmented, with its suffix.
            answer: its pixels, and its labels or, if the formats need them, its scores; its source
                is the photograph's path.
            classes: names of the labels.
            palette: their colours, RGB, uint8 [k, 3].

        Raises:
            InputError: the photograph is too large for a format, or for the memory.
            OSError: the disk is full, or the folder may not be written to.
        """
        prediction = predicted(answer, classes, palette, self._groups, self._needs)
        if self._stored:
            orientation = photograph_orientation(answer.source)
            prediction = dataclasses.replace(prediction, orientation=orientation)
        contents = encode_all(self._formats, prediction, self._options)
        for path, content in zip(self.paths(photograph), contents, strict=True):
            write_atomically(path, content)


def predicted(
    answer: Answer,
    classes: tuple[str, ...],
    palette: np.ndarray,
    groups: tuple[Group, ...],
    needs: frozenset[str] = frozenset(),
) -> Prediction:
    """Returns what formats are written from.

    Args:
        answer: a photograph, and its labels; or its scores, if there are needs.
        classes: names of the labels.
        palette: their colours, RGB, uint8 [k, 3].
        groups: of classes.
        needs: what else than labels: "probabilities", "alphas", "foregrounds".

    Raises:
        TooLargeError: the memory does not suffice for soft edges.
    """
    if not needs:
        return Prediction(answer.image, answer.answer, classes, palette, groups)
    from massformer_jax.inference.alpha import HALVED, coverage, foreground, soft_edges_of

    scores = answer.answer
    labels = scores.argmax(-1).astype(np.uint8)
    probabilities, alphas, foregrounds = None, {}, {}
    if "probabilities" in needs:
        probabilities = scores / np.maximum(scores.sum(-1, keepdims=True), 1e-12)
    with lack_of_memory(soft_edges_of(answer.image), HALVED):
        if needs & {"alphas", "foregrounds"}:
            alphas = {x.name: coverage(scores, answer.image, x.members) for x in groups}
        if "foregrounds" in needs:
            foregrounds = {name: foreground(answer.image, alpha) for name, alpha in alphas.items()}
    return Prediction(
        answer.image, labels, classes, palette, groups, probabilities, alphas, foregrounds
    )
