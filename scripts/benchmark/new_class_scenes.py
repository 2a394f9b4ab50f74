"""Rendered scenes with new classes, cars and tents, and pseudo labels of them with known errors."""

import dataclasses
import functools
from typing import NamedTuple
from unittest import mock

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from massformer_jax.classes import CLASSES
from massformer_jax.data.sample import objects
from massformer_jax.data.sample.objects import BACKGROUND, Stage
from massformer_jax.data.sample.scenes import render_scene

CAR, TENT = len(CLASSES), len(CLASSES) + 1
NEW = {"car": CAR, "tent": TENT}
HEIGHT, WIDTH = 512, 768

# What is wrong with a pseudo label, in pixels of the scene.
EROSION = 1  # radius of the disc that is taken off
BLUR = 2.0  # standard deviation, after which corners are round
SHIFT = 4  # distance, in a direction that is drawn for each scene
_UNPAINTED = 254


class Scene(NamedTuple):
    """A scene and its true label map, in which cars are 7 and tents are 8."""

    image: UInt8[np.ndarray, "h w 3"]
    label: UInt8[np.ndarray, "h w"]


def render(split: str, index: int) -> Scene:
    """Renders a scene; most show a car, and most a tent."""
    rng = np.random.default_rng((20, ("train", "val").index(split), index))
    painters = {
        "paint_lamp": _labelled(objects.paint_car, CAR),
        "paint_car": _labelled(objects.paint_car, CAR),
        "paint_bench": _labelled(_paint_tent, TENT),
    }
    with mock.patch.multiple(objects, **painters):
        return Scene(*render_scene(rng, HEIGHT, WIDTH, water=index % 2 == 0))


def exact_labels(scene: Scene) -> UInt8[np.ndarray, "h w"]:
    """Returns the label map of the seven classes, in which all that is new is background."""
    is_new = np.isin(scene.label, list(NEW.values()))
    return np.where(is_new, np.uint8(BACKGROUND), scene.label)


def true_labels(scene: Scene, new: tuple[str, ...]) -> UInt8[np.ndarray, "h w"]:
    """Returns the true label map with some new classes, the first of which is 7."""
    labels = exact_labels(scene)
    for label, name in enumerate(new, CAR):
        labels[scene.label == NEW[name]] = label
    return labels


def training_labels(scene: Scene, index: int, new: tuple[str, ...]) -> UInt8[np.ndarray, "h w"]:
    """Returns exact labels of the seven classes, with pseudo labels of new ones in the background.

    Of the seven classes new ones can only be background, so whatever else is exact stays.
    """
    labels = exact_labels(scene)
    free = labels == BACKGROUND
    rng = np.random.default_rng((21, index))
    for label, name in enumerate(new, CAR):
        angle = rng.uniform(0, 2 * np.pi)
        labels[wrong_mask(scene.label == NEW[name], angle) & free] = label
    return labels


def wrong_mask(mask: Bool[np.ndarray, "h w"], angle: float) -> Bool[np.ndarray, "h w"]:
    """Returns a mask that is eroded, blurred and shifted."""
    side = 2 * EROSION + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    eroded = cv2.erode(mask.astype(np.uint8), disc).astype(np.float32)
    soft = cv2.GaussianBlur(eroded, (0, 0), BLUR)
    move = np.float32([[1, 0, SHIFT * np.cos(angle)], [0, 1, SHIFT * np.sin(angle)]])
    return cv2.warpAffine(soft, move, mask.shape[::-1]) > 0.5


def _labelled(painter, label: int):
    """Returns a painter of the same object whose pixels get a label of their own."""

    @functools.wraps(painter)
    def paint(stage: Stage, *where) -> None:
        own = np.full_like(stage.label, _UNPAINTED)
        painter(dataclasses.replace(stage, label=own), *where)
        stage.label[own != _UNPAINTED] = label

    return paint


def _paint_tent(stage: Stage, x: float, y: float, metre: float) -> None:
    """Paints a tent of about three metres, with a door, a lit side and ropes."""
    rng = stage.rng
    colours = ((214, 120, 40), (60, 120, 90), (70, 110, 180))
    cloth = objects.vary(rng, colours[rng.integers(3)], 0.12)
    top = y - 1.9 * metre
    stage.shadow(x, y, 1.8 * metre)
    stage.fill([(x - 1.6 * metre, y), (x, top), (x + 1.6 * metre, y)], cloth, BACKGROUND)
    lit = tuple(min(255.0, 1.25 * c) for c in cloth)
    edge = x + 1.6 * metre * (1 if stage.sun > 0 else -1)
    stage.fill([(x, y), (x, top), (edge, y)], lit, BACKGROUND)
    dark = tuple(0.4 * c for c in cloth)
    door = [(x - 0.45 * metre, y), (x, top + 0.7 * metre), (x + 0.45 * metre, y)]
    stage.fill(door, dark, BACKGROUND)
