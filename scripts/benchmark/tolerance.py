"""Looks for the tolerance of the paper's BF1: label maps displaced by known amounts are scored.

    python -m scripts.benchmark.tolerance [--size 1536x2048] [--scenes 2]

The published pairs of BIoU and BF1 lie on a line, which is fitted to metrics/published.csv. The
label maps of rendered scenes are displaced in several ways and by several amounts, and scored
against themselves: BIoU with boundaries of 5 pixels, as a photograph of 4096x3072 has them, and BF1
at several tolerances. The tolerance that the paper has should give pairs on the line. Printed is,
for each way and each tolerance, how far its BF1 lies above the line: the mean over the amounts
whose BIoU is among the published ones, and at last the root of the mean square over all ways.
"""

import argparse
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from massformer_jax.classes import IGNORE
from massformer_jax.data.sample.scenes import render_scene
from massformer_jax.metrics.counts import add_counts, image_counts, zero_counts
from massformer_jax.metrics.published import PAPER, published
from massformer_jax.metrics.scores import summarize, tolerance_name
from scripts.arguments import parse_count, parse_size
from scripts.markdown import table

# In pixels. At 1.5 a pixel reaches the eight around it, which is a square of 3x3; 5.12 is 0.1% of
# the diagonal of 4096x3072.
TOLERANCES = (1.0, 1.5, 2.0, 3.0, 5.12)
SQUARE = "5x5"  # the square of Bokhovkin and Burnaev (arXiv 1905.07852), 2 pixels to each side
RADIUS = 5  # pixels of BIoU's boundaries
CLASSES = 7
LabelMap = UInt8[np.ndarray, "h w"]


def warped(
    labels: LabelMap, amount: float, tail: str, cell: int, rng: np.random.Generator
) -> LabelMap:
    """Returns labels displaced by a smooth random field.

    Args:
        labels: the label map.
        amount: standard deviation of the displacement along each side, in pixels; for "student",
            whose variance is infinite, its scale.
        tail: distribution of the displacements: "normal", "laplace" or "student" (two degrees of
            freedom). The latter two displace few places far and many a little.
        cell: distance in pixels between places that are displaced independently.
        rng: decides the field.
    """
    height, width = labels.shape
    cells = (height // cell + 2, width // cell + 2)
    field = rng.normal(size=(*cells, 2))
    if tail == "laplace":
        field *= np.sqrt(rng.exponential(size=(*cells, 1)))
    elif tail == "student":
        field /= np.sqrt(rng.exponential(size=(*cells, 1)))
    field = cv2.resize(field.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return cv2.remap(
        labels,
        x + np.float32(amount) * field[..., 0],
        y + np.float32(amount) * field[..., 1],
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_REPLICATE,
    )


def reduced(labels: LabelMap, factor: float) -> LabelMap:
    """Returns labels as a network sees them whose maps are smaller by a factor: enlarged again."""
    height, width = labels.shape
    small = (round(width / factor), round(height / factor))
    masks = (
        cv2.resize(
            cv2.resize((labels == k).astype(np.float32), small, interpolation=cv2.INTER_AREA),
            (width, height),
            interpolation=cv2.INTER_LINEAR,
        )
        for k in range(CLASSES)
    )
    return np.argmax(list(masks), 0).astype(np.uint8)


def mistaken(labels: LabelMap, share: float, rng: np.random.Generator) -> LabelMap:
    """Returns labels of which this share of the area, in patches, has another class."""
    height, width = labels.shape
    noise = rng.normal(size=(height // 128 + 2, width // 128 + 2)).astype(np.float32)
    noise = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    wrong = noise > np.quantile(noise, 1 - share)
    return np.where(wrong, (labels + 1) % CLASSES, labels).astype(np.uint8)


def ways() -> Iterator[tuple[str, list]]:
    """Yields (name, [function(labels, rng) -> labels for each amount]) of each way to displace."""

    def way(displace, amounts, share):
        return [
            lambda labels, rng, amount=amount: mistaken(displace(labels, amount, rng), share, rng)
            for amount in amounts
        ]

    for share, more in ((0.0, ""), (0.06, ", 6% of the area mistaken")):
        for tail, amounts in (
            ("normal", (3, 4, 5, 7, 9, 12)),
            ("laplace", (3, 4, 5, 7, 9, 12)),
            ("student", (2, 2.5, 3, 4, 6, 8)),
        ):
            for cell in (24, 96):

                def displace(labels, amount, rng, tail=tail, cell=cell):
                    return warped(labels, amount, tail, cell, rng)

                yield f"{tail}, every {cell} px{more}", way(displace, amounts, share)
        name = f"reduced and enlarged{more}"
        yield name, way(lambda x, factor, _: reduced(x, factor), (6, 8, 11, 16, 22), share)


def square_bf1(prediction: LabelMap, label: LabelMap) -> float:
    """Computes the mean over the classes of BF1 as Bokhovkin and Burnaev compute it."""
    scores = []
    for k in range(CLASSES):
        outlines, near = [], []
        for labels in (prediction, label):
            outside = (labels != k).astype(np.uint8)
            outlines.append(cv2.dilate(outside, np.ones((3, 3), np.uint8)) - outside > 0)
            near.append(cv2.dilate(outlines[-1].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)
        if outlines[1].any():
            precision = (outlines[0] & near[1]).sum() / max(outlines[0].sum(), 1)
            recall = (outlines[1] & near[0]).sum() / outlines[1].sum()
            scores.append(2 * precision * recall / max(precision + recall, 1e-9))
    return float(np.mean(scores))


def pair(function, maps: list[LabelMap]) -> tuple[float, dict[str, float]]:
    """Returns BIoU in percent and BF1 in percent by tolerance, of displaced label maps."""
    pool, square = zero_counts(CLASSES, len(TOLERANCES)), []
    for i, label in enumerate(maps):
        known = np.where(label == IGNORE, 0, label).astype(np.uint8)
        prediction = function(known, np.random.default_rng(100 + i))
        ratio = RADIUS / float(np.hypot(*label.shape))
        pool = add_counts(
            pool, image_counts(prediction, label, boundary_ratio=ratio, tolerances=TOLERANCES)
        )
        square.append(square_bf1(prediction, label))
    summary = summarize(pool, TOLERANCES)
    names = [tolerance_name(tolerance) for tolerance in TOLERANCES]
    bf1 = {name: 100 * summary[f"mBF1@{name}"] for name in names}
    return 100 * summary["mBIoU"], {**bf1, SQUARE: 100 * float(np.mean(square))}


def published_pairs(source: str = PAPER) -> Float[np.ndarray, "n 2"]:
    """Returns a source's pairs of BIoU and BF1 of both splits, in percent."""
    scores = [s for m in published() if m.source == source for s in (m.val, m.test)]
    pairs = np.array([(score.biou, 100 * score.bf1) for score in scores])
    return pairs[~np.isnan(pairs).any(1)]


def published_line() -> tuple[float, float]:
    """Returns (slope, offset) of the line BF1 = slope · BIoU + offset through the paper's pairs."""
    slope, offset = np.polyfit(*published_pairs().T, 1)
    return float(slope), float(offset)


def from_line(pairs: Float[np.ndarray, "n 2"]) -> float:
    """Returns the root of the mean square of what pairs differ from the line, in percent of BF1."""
    slope, offset = published_line()
    return float(np.sqrt(((slope * pairs[:, 0] + offset - pairs[:, 1]) ** 2).mean()))


def above_line(maps: list[LabelMap]) -> Iterator[tuple[str, Float[np.ndarray, "amounts t"]]]:
    """Yields for each way how far BF1 lies above the line, in percent, by amount and tolerance.

    Amounts whose BIoU is not among the published ones are left out.
    """
    known = published_pairs()[:, 0]
    slope, offset = published_line()
    for name, functions in ways():
        rows = []
        for function in functions:
            biou, bf1 = pair(function, maps)
            if known.min() <= biou <= known.max():
                rows.append([value - slope * biou - offset for value in bf1.values()])
        yield name, np.array(rows).reshape(len(rows), len(TOLERANCES) + 1)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=parse_size, default=(1536, 2048), help="rows x columns")
    parser.add_argument("--scenes", type=parse_count, default=2, help="number of them")
    args = parser.parse_args()
    maps = [
        render_scene(np.random.default_rng(i), *args.size, water=i % 2 == 0)[1]
        for i in range(args.scenes)
    ]
    slope, offset = published_line()
    told = [
        f"{len(pairs)} pairs of {source} lie {from_line(pairs):.1f} from it"
        for source in (PAPER, "CoordFormer")
        for pairs in [published_pairs(source)]
    ]
    print(f"BF1 = {slope:.3f} BIoU + {offset:.1f}, in percent; {'; '.join(told)}\n")
    found = list(above_line(maps))
    rows = [
        [name, *(f"{value:+.1f}" for value in above.mean(0)), str(len(above))]
        for name, above in found
        if len(above)
    ]
    every = np.concatenate([above for _, above in found])
    root = np.sqrt((every**2).mean(0))
    rows.append(["root of the mean square", *(f"{value:.1f}" for value in root), str(len(every))])
    names = [tolerance_name(tolerance) for tolerance in TOLERANCES]
    print(table(["displaced", *names, SQUARE, "amounts"], rows))


if __name__ == "__main__":
    main()
