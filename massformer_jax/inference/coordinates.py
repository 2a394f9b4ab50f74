"""Labels at coordinates: asks a network for any pixels of a photograph, in buckets of fixed size.

A program sees the surroundings of one bucket of coordinates and what was kept of the photograph
(its `Memory`). So there is one for all sizes of photographs, and what it takes depends on the
bucket alone.
Protocols differ only in what they ask: where they ask a pixel, all give the same answer.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from massformer_jax.data.coordinates import patches, places
from massformer_jax.inference.asking import enlarged, most_uncertain, sefi, uncertainty
from massformer_jax.models.build import compute_params
from massformer_jax.models.coordinate_decoder import Memory
from massformer_jax.models.massformer import normalize
from massformer_jax.ops.precision import computing, widened

# With a decoder of 384 channels in float32 a bucket takes some 0.3 GB.
BUCKET = 1 << 14
_IN_FLIGHT = 2  # buckets that were given to the device and whose answers were not taken

# From surroundings [p 8 8 3] and places [p 2] of one bucket to logits [p k].
Answer = Callable[[np.ndarray, np.ndarray], Array]


def memory_function(
    graph: nnx.GraphDef, *, dtype: str = "float32"
) -> Callable[[Any, Any, UInt8[Array | np.ndarray, "1 h w 3"]], Memory]:
    """Returns memory(params, batch_stats, image), jitted, for one photograph.

    Args:
        graph: of a network with `memory`, for inference.
        dtype: that the network computes in, one of `massformer_jax.ops.precision.DTYPES`.
    """

    def memory(params, batch_stats, image):
        with computing(dtype) as arrays:
            network = nnx.merge(graph, compute_params(params, arrays), batch_stats)
            return network.memory(normalize(image, arrays))

    return jax.jit(memory)


def logits_function(
    graph: nnx.GraphDef, *, dtype: str = "float32"
) -> Callable[[Any, Any, Memory, np.ndarray, np.ndarray], Float[Array, "p k"]]:
    """Returns logits(params, batch_stats, memory, patches, places), jitted, for one bucket.

    Logits are float32 (or wider) whatever the dtype is.

    Args:
        graph: of a network with `decoder`, for inference.
        dtype: as in `memory_function`.
    """

    def logits(params, batch_stats, memory, patches, places):
        with computing(dtype) as arrays:
            network = nnx.merge(graph, compute_params(params, arrays), batch_stats)
            seen = normalize(patches, arrays)[None]
            (answer,) = network.decoder(memory, seen, places[None])
            return answer.astype(widened(answer.dtype))

    return jax.jit(logits)


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


def ask_grid(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    rows: Shaped[np.ndarray, " i"],
    columns: Shaped[np.ndarray, " j"],
    *,
    finish: Callable[[np.ndarray], np.ndarray] = highest,
    bucket: int = BUCKET,
) -> Shaped[np.ndarray, "i j *_"]:
    """Returns the answers where rows and columns cross: a map of every pixel, or of every n-th.

    Args:
        answer: of the network.
        photograph: RGB.
        rows: the ys, whole numbers or places between pixels.
        columns: the xs, of the same kind.
        finish: what is made of logits, bucket by bucket: labels, or the logits themselves.
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


def ask_where(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    labels: UInt8[np.ndarray, "h w"],
    where: Bool[np.ndarray, "h w"],
    *,
    bucket: int = BUCKET,
) -> UInt8[np.ndarray, "h w"]:
    """Returns the labels, those of the pixels in `where` asked anew."""
    chosen = np.flatnonzero(where)
    labels = labels.copy()
    labels.reshape(-1)[chosen] = _labels_of(answer, photograph, chosen, bucket)
    return labels


def _labels_of(
    answer: Answer, photograph: np.ndarray, pixels: Int[np.ndarray, " p"], bucket: int
) -> UInt8[np.ndarray, " p"]:
    """Returns the labels of pixels that are counted row by row."""
    labels = np.empty(len(pixels), np.uint8)

    def parts():
        for start in range(0, len(pixels), bucket):
            y, x = np.divmod(pixels[start : start + bucket], photograph.shape[1])
            yield np.stack([x, y], -1)

    start = 0
    for logits in ask(answer, photograph, parts(), bucket=bucket):
        labels[start : start + len(logits)] = highest(logits)
        start += len(logits)
    return labels


class Asked(NamedTuple):
    """The label map of a photograph, and which of its pixels were asked.

    The other pixels have the label of the nearest pixel that was asked above and to their left.
    """

    labels: UInt8[np.ndarray, "h w"]
    asked: Bool[np.ndarray, "h w"]


def every_pixel(
    answer: Answer, photograph: UInt8[np.ndarray, "h w 3"], *, bucket: int = BUCKET
) -> Asked:
    """Asks every pixel."""
    height, width = photograph.shape[:2]
    labels = ask_grid(answer, photograph, np.arange(height), np.arange(width), bucket=bucket)
    return Asked(labels, np.ones((height, width), bool))


def by_sefi(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    *,
    stride: int = 8,
    dilation: int = 4,
    threshold: float = 0.1,
    bucket: int = BUCKET,
) -> Asked:
    """Asks every `stride`-th pixel, and then those that `asking.sefi` names."""
    coarse = _coarse(answer, photograph, stride, highest, bucket)
    where = sefi(coarse, photograph, stride=stride, dilation=dilation, threshold=threshold)
    return _refined(answer, photograph, coarse, stride, where, bucket)


def by_entropy(
    answer: Answer,
    photograph: UInt8[np.ndarray, "h w 3"],
    *,
    stride: int = 8,
    share: float = 0.15,
    bucket: int = BUCKET,
) -> Asked:
    """Asks every `stride`-th pixel, and then the least certain squares between them.

    Args:
        answer: of the network.
        photograph: RGB.
        stride: side of the squares.
        share: of the squares, 0..1.
        bucket: coordinates that are asked at once.
    """
    logits = _coarse(answer, photograph, stride, lambda logits: logits, bucket)
    where = most_uncertain(uncertainty(logits), stride, photograph.shape[:2], share)
    return _refined(answer, photograph, highest(logits), stride, where, bucket)


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
    (label,) = _labels_of(answer, photograph, np.array([y * width + x]), bucket)
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
        found.reshape(-1)[pixels] = _labels_of(answer, photograph, pixels, bucket) == label
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
    answer: Answer, photograph: np.ndarray, stride: int, finish: Callable, bucket: int
) -> np.ndarray:
    rows, columns = (np.arange(0, side, stride) for side in photograph.shape[:2])
    return ask_grid(answer, photograph, rows, columns, finish=finish, bucket=bucket)


def _refined(
    answer: Answer,
    photograph: np.ndarray,
    coarse: np.ndarray,
    stride: int,
    where: np.ndarray,
    bucket: int,
) -> Asked:
    labels = enlarged(coarse, stride, photograph.shape[:2])
    where[::stride, ::stride] = False  # these were asked before
    labels = ask_where(answer, photograph, labels, where, bucket=bucket)
    where[::stride, ::stride] = True
    return Asked(labels, where)
