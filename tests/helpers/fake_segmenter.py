"""What answers as a segmenter does, at once and without a network, and waits where a test says."""

import contextlib
import os
import threading

import jax
import numpy as np

from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.compilation import announce
from massformer_jax.data.photographs import read_photograph
from massformer_jax.errors import InputError
from massformer_jax.inference.protocol import Protocol
from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.inference.stream import Answer

_COMPILED = "/jax/core/compile/backend_compile_duration"

RED, GREEN, BLUE = 1, 3, 5  # person, tree, sky
# The scores that a pixel of a class has for each class.
SCORES = np.where(np.eye(len(CLASSES), dtype=bool), np.float32(2), np.float32(0.002))


class FakeSegmenter(Segmenter):
    """A segmenter whose class of a pixel is its strongest colour; grey ones are background.

    It says that it compiles something for each new size.

    Attributes:
        seen: the sizes of the photographs that it was asked about.
        error: what it raises instead of answering, if not None.
        go: an answer waits until it is set.
    """

    classes, palette, pictures = CLASSES, PALETTE, None
    _protocol = Protocol()

    def __init__(self):
        self.seen: list[tuple[int, int]] = []
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def scores(self, image):
        """Returns scores that are not normalised, `SCORES` of each pixel's class."""
        if compiles := image.shape[:2] not in self.seen:
            announce("the network of the test")
        assert self.go.wait(60)
        if compiles:
            jax.monitoring.record_event_duration_secs(_COMPILED, 1.0)
        self.seen.append(image.shape[:2])
        if self.error is not None:
            raise self.error
        red, green, blue = (image[..., channel] for channel in range(3))
        lowest = np.minimum(np.minimum(red, green), blue)
        highest = np.maximum(np.maximum(red, green), blue)
        labels = np.zeros(highest.shape, np.uint8)
        for label, channel in ((RED, red), (GREEN, green), (BLUE, blue)):
            labels[(channel == highest) & (highest - lowest > 30)] = label
        scores = SCORES[labels]
        scores.setflags(write=False)
        return scores

    def predict(self, image):
        """Returns the classes of the highest scores."""
        return self.scores(image).argmax(-1).astype(np.uint8)

    def answers(self, images, *, scores=False, stopwatch=None):
        """Yields the answers of photographs, in turn: paths, arrays, or what becomes one."""
        for image in images:
            a_path = isinstance(image, str | os.PathLike)
            pixels = read_photograph(image) if a_path else np.asarray(image)
            try:
                yield Answer(image, pixels, (self.scores if scores else self.predict)(pixels))
            except InputError as error:
                yield Answer(image, pixels, error=error)

    @contextlib.contextmanager
    def held(self):
        """Holds all answers back within this context."""
        self.go.clear()
        try:
            yield
        finally:
            self.go.set()


def coverage(probabilities, image, members):
    """Returns the probability of some classes."""
    return probabilities[..., list(members)].sum(-1) / probabilities.sum(-1)


def foreground(image, alpha):
    """Returns the photograph, darker where less of a pixel is covered."""
    return (image * alpha[..., None]).astype(np.uint8)
