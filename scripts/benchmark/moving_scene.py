"""A rendered scene that moves, with its true labels and its true motion; and scores that flicker.

A camera pans along a rendered park (`massformer_jax/data/sample`), a panorama with twigs, grass and
people, and people walk before it with sticks that are two pixels wide. Everything is painted at
twice the final size, then photographs are averaged down and get noise of their own in each frame.
"""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from massformer_jax.classes import CLASSES, IGNORE
from massformer_jax.data.sample.scenes import render_scene

_PERSON = CLASSES.index("person")
_SCALE = 2  # painted pixels per final pixel, along each side
_PAN = 2.3  # final pixels by which the camera moves to the right, from frame to frame
_SWAY, _SWAY_PACE = 20.0, 0.02  # how far it sways up and down, in final pixels, and how fast
_NOISE = 3.0  # standard deviation in each channel, of 255


@dataclasses.dataclass(frozen=True)
class View:
    """One frame of the scene.

    Attributes:
        image: the photograph, RGB.
        labels: the truth, 0..6, or 255 where nobody can tell.
        origins: column and row at which what a pixel shows was in the frame before, in pixels.
        seen: whether it was seen there.
    """

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    origins: Float[np.ndarray, "h w 2"]
    seen: Bool[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True)
class _Walker:
    """Somebody who walks, painted once: colours, and where they are; and position and speed."""

    colour: UInt8[np.ndarray, "i j 3"]
    there: UInt8[np.ndarray, "i j"]
    start: tuple[float, float]
    speed: tuple[float, float]


def moving_scene(height: int, width: int, frames: int, seed: int = 0) -> Iterator[View]:
    """Yields the frames of a scene; the same seed gives the same scene."""
    rng = np.random.default_rng(seed)
    painted = _SCALE * (height + 80), _SCALE * (width + int(_PAN * frames) + 40)
    panorama, truth = render_scene(rng, *painted, water=bool(seed % 2))
    walkers = [_walker(rng, height, width, i) for i in range(4)]
    before = None
    for t in range(frames):
        image, labels, layer, shifts = _painted(panorama, truth, walkers, height, width, t)
        noisy = image + rng.normal(0, _NOISE, image.shape)
        origins = _grid(height, width) + shifts[layer]
        yield View(
            np.clip(np.rint(noisy), 0, 255).astype(np.uint8),
            labels,
            origins,
            np.zeros(layer.shape, bool) if before is None else _at(before, origins, -1) == layer,
        )
        before = layer


def flickering_scores(views: Iterator[View], seed: int = 0) -> Iterator[Float[np.ndarray, "h w k"]]:
    """Yields scores as a network's that wavers from frame to frame, and errs steadily besides.

    The edges wander by a pixel or two, differently in each frame; in blotches the network is less
    sure, so that now and then another class wins; and some blotches err the same way in each
    frame, which no average over time can mend.
    """
    rng, classes = np.random.default_rng(seed), len(CLASSES)
    steady = None
    for view in views:
        h, w = view.labels.shape
        wander = np.stack([_smooth(rng, h, w, 12), _smooth(rng, h, w, 12)], -1) * 1.2
        known = np.where(view.labels == IGNORE, 0, view.labels)
        labels = _at(known, np.clip(_grid(h, w) + wander, 0, (w - 1, h - 1)).astype(np.float32), 0)
        sure = np.stack([labels == k for k in range(classes)], -1).astype(np.float32)
        sure = cv2.GaussianBlur(sure, (0, 0), 0.8)
        fresh = np.stack([_smooth(rng, h, w, 10) for _ in range(classes)], -1)
        # Steady errors stay with what they are on, as the true motion moves it.
        new = np.stack([_smooth(rng, h, w, 14) for _ in range(classes)], -1)
        if steady is None:
            steady = new
        else:
            moved = _remap(steady, view.origins)
            steady = np.where(view.seen[..., None], moved, new)
        logits = 4 * sure + 0.6 * fresh + 0.6 * steady
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        yield (shares / shares.sum(-1, keepdims=True)).astype(np.float32)


def moved_labels(labels: UInt8[np.ndarray, "h w"], view: View) -> UInt8[np.ndarray, "h w"]:
    """Returns labels of the frame before as the true motion carries them into this frame."""
    return _at(labels, view.origins, 255)


def _painted(panorama, truth, walkers, height, width, t):
    """Returns the photograph without noise, its labels, whose pixels they are, and the motion.

    The layer 0 is the panorama, and 1 and so on are the walkers. The motion is by how much what a
    layer shows has to be moved to be where it was in the frame before, one row for each layer.
    """
    h, w = height * _SCALE, width * _SCALE

    def camera(t):
        return np.array([10 + _PAN * t, 40 + _SWAY * np.sin(_SWAY_PACE * t)])

    x, y = camera(t) * _SCALE
    place = np.float32([[1, 0, x], [0, 1, y]])
    flags = {"dsize": (w, h), "borderMode": cv2.BORDER_REPLICATE}
    inverse = cv2.WARP_INVERSE_MAP
    image = cv2.warpAffine(panorama, place, flags=cv2.INTER_LINEAR | inverse, **flags)
    labels = cv2.warpAffine(truth, place, flags=cv2.INTER_NEAREST | inverse, **flags)
    layer = np.zeros((h, w), np.uint8)
    shifts = [camera(t) - camera(t - 1)]
    image = image.astype(np.float32)
    for number, walker in enumerate(walkers, 1):
        left, top = (np.array(walker.start) + np.array(walker.speed) * t) * _SCALE
        place = np.float32([[1, 0, left], [0, 1, top]])
        alpha = cv2.warpAffine(walker.there, place, (w, h)).astype(np.float32)[..., None] / 255
        colour = cv2.warpAffine(walker.colour, place, (w, h), borderMode=cv2.BORDER_REPLICATE)
        image += (colour - image) * alpha
        covered = alpha[..., 0] > 0.5
        labels[covered], layer[covered] = _PERSON, number
        shifts.append(-np.array(walker.speed))
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return image, labels[::2, ::2].copy(), layer[::2, ::2].copy(), np.float32(shifts)


def _walker(rng: np.random.Generator, height: int, width: int, number: int) -> _Walker:
    """Paints somebody with a stick, in clothes with a pattern."""
    tall = int(height * rng.uniform(0.3, 0.5)) * _SCALE
    wide = tall // 2
    there, middle = np.zeros((tall, wide), np.uint8), wide // 2
    cv2.circle(there, (middle, tall // 10), tall // 14, 255, -1, cv2.LINE_AA)
    body = (tall // 9, tall // 4)
    cv2.ellipse(there, (middle, tall * 4 // 10), body, 0, 0, 360, 255, -1, cv2.LINE_AA)
    for side in (-1, 1):
        foot = (middle + side * tall // 9, tall - 4)
        cv2.line(there, (middle, tall // 2), foot, 255, max(3, tall // 16), cv2.LINE_AA)
        hand = (middle + side * tall // 6, tall // 2)
        cv2.line(there, (middle, tall // 4), hand, 255, max(3, tall // 30), cv2.LINE_AA)
    stick = (middle + tall // 6 + 2, tall // 3), (middle + tall // 5, tall - 4)
    cv2.line(there, *stick, 255, 2 * _SCALE, cv2.LINE_AA)
    pattern = cv2.resize(
        rng.integers(-40, 40, (tall // 12, wide // 12, 3)).astype(np.float32), (wide, tall)
    )
    colour = np.clip(rng.integers(50, 200, 3) + pattern, 0, 255).astype(np.uint8)
    speed = (rng.uniform(1.5, 4.5) * (-1) ** number, rng.uniform(-0.2, 0.2))
    left = rng.uniform(0.1, 0.3) * width if speed[0] > 0 else rng.uniform(0.6, 0.85) * width
    return _Walker(colour, there, (left, height * 0.95 - tall / _SCALE - 12 * number), speed)


def _smooth(rng: np.random.Generator, h: int, w: int, size: int) -> Float[np.ndarray, "h w"]:
    """Returns noise of standard deviation 1 in blotches of so many pixels."""
    small = rng.normal(0, 1, (h // size + 2, w // size + 2)).astype(np.float32)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC) * np.float32(1.3)


def _grid(h: int, w: int) -> Float[np.ndarray, "h w 2"]:
    return np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).astype(np.float32)


def _at(
    x: UInt8[np.ndarray, "h w"], places: Float[np.ndarray, "h w 2"], outside: int
) -> Int[np.ndarray, "h w"]:
    """Returns the values nearest to places (column, row), or `outside`."""
    return _nearest(x.astype(np.int16), places, outside)


def _nearest(x: np.ndarray, places: np.ndarray, outside: int) -> np.ndarray:
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": outside}
    return cv2.remap(x, places[..., 0], places[..., 1], cv2.INTER_NEAREST, **border)


def _remap(x: Float[np.ndarray, "h w k"], places: np.ndarray) -> Float[np.ndarray, "h w k"]:
    xs, ys = places[..., 0], places[..., 1]
    return np.stack(
        [
            cv2.remap(x[..., k], xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for k in range(x.shape[-1])
        ],
        -1,
    )
