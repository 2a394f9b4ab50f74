"""A part of each photograph, of a CoordFormer: a rectangle, or what a click selects."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

from massformer_jax.classes import IGNORE
from massformer_jax.data.ahead import Stopwatch
from massformer_jax.data.coordinates import grid_in, patches
from massformer_jax.errors import InputError
from massformer_jax.inference import stream
from massformer_jax.inference.image_pixels import pixels_of
from massformer_jax.inference.segmenter import Segmenter

_STRIP = 1 << 16  # pixels that are interpolated together, for each of which are up to 152 bytes


class Rectangle(NamedTuple):
    """A rectangle of a photograph, as `Segmenter.region` takes it.

    Attributes:
        box: (left, top, right, bottom): the first column and row, and those after the last.
        step: from one column or row to the next.
    """

    box: tuple[int | float, ...]
    step: int | float = 1

    def of(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "i j 3"]:
        """Returns what the photograph shows there, interpolated between its pixels.

        Raises:
            InputError: the rectangle is not in the photograph.
        """
        rows, columns = grid_in(self.box, self.step, image.shape[:2])
        shown = np.empty((len(rows), len(columns), 3), np.uint8)
        count = max(1, _STRIP // len(columns))
        for first in range(0, len(rows), count):
            strip = shown[first : first + count]
            grid = np.stack(np.meshgrid(columns, rows[first : first + count]), -1)
            strip[:] = np.rint(patches(image, grid.reshape(-1, 2), side=1)).reshape(strip.shape)
        return shown


class Click(NamedTuple):
    """A pixel of a photograph, and with it all that is connected and of its class."""

    x: int
    y: int


def part_answers(
    segmenter: Segmenter,
    sources: Iterable[Any],
    part: Rectangle | Click,
    *,
    scores: bool = False,
    stopwatch: Stopwatch | None = None,
) -> Iterator[stream.Answer]:
    """Yields what is said of a part of each photograph, in their order.

    Of a rectangle, image and answer have its size. Of a click, they have that of the photograph,
    and what is not selected has the label 255. What is wrong with a photograph, for instance that
    the part is not in it, is in its answer, and does not stop the others.

    Args:
        segmenter: a CoordFormer.
        sources: photographs, as `Segmenter.predict` takes them.
        part: what is asked of each.
        scores: whether answers are scores; a click has labels alone.
        stopwatch: as in `Segmenter.answers`.
    """

    def asked(images: list[np.ndarray]) -> list[Shaped[np.ndarray, "i j *_"]]:
        (image,) = images
        if isinstance(part, Rectangle):
            return [segmenter.region(image, part.box, step=part.step, scores=scores)]
        selected = segmenter.grown(image, part)
        (label,) = segmenter.ask(image, [part])
        return [np.where(selected, label, np.uint8(IGNORE))]

    found = stream.answers(
        sources,
        pixels_of,
        asked,
        lambda answers: answers,
        lambda _: None,
        together=False,
        stopwatch=stopwatch or Stopwatch(),
    )
    for answer in found:
        if type(answer.error) is InputError and answer.image is not None:
            # What cannot be read is named by its error already.
            answer = answer._replace(error=InputError(f"{answer.source}: {answer.error}"))
        elif isinstance(part, Rectangle) and answer.error is None:
            answer = answer._replace(image=part.of(answer.image))
        yield answer
