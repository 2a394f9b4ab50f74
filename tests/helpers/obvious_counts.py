"""The counts of metrics/counts.py by their definitions, in NumPy, slowly and mask by mask."""

import numpy as np

from massformer_jax.metrics.counts import Counts


def obvious_counts(
    prediction: np.ndarray,
    label: np.ndarray,
    num_classes: int,
    *,
    boundary_ratio: float = 0.001,
    tolerances: tuple[float, ...] = (0.0075, 0.001),
) -> Counts:
    """Returns the counts of one image, int64."""
    diagonal = float(np.hypot(*label.shape))
    steps = max(1, round(boundary_ratio * diagonal))
    classes = range(num_classes)
    counted = label != 255
    confusion = [
        [np.sum((label == j) & (prediction == k) & counted) for k in classes] for j in classes
    ]
    boundaries = [
        (_boundary(prediction == k, steps), _boundary(label == k, steps)) for k in classes
    ]
    seen = np.where(counted, prediction, 255)
    contours = [(_contour(seen, k), _contour(label, k)) for k in classes]
    distances = [t if t >= 1 else t * diagonal for t in tolerances]
    return Counts(
        np.array(confusion),
        np.array([np.sum(p & t) for p, t in boundaries]),
        np.array([np.sum(p | t) for p, t in boundaries]),
        np.array([len(p) for p, _ in contours]),
        np.array([len(t) for _, t in contours]),
        np.array([[_close(p, t, d) for p, t in contours] for d in distances]),
        np.array([[_close(t, p, d) for p, t in contours] for d in distances]),
    )


def _boundary(mask, steps):
    """Returns what `steps` erosions by a 3x3 square remove; the mask ends at the image's border."""
    eroded = np.pad(mask, steps)
    for _ in range(steps):
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(eroded, 1), (3, 3))
        eroded = windows.all(axis=(2, 3))
    return mask & ~eroded[steps:-steps, steps:-steps]


def _contour(labels, k):
    """Returns (y, x) of the pixels of class k beside another class; 255 is not another class."""
    framed = np.pad(labels, 1, constant_values=255)
    points = []
    for y, x in np.argwhere(labels == k):
        neighbours = (
            framed[y, x + 1],
            framed[y + 2, x + 1],
            framed[y + 1, x],
            framed[y + 1, x + 2],
        )
        if any(other not in (k, 255) for other in neighbours):
            points.append((y, x))
    return np.array(points).reshape(-1, 2)


def _close(points, others, distance):
    """Returns how many of the points have one of the others within the distance."""
    squares = ((points[:, None] - others[None]) ** 2).sum(-1)
    return int(np.sum((squares <= distance**2).any(1)))
