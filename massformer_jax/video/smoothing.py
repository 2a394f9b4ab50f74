"""Steadying the scores of a sequence over time, without trailing behind what moves.

The scores of the frames before are a mean over time that moves with the picture:

1. The optical flow (DIS, of OpenCV) tells where each pixel was in the frame before.
2. The mean and the frame before are moved along it.
3. Where the moved frame agrees with the new one, the mean is worth as many frames as went into it,
   at most `_MOST`. Where it does not, behind an object that has moved on for instance, it is worth
   nothing, and the new scores stand alone. So nothing is dragged along.
4. The new scores and the moved mean are mixed by these weights.

How much two frames of one scene differ by noise alone is taken from their median difference. If
most of a frame is new, the scene has been cut and the mean begins anew.

Beside the answer that it takes it holds one frame and its mean, at 12 megapixels with 7 classes
0.4 GB, and while it mixes as much again for the moved ones, and 0.4 GB for coordinates and weights.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from massformer_jax.errors import InputError
from massformer_jax.inference.stream import Answer

_MOST = 6.0  # frames that a mean is worth at most
_FLOW_SIDE = 1024  # pixels along the longer side of what the flow is computed from
# Frames agree up to about this difference (0..255): a part that is always allowed, for what is
# between pixels, and a multiple of the noise.
_ALWAYS, _TIMES_NOISE = 4.0, 2.5
_MOST_NOISE = 12.0  # a median difference beyond this is no noise, but another scene
_MOST_CHANNELS = 64  # OpenCV's arrays have at most 128
_MOST_ALONG_A_SIDE = 32_766  # pixels that OpenCV's remap can move
_NEW_SCENE = 0.6  # share of a frame that has to be new


class _Before(NamedTuple):
    """What is kept of the frame before: its pixels, the mean of scores, and its worth in frames."""

    image: UInt8[np.ndarray, "h w 3"]
    mean: Float[np.ndarray, "h w k"]
    worth: Float[np.ndarray, "h w"]


def steadied(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Yields the answers of a sequence with steadied scores.

    What has an error is passed on. Where the size changes, the scores begin anew. Frames with a
    side of more than 32,766 pixels have an error.

    Args:
        answers: frames in the order of time, whose answers are scores.
    """
    before = None
    for answer in answers:
        if answer.error is not None:
            yield answer
            continue
        h, w = answer.image.shape[:2]
        if max(h, w) > _MOST_ALONG_A_SIDE:
            words = f"{answer.source}: {w}x{h} pixels are too long a side to be steadied"
            yield answer._replace(answer=None, error=InputError(f"{words}; leave out --smooth"))
            continue
        before = _mixed(before, answer)
        yield answer._replace(answer=before.mean)


def labelled(answer: Answer) -> Answer:
    """Returns an answer with labels instead of its scores; an error is passed on."""
    if answer.error is not None:
        return answer
    return answer._replace(answer=answer.answer.argmax(-1).astype(np.uint8))


def _mixed(before: _Before | None, answer: Answer) -> _Before:
    """Returns the mean that the new scores and the mean before them make."""
    image, scores = answer.image, answer.answer
    new = _Before(image, scores, np.ones(image.shape[:2], np.float32))
    if before is None or before.mean.shape != scores.shape:
        return new
    xs, ys = _origins(before.image, image)
    trust = _agreement(_moved(before.image, xs, ys), image, xs, ys)
    if np.mean(trust < 0.5) > _NEW_SCENE:
        return new
    worth = _moved(before.worth, xs, ys) * trust
    share = worth / (worth + 1)
    mean = _moved(before.mean, xs, ys)
    mean -= scores
    mean *= share[..., None]
    mean += scores
    return _Before(image, mean, np.minimum(worth + 1, _MOST))


def _origins(
    before: UInt8[np.ndarray, "h w 3"], now: UInt8[np.ndarray, "h w 3"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Returns the column and the row at which each pixel was in the frame before, in pixels."""
    h, w = now.shape[:2]
    scale = min(1.0, _FLOW_SIDE / max(h, w))
    size = max(16, round(w * scale)), max(16, round(h * scale))

    def small(image):
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return grey if size == (w, h) else cv2.resize(grey, size, interpolation=cv2.INTER_AREA)

    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    moved = flow.calc(small(now), small(before), None)
    if size != (w, h):
        moved = cv2.resize(moved, (w, h), interpolation=cv2.INTER_LINEAR)
        moved *= np.float32([w / size[0], h / size[1]])
    xs = moved[..., 0] + np.arange(w, dtype=np.float32)
    ys = moved[..., 1] + np.arange(h, dtype=np.float32)[:, None]
    return xs, ys


def _moved(x: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Returns what was at these columns and rows, between pixels as their weighted mean."""
    if x.ndim == 3 and x.shape[-1] > _MOST_CHANNELS:
        parts = (x[..., i : i + _MOST_CHANNELS] for i in range(0, x.shape[-1], _MOST_CHANNELS))
        return np.concatenate([_moved(part, xs, ys) for part in parts], -1)
    moved = cv2.remap(x, xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved.reshape(x.shape)


def _agreement(
    moved: UInt8[np.ndarray, "h w 3"],
    now: UInt8[np.ndarray, "h w 3"],
    xs: Float[np.ndarray, "h w"],
    ys: Float[np.ndarray, "h w"],
) -> Float[np.ndarray, "h w"]:
    """Returns how well the moved frame agrees with the new one, 0..1; 0 for what was not in it."""
    h, w = now.shape[:2]
    # The channel that differs most, as a mean over 3 x 3 pixels: noise is weaker in it.
    red, green, blue = cv2.split(cv2.absdiff(moved, now))
    difference = cv2.blur(cv2.max(cv2.max(red, green), blue).astype(np.float32), (3, 3))
    noise = min(float(np.median(difference[:: max(1, h // 500), :: max(1, w // 500)])), _MOST_NOISE)
    trust = np.exp(-np.square(difference / (_ALWAYS + _TIMES_NOISE * noise)))
    trust[(xs < 0) | (ys < 0) | (xs > w - 1) | (ys > h - 1)] = 0
    return trust
