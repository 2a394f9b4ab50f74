"""Labels at coordinates: asks a network for any pixels of a photograph, in buckets of fixed size.

What is asked, see `Answer`, is the program of `coordinate_network` with what was kept of the
photograph. So there is one for all sizes of photographs, and what it takes depends on the bucket
alone. Which pixels to ask: `inference.ways_to_ask`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from massformer_jax.data.coordinates import patches, places

# With a decoder of 384 channels in float32 a bucket takes some 0.3 GB.
BUCKET = 1 << 14
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
