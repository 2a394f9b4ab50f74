"""Labels at coordinates: asks a network for any pixels of a photograph, in buckets of fixed size.

What is asked, see `Answer`, is the program of `coordinate_network` with what was kept of the
photograph. So there is one for all sizes of photographs, and what it takes depends on the bucket
alone.
Ways to ask differ only in what they ask: where they ask a pixel, all give the same answer.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8, UInt16

from massformer_jax.data.coordinates import patches, places
from massformer_jax.inference import asking

# With a decoder of 384 channels in float32 a bucket takes some 0.3 GB.
BUCKET = 1 << 14
_STRIP = 128  # rows between which answers are interpolated at once
_IN_FLIGHT = 2  # buckets that were given to the device and whose answers were not taken

# From surroundings [p 8 8 3] and places [p 2] of one bucket to logits [p k].
Answer = Callable[[np.ndarray, np.ndarray], Array]


def ask(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    parts: Iterable[Shaped[np.ndarray, "_ 2"]],
    *,
    bucket: int = BUCKET,
) -> Iterator[Float[np.ndarray, "_ k"]]:
    """Yields the logits of each part of coordinates, none of which is longer than a bucket.

    Shorter ones are filled up. While the device computes, the next surroundings are read.
    """
    size = photograph.shape[:2]
    waiting: deque[tuple[Array, int]] = deque()
    for part in parts:
        filled = np.concatenate([part, np.repeat(part[-1:], bucket - len(part), 0)])
        asked = answer(patches(photograph, filled), places(filled, size))
        waiting.append((asked, len(part)))
        if len(waiting) == _IN_FLIGHT:
            logits, count = waiting.popleft()
            yield np.asarray(logits)[:count]
    for logits, count in waiting:
        yield np.asarray(logits)[:count]


def highest(logits: Float[np.ndarray, "*p k"]) -> UInt8[np.ndarray, "*p"]:
    """Returns the classes of the highest logits."""
    return logits.argmax(-1).astype(np.uint8)


def probabilities(logits: Float[np.ndarray, "*p k"]) -> Float[np.ndarray, "*p k"]:
    """Returns the probabilities of the classes."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return shares


# What is made of logits, bucket by bucket: labels, probabilities, or the logits themselves.
Finish = Callable[[np.ndarray], np.ndarray]


def ask_grid(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    rows: Shaped[np.ndarray, " i"],
    columns: Shaped[np.ndarray, " j"],
    *,
    finish: Finish = highest,
    bucket: int = BUCKET,
) -> Shaped[np.ndarray, "i j *_"]:
    """Returns the answers where rows and columns cross: a map of every pixel, or of every n-th.

    Args:
        answer: of the network.
        photograph: RGB.
        rows: the ys, whole numbers or places between pixels.
        columns: the xs, of the same kind.
        finish: what is made of logits.
        bucket: coordinates that are asked at once.
    """
    count = len(rows) * len(columns)

    def parts():
        for start in range(0, count, bucket):
            row, column = np.divmod(np.arange(start, min(start + bucket, count)), len(columns))
            yield np.stack([columns[column], rows[row]], -1)

    found = None
    start = 0
    for logits in ask(answer, photograph, parts(), bucket=bucket):
        part = finish(logits)
        if found is None:
            found = np.empty((count, *part.shape[1:]), part.dtype)
        found[start : start + len(part)] = part
        start += len(part)
    return found.reshape(len(rows), len(columns), *found.shape[1:])


def ask_at(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    coordinates: Shaped[np.ndarray, "p 2"],
    *,
    finish: Finish = highest,
    bucket: int = BUCKET,
) -> Shaped[np.ndarray, " p *_"]:
    """Returns the answers at coordinates, (x, y) of pixels or of places between them; one or more.

    Other arguments are those of `ask_grid`.
    """
    starts = range(0, len(coordinates), bucket)
    parts = (coordinates[start : start + bucket] for start in starts)
    return np.concatenate([finish(x) for x in ask(answer, photograph, parts, bucket=bucket)])


def ask_where(
    answer: Answer,
    photograph: UInt8[np.ndarray, "_ _ 3"],
    answers: Shaped[np.ndarray, "h w *_"],
    where: Bool[np.ndarray, "h w"],
    *,
    stride: int = 1,
    finish: Finish = highest,
    bucket: int = BUCKET,
) -> None:
    """Writes what is answered for the pixels in `where` into the answers of all.

    Args:
        answer: of the network.
        photograph: RGB.
        answers: at every `stride`-th pixel of every `stride`-th row.
        where: which of them to ask.
        stride: 1 if the answers are those of all pixels.
        finish: as in `ask_grid`.
        bucket: coordinates that are asked at once.
    """
    pixels, width = np.flatnonzero(where), where.shape[1]
    starts = range(0, len(pixels), bucket)
    parts = (stride * _places_of(width, pixels[i : i + bucket]) for i in starts)
    start = 0
    for logits in ask(answer, photograph, parts, bucket=bucket):
        answers[np.divmod(pixels[start : start + len(logits)], width)] = finish(logits)
        start += len(logits)


def _places_of(width: int, pixels: Int[np.ndarray, " p"]) -> Int[np.ndarray, "p 2"]:
    """Returns the (x, y) of pixels that are counted row by row."""
    y, x = np.divmod(pixels, width)
    return np.stack([x, y], -1)


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
    that are least certain then are asked. So questions follow boundaries, and what is not asked is
    interpolated. As a boundary is a line, half the distance has twice the questions.

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
    while stride > 1:
        stride //= 2
        make = finish if stride == 1 else _unchanged
        size = -(-height // stride), -(-width // stride)
        entropies = np.empty(size, np.uint16)
        answers = _between(answers, 2, size, make, entropies)
        before, asked = asked, np.zeros(size, bool)
        asked[::2, ::2] = before
        where = asking.least_certain(entropies, ~asked, int(questions / stride))
        ask_where(answer, photograph, answers, where, stride=stride, finish=make, bucket=bucket)
        asked |= where
    return Asked(answers, asked)


def _unchanged(logits: np.ndarray) -> np.ndarray:
    return logits


def grown(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    x: int,
    y: int,
    *,
    tile: int = 64,
    bucket: int = BUCKET,
) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels of one label that are connected with a pixel, by their sides.

    They are those that every pixel's labels would give, but only the squares that they touch are
    asked, from that of the pixel outwards.

    Args:
        answer: of the network.
        photograph: RGB.
        x: column of the pixel.
        y: its row.
        tile: side of the squares.
        bucket: coordinates that are asked at once.
    """
    height, width = photograph.shape[:2]
    (label,) = ask_at(answer, photograph, np.array([[x, y]]), bucket=bucket)
    found = np.zeros((height, width), bool)
    asked = np.zeros((-(-height // tile), -(-width // tile)), bool)
    waiting = {(y // tile, x // tile)}
    while waiting:
        squares = {
            (i, j): np.ix_(
                np.arange(tile * i, min(tile * (i + 1), height)),
                np.arange(tile * j, min(tile * (j + 1), width)),
            )
            for i, j in sorted(waiting)
        }
        pixels = [(rows * width + columns).reshape(-1) for rows, columns in squares.values()]
        pixels = np.concatenate(pixels)
        labels = ask_at(answer, photograph, _places_of(width, pixels), bucket=bucket)
        found.reshape(-1)[pixels] = labels == label
        waiting = set()
        for (i, j), square in squares.items():
            asked[i, j] = True
            inside = found[square]
            sides = {
                (i - 1, j): inside[0],
                (i + 1, j): inside[-1],
                (i, j - 1): inside[:, 0],
                (i, j + 1): inside[:, -1],
            }
            waiting |= {at for at, side in sides.items() if side.any()}
        waiting = {
            (i, j)
            for i, j in waiting
            if 0 <= i < asked.shape[0] and 0 <= j < asked.shape[1] and not asked[i, j]
        }
    _, parts = cv2.connectedComponents(found.astype(np.uint8), connectivity=4)
    return parts == parts[y, x]


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
    entropies: UInt16[np.ndarray, "h w"] | None = None,
) -> Shaped[np.ndarray, "h w *_"]:
    """Returns what is made of logits between those at every `stride`-th pixel, strip by strip.

    Writes how unsure they are into `entropies`, where it is given.
    """
    rows, columns = map(np.arange, size)
    found = None
    for start in range(0, len(rows), _STRIP):
        strip = slice(start, start + _STRIP)
        logits = asking.between(coarse, stride, rows[strip], columns)
        if entropies is not None:
            entropies[strip] = asking.unsure(logits)
        part = finish(logits)
        if found is None:
            found = np.empty((*size, *part.shape[2:]), part.dtype)
        found[strip] = part
    return found
