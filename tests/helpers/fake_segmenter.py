"""What answers as a segmenter does, at once and without a network, and waits where a test says."""

import contextlib
import threading

import jax
import numpy as np

from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.compilation import announce
from massformer_jax.inference.segmenter import Segmenter

_COMPILED = "/jax/core/compile/backend_compile_duration"

RED, GREEN, BLUE = 1, 3, 5  # person, tree, sky


class FakeSegmenter(Segmenter):
    """A segmenter whose class of a pixel is its strongest colour; grey ones are background.

    It says that it compiles something for each new size.

    Attributes:
        seen: the sizes of the photographs that it was asked about.
        error: what it raises instead of answering, if not None.
        go: an answer waits until it is set.
    """

    classes, palette = CLASSES, PALETTE

    def __init__(self):
        self.seen: list[tuple[int, int]] = []
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def scores(self, image):
        """Returns scores that are not normalised: twice as high for the strongest colour."""
        if compiles := image.shape[:2] not in self.seen:
            announce("the network of the test")
        assert self.go.wait(60)
        if compiles:
            jax.monitoring.record_event_duration_secs(_COMPILED, 1.0)
        self.seen.append(image.shape[:2])
        if self.error is not None:
            raise self.error
        scores = np.full((*image.shape[:2], len(CLASSES)), 0.25, np.float32)
        scores[..., 0] = 1
        lowest = image.min(-1)
        for label, channel in ((RED, 0), (GREEN, 1), (BLUE, 2)):
            strong = (image[..., channel] == image.max(-1)) & (image[..., channel] > lowest + 30)
            scores[..., label] += np.where(strong, np.float32(1.75), 0)
        scores.setflags(write=False)
        return scores

    def predict(self, image):
        """Returns the classes of the highest scores."""
        return self.scores(image).argmax(-1).astype(np.uint8)

    @contextlib.contextmanager
    def held(self):
        """Holds all answers back within this context."""
        self.go.clear()
        try:
            yield
        finally:
            self.go.set()


def coverage(probabilities, image, members):
    """Returns the sum of the probabilities of some classes."""
    return probabilities[..., list(members)].sum(-1)


def foreground(image, alpha):
    """Returns the photograph, darker where less of a pixel is covered."""
    return (image * alpha[..., None]).astype(np.uint8)
