"""Times the metrics of one pair of label maps, ours and a plain version with OpenCV.

    python -m scripts.benchmark.metrics [--size 3072x4096] [--repeats 9]

The plain version does what the released evaluator does: it makes a mask for each class of
prediction and label, erodes it five times by a 3x3 square, and takes histograms of the labels. Its
counts must equal ours. The contours of BF1 (the boundary F1 score), which the release omits, are
timed by themselves: the plain version computes a distance transform for each of them.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import cv2
import jax
import numpy as np

from massformer_jax.data.sample.scenes import render_scene
from massformer_jax.metrics import counts
from massformer_jax.ops.boundaries import contours

CLASSES = 7


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a prediction and a label map: the label map shifted and with specks, and a scene."""
    rng = np.random.default_rng(0)
    _, label = render_scene(rng, height, width, water=True)
    prediction = np.roll(np.where(label == 255, 0, label).astype(np.uint8), (3, 4), (0, 1))
    specks = rng.random(label.shape) < 0.001
    prediction[specks] = rng.integers(0, CLASSES, specks.sum())
    return prediction, label


def plain_boundary(mask: np.ndarray, radius: int) -> np.ndarray:
    """Tells which pixels of a mask, uint8 [h, w], lie within `radius` of its border."""
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=radius)[1:-1, 1:-1]
    return (mask - eroded) > 0


def plain_counts(prediction: np.ndarray, label: np.ndarray) -> list[np.ndarray]:
    """Returns, by class: intersection, prediction, label, boundary intersection, boundary union."""
    radius = counts.boundary_radius(*label.shape)
    boundaries = []
    for k in range(CLASSES):
        predicted = plain_boundary((prediction == k).astype(np.uint8), radius)
        labelled = plain_boundary((label == k).astype(np.uint8), radius)
        intersect = np.count_nonzero(predicted & labelled)
        union = np.count_nonzero(predicted) + np.count_nonzero(labelled) - intersect
        boundaries.append((intersect, union))
    counted = label != 255
    prediction, label = prediction[counted], label[counted]
    maps = (prediction[prediction == label], prediction, label)
    return [*(np.bincount(x, minlength=CLASSES) for x in maps), *np.array(boundaries).T]


def plain_matches(prediction: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns matched contour pixels [prediction or label, tolerance, class], and the seconds."""
    prediction = np.where(label == 255, label, prediction)
    edges = [np.asarray(jax.jit(contours)(x)) for x in (prediction, label)]
    distances = [counts.tolerance_pixels(*label.shape, t) for t in counts.TOLERANCES]
    start = time.perf_counter()
    matched = np.zeros((2, len(distances), CLASSES), int)
    for k in range(CLASSES):
        outlines = [edge & (x == k) for edge, x in zip(edges, (prediction, label), strict=True)]
        for i, (mine, other) in enumerate((outlines, outlines[::-1])):
            if other.any():
                away = (~other).astype(np.uint8)
                far = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[mine]
                matched[i, :, k] = [np.sum(far <= distance) for distance in distances]
    return matched, time.perf_counter() - start


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Returns the median time of a call, after two seconds of calls that warm everything up."""
    times, warm = [], time.perf_counter() + 2
    while len(times) < repeats:
        start = time.perf_counter()
        function()
        if start > warm:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="3072x4096", help="rows x columns")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    prediction, label = scene(*map(int, args.size.split("x")))
    on_device = jax.device_put((prediction, label))

    def ours(**settings):
        return jax.block_until_ready(counts.image_counts(*on_device, **settings))

    got, plain = ours(), plain_counts(prediction, label)
    fields = ("intersect", "pred", "label", "boundary_intersect", "boundary_union")
    for name, expected in zip(fields, plain, strict=True):
        np.testing.assert_array_equal(getattr(got, name), expected, err_msg=name)
    matches, matching = plain_matches(prediction, label)
    for name, expected in zip(("matched_pred", "matched_label"), matches, strict=True):
        np.testing.assert_array_equal(getattr(got, name), expected, err_msg=name)

    released = seconds(lambda: plain_counts(prediction, label), args.repeats)
    same = seconds(lambda: ours(tolerances=()), args.repeats)
    everything = seconds(ours, args.repeats)
    rows = (
        ("OpenCV, the released counts", released),
        ("here, the same counts", same),
        ("OpenCV, and the contours of BF1", released + matching),
        ("here, all counts", everything),
    )
    print(f"{args.size}, {CLASSES} classes, jax {jax.__version__}, OpenCV {cv2.__version__}")
    for name, time_taken in rows:
        print(f"{name:<36}{1e3 * time_taken:9.0f} ms")
    print(
        f"the same counts in {same / released:.2f} of the time, "
        f"all counts in {everything / (released + matching):.2f}"
    )


if __name__ == "__main__":
    main()
