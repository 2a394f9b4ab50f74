"""Ways to ask: which pixels of a photograph are asked, and what the others get.

They differ only in what they ask: where they ask a pixel, all give the same answer.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8, UInt16

from massformer_jax.inference import asking
from massformer_jax.inference.coordinates import (
    BUCKET,
    Answer,
    Finish,
    ask_grid,
    ask_where,
    highest,
)

_STRIP = 128  # rows between which answers are interpolated at once


class Asked(NamedTuple):
    """What is answered for every pixel of a photograph, and which of its pixels were asked.

    The other pixels have probabilities between those of pixels around them that were asked.
    """

    answers: Shaped[np.ndarray, "h w *_"]
    asked: Bool[np.ndarray, "h w"]


def every_pixel(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    *,
    finish: Finish = highest,
    bucket: int = BUCKET,
) -> Asked:
    """Asks every pixel."""
    rows, columns = map(np.arange, photograph.shape[:2])
    answers = ask_grid(answer, photograph, rows, columns, finish=finish, bucket=bucket)
    return Asked(answers, np.ones(photograph.shape[:2], bool))


def by_stride(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    *,
    stride: int,
    finish: Finish = highest,
    bucket: int = BUCKET,
) -> Asked:
    """Asks every `stride`-th pixel of every `stride`-th row, and no others."""
    coarse = _coarse(answer, photograph, stride, bucket)
    where = np.zeros(photograph.shape[:2], bool)
    return _refined(answer, photograph, coarse, stride, where, finish, bucket)


def by_sefi(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    *,
    stride: int = 8,
    dilation: int = 4,
    threshold: float = 0.1,
    finish: Finish = highest,
    bucket: int = BUCKET,
) -> Asked:
    """Asks every `stride`-th pixel, and then those that `asking.sefi` names."""
    coarse = _coarse(answer, photograph, stride, bucket)
    rule = {"stride": stride, "dilation": dilation, "threshold": threshold}
    where = asking.sefi(highest(coarse), photograph, **rule)
    return _refined(answer, photograph, coarse, stride, where, finish, bucket)


def by_entropy(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    *,
    stride: int = 8,
    share: float = 0.15,
    finish: Finish = highest,
    bucket: int = BUCKET,
) -> Asked:
    """Asks every `stride`-th pixel, then halves the distance again and again.

    Each time the pixels in between get probabilities between those of their neighbours, and those
    that are least certain then are asked. Uncertainty counts more on an edge of the photograph: an
    answer that is asked seldom differs from its neighbours' elsewhere. So questions follow
    boundaries, and what is not asked is interpolated. As a boundary is a line, half the distance
    has twice the questions.

    Args:
        answer: of the network.
        photograph: RGB.
        stride: a power of two.
        share: of all pixels, 0..1, that may be asked after the first ones.
        finish: as in `ask_grid`.
        bucket: coordinates that are asked at once.
    """
    height, width = photograph.shape[:2]
    answers = _coarse(answer, photograph, stride, bucket)
    asked = np.ones(answers.shape[:2], bool)
    if stride == 1:
        return Asked(finish(answers), asked)
    # At a distance of d pixels this many / d are asked: d is 1, 2, … up to half of the stride.
    questions = share * height * width / (2 - 2 / stride)
    edges = asking.edge_weights(photograph)
    while stride > 1:
        stride //= 2
        make = finish if stride == 1 else _unchanged
        size = -(-height // stride), -(-width // stride)
        entropies = np.empty(size, np.uint16)
        weights = asking.strongest(edges, stride)
        answers = _between(answers, 2, size, make, weights, entropies)
        before, asked = asked, np.zeros(size, bool)
        asked[::2, ::2] = before
        where = asking.least_certain(entropies, ~asked, int(questions / stride))
        ask_where(answer, photograph, answers, where, stride=stride, finish=make, bucket=bucket)
        asked |= where
    return Asked(answers, asked)


def _unchanged(logits: np.ndarray) -> np.ndarray:
    return logits


def _coarse(
    answer: Answer, photograph: np.ndarray, stride: int, bucket: int
) -> Float[np.ndarray, "i j k"]:
    """Returns the logits of every `stride`-th pixel."""
    rows, columns = (np.arange(0, side, stride) for side in photograph.shape[:2])
    return ask_grid(answer, photograph, rows, columns, finish=lambda x: x, bucket=bucket)


def _refined(
    answer: Answer,
    photograph: np.ndarray,
    coarse: Float[np.ndarray, "i j k"],
    stride: int,
    where: np.ndarray,
    finish: Finish,
    bucket: int,
) -> Asked:
    """Returns the coarse answers at full size, those of the pixels in `where` asked anew."""
    # Paper: coarse labels are "upsampled". Here it is probabilities: more labels are right.
    answers = _between(coarse, stride, photograph.shape[:2], finish)
    where[::stride, ::stride] = False  # these were asked before
    ask_where(answer, photograph, answers, where, finish=finish, bucket=bucket)
    where[::stride, ::stride] = True
    return Asked(answers, where)


def _between(
    coarse: Float[np.ndarray, "i j k"],
    stride: int,
    size: tuple[int, int],
    finish: Finish,
    weights: UInt8[np.ndarray, "h w"] | None = None,
    entropies: UInt16[np.ndarray, "h w"] | None = None,
) -> Shaped[np.ndarray, "h w *_"]:
    """Returns what is made of logits between those at every `stride`-th pixel, strip by strip.

    Writes how unsure they are, by these weights, into `entropies`, where both are given.
    """
    rows, columns = map(np.arange, size)
    found = None
    for start in range(0, len(rows), _STRIP):
        strip = slice(start, start + _STRIP)
        logits = asking.between(coarse, stride, rows[strip], columns)
        if entropies is not None:
            entropies[strip] = asking.unsure(logits, weights[strip])
        part = finish(logits)
        if found is None:
            found = np.empty((*size, *part.shape[2:]), part.dtype)
        found[strip] = part
    return found
