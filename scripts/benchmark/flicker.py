"""Measures how much labels flicker in a moving scene, as they are and steadied over time.

    python -m scripts.benchmark.flicker [--size 540x960] [--frames 48] [--scenes 3]

The scene is rendered, so its labels and its motion are known (`scripts/benchmark/moving_scene.py`).
Scores come from a simulation that flickers, or from a network. Compared are the labels of each
frame alone; of a plain average over time, which trails behind what moves; and of
`massformer_jax/video/smoothing.py`, which `predict --smooth` uses.

- flicker: pixels whose label differs from that of the same point in the frame before, by the true
  motion, as a share of the pixels that are seen in both. That of the truth itself is not 0, because
  the motion ends between pixels.
- mIoU, BIoU and BF1: as docs/metrics.md has them; BF1 allows one pixel.
- uncovered: wrong pixels as a share of those that came into view in the last five frames, where
  what trails behind would show.
"""

import argparse
import time
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

from massformer_jax.classes import IGNORE
from massformer_jax.inference.stream import Answer
from massformer_jax.metrics.counts import add_counts, image_counts, zero_counts
from massformer_jax.metrics.scores import summarize, tolerance_name
from massformer_jax.video.smoothing import steadied
from scripts.arguments import parse_count, parse_size
from scripts.benchmark.moving_scene import View, flickering_scores, moved_labels, moving_scene
from scripts.markdown import table

_TOLERANCES = (1.0,)
_RECENT = 5  # frames since a point came into view
_SHARE = 1 / 6  # of the new frame in the plain average, which then is worth as many frames as ours

Labels = Iterator[UInt8[np.ndarray, "h w"]]


def plain_average(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Yields answers whose scores are an exponential average over time, pixel by pixel."""
    mean = None
    for answer in answers:
        mean = answer.answer if mean is None else mean + (answer.answer - mean) * _SHARE
        yield answer._replace(answer=mean)


WAYS = {"each frame alone": iter, "a plain average": plain_average, "`--smooth`": steadied}


def measured(views: Iterable[View], labels: Iterable[UInt8[np.ndarray, "h w"]]) -> dict[str, float]:
    """Returns the numbers of the table, as shares in 0..1, of labels of all frames."""
    age = before = None
    pool = zero_counts(num_tolerances=len(_TOLERANCES))
    changed = seen = wrong = uncovered = 0
    for view, found in zip(views, labels, strict=True):
        known = view.labels != IGNORE
        pool = add_counts(pool, image_counts(found, view.labels, tolerances=_TOLERANCES))
        if before is None:
            age = np.full(found.shape, _RECENT, np.uint8)
        else:
            both = view.seen & known
            changed += np.sum(moved_labels(before, view)[both] != found[both])
            seen += both.sum()
            age = np.where(view.seen, np.minimum(moved_labels(age, view) + 1, _RECENT), 0)
            age = age.astype(np.uint8)
            new = (age < _RECENT) & known
            wrong += np.sum(found[new] != view.labels[new])
            uncovered += new.sum()
        before = found
    scores = summarize(pool, _TOLERANCES)
    return {
        "flicker": changed / seen,
        "mIoU": scores["mIoU"],
        "mBIoU": scores["mBIoU"],
        "mBF1": scores[f"mBF1@{tolerance_name(_TOLERANCES[0])}"],
        "uncovered": wrong / uncovered,
    }


def _labels(answers: Iterable[Answer]) -> Labels:
    return (answer.answer.argmax(-1).astype(np.uint8) for answer in answers)


def compared(
    views: list[View], scores: Iterable[Float[np.ndarray, "h w k"]]
) -> tuple[dict[str, dict[str, float]], float]:
    """Returns the numbers of each way, and the seconds per frame that ours takes.

    Args:
        views: the frames of a scene.
        scores: of a network, or simulated, for each of them.
    """
    kept = [x.astype(np.float16) for x in scores]  # all ways see the same, in little memory
    truth = (np.where(view.labels == IGNORE, 0, view.labels) for view in views)
    rows, seconds = {"the truth": measured(views, truth)}, 0.0
    for name, way in WAYS.items():
        answers = (
            Answer(i, view.image, x.astype(np.float32))
            for i, (view, x) in enumerate(zip(views, kept, strict=True))
        )
        begun = time.perf_counter()
        found = list(_labels(way(answers)))
        seconds = time.perf_counter() - begun  # of the last
        rows[name] = measured(views, found)
    return rows, seconds / len(views)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=parse_size, default=(540, 960), metavar="HxW")
    parser.add_argument("--frames", type=parse_count, default=48)
    parser.add_argument("--scenes", type=parse_count, default=3)
    parser.add_argument("--checkpoint", help="takes the scores of this network, not simulated ones")
    return parser.parse_args()


def main() -> None:
    """Prints the table, as means over the scenes."""
    args = _arguments()
    network = None
    if args.checkpoint:
        from massformer_jax.inference.segmenter import Segmenter

        network = Segmenter.load(args.checkpoint)
    scenes = []
    for seed in range(args.scenes):
        views = list(moving_scene(*args.size, args.frames, seed))
        scores = (
            map(network.scores, (view.image for view in views))
            if network
            else flickering_scores(views, seed)
        )
        scenes.append(compared(views, scores))
    names = scenes[0][0]["the truth"]
    rows = []
    for way in scenes[0][0]:
        means = (np.mean([rows[way][name] for rows, _ in scenes]) for name in names)
        rows.append([way, *(f"{100 * mean:.2f} %" for mean in means)])
    print(table(["labels of", *names], rows))
    print(f"steadied: {np.mean([seconds for _, seconds in scenes]):.3f} s per frame")


if __name__ == "__main__":
    main()
