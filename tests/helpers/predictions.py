"""Predictions of small photographs, made of random numbers."""

import cv2
import numpy as np

from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.output.prediction import Group, Prediction

SKY, TREE_AND_PERSON = Group("sky", (5,)), Group("tree+person", (3, 1))


def random_prediction(
    groups=(SKY, TREE_AND_PERSON), *, size=(60, 90), orientation=1, classes=CLASSES
):
    """Returns a prediction whose regions are some pixels wide; alphas are sums of probabilities."""
    rng = np.random.default_rng(0)
    h, w = size
    coarse = rng.random((h // 8, w // 8, len(classes)), np.float32) ** 8
    scores = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR) + np.float32(1e-6)
    probabilities = scores / scores.sum(-1, keepdims=True)
    image = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
    alphas = {g.name: probabilities[..., list(g.members)].sum(-1) for g in groups}
    return Prediction(
        image=image,
        labels=probabilities.argmax(-1).astype(np.uint8),
        classes=classes,
        palette=PALETTE,
        groups=tuple(groups),
        probabilities=probabilities,
        alphas=alphas,
        foregrounds={g.name: 255 - image for g in groups},
        orientation=orientation,
    )


def flat_prediction(labels, **fields):
    """Returns a prediction of a grey photograph with these labels, and with the fields given."""
    labels = np.asarray(labels, np.uint8)
    image = np.full((*labels.shape, 3), 100, np.uint8)
    return Prediction(
        image, labels, CLASSES, PALETTE, **{"groups": (SKY, TREE_AND_PERSON)} | fields
    )
