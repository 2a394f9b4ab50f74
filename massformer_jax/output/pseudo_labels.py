"""Pseudo labels: label maps made of what a model is sure of, alone or painted over exact ones."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from massformer_jax.classes import IGNORE


def pseudo_labels(
    probabilities: Float[np.ndarray, "h w m"],
    labels: Sequence[int],
    confidence: float,
    exact: UInt8[np.ndarray, "h w"] | None = None,
    split_from: int | None = None,
) -> UInt8[np.ndarray, "h w"]:
    """Returns the label of every pixel, 255 where it is unknown.

    A pixel gets the label of the most probable class, if that is at least as probable as
    `confidence`. Elsewhere it keeps its exact label, if all these classes together are at most as
    probable as 1 - `confidence`; without exact labels, and between the two, it is unknown.

    Args:
        probabilities: of some classes, 0..1.
        labels: of these classes.
        confidence: 0..1.
        exact: labels of other classes.
        split_from: the exact label that these classes were counted to. A pixel with any other exact
            label keeps it. None if all exact labels may give way.
    """
    best = probabilities.argmax(-1)
    certain = probabilities.max(-1) >= confidence
    other = np.uint8(IGNORE)
    if exact is not None:
        absent = probabilities.sum(-1) <= 1 - confidence + 1e-6
        other = np.where(absent, exact, np.uint8(IGNORE))
    found = np.where(certain, np.asarray(labels, np.uint8)[best], other)
    if split_from is not None:
        found = np.where(np.isin(exact, (split_from, IGNORE)), found, exact)
    return found


def encode_grey(labels: UInt8[np.ndarray, "h w"]) -> bytes:
    """Encodes a label map as an 8-bit grey PNG, which needs no names and no colours of classes."""
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, format="PNG")
    return buffer.getvalue()
