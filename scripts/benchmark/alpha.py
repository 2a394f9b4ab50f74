"""Compares soft edges with the truth of rendered scenes: ours, masks, and other ways of matting.

    python -m scripts.benchmark.alpha [--size 3072x4096] [--seeds 0,1,2] [--scenes hair] [--crops]

All ways start from the same simulated scores (`alpha_scenes.simulated_scores`). Where one has a
setting, the settings of a short list are all tried, and of each error the smallest is taken: that
is in its favour. Ours has no setting. PyMatting is needed (`pip install -e
'.[matting]'`).
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import Float, UInt8

from massformer_jax.inference.alpha import coverage, foreground, prior_of
from massformer_jax.metrics.matting import Errors, errors
from scripts.arguments import parse_size
from scripts.benchmark.alpha_scenes import SCENES, Scene, encoded, render
from scripts.conditions import describe, versions
from scripts.markdown import table

SIGMAS = (1, 2, 4)  # of the blurred mask, in pixels
GUIDED = ((4, 1e-4), (16, 1e-4))  # radius in pixels, and what evens out
SURE = (0.02, 0.1)  # a trimap is unknown where the scores are not this near to 0 or 1
SMALLER = 4  # times along each side: PyMatting sees 1024 pixels of 4096
CROP = 512  # along each side

Matte = Float[np.ndarray, "h w"]


class Row(NamedTuple):
    """What one way reached: the least of each error, and the seconds of one setting."""

    way: str
    errors: Errors
    seconds: float


def blurred(scene: Scene) -> Iterator[Callable[[], Matte]]:
    """Yields the ways to blur the hard mask."""
    hard = hard_mask(scene)
    for sigma in SIGMAS:
        yield lambda sigma=sigma: cv2.GaussianBlur(hard, (0, 0), sigma)


def hard_mask(scene: Scene) -> Matte:
    """Returns 1 where what is in front has the better score."""
    return (scene.probabilities[..., 1] > 0.5).astype(np.float32)


def guided(scene: Scene) -> Iterator[Callable[[], Matte]]:
    """Yields the guided filter of the scores at full size, for several settings."""
    scores = scene.probabilities[..., 1]
    for radius, even in GUIDED:
        yield lambda r=radius, e=even: np.clip(guided_filter(scene.image, scores, r, e), 0, 1)


def guided_filter(
    image: UInt8[np.ndarray, "h w 3"], scores: Matte, radius: int, even: float
) -> Matte:
    """Returns the scores as locally linear functions of the colours.

    This is the filter of He, Sun and Tang, "Guided Image Filtering", ECCV 2010, with a colour
    guide. It works on strips of rows, which overlap by all that they read.
    """
    rows = []
    for top in range(0, len(image), 256):
        low, high = max(top - 2 * radius, 0), min(top + 256 + 2 * radius, len(image))
        part = _guided_strip(image[low:high] / np.float32(255), scores[low:high], radius, even)
        rows.append(part[top - low : top - low + 256])
    return np.concatenate(rows)


def _guided_strip(guide, scores, radius, even):
    def mean(x):
        return cv2.boxFilter(x, cv2.CV_32F, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REFLECT)

    centre, expected = mean(guide), mean(scores)
    together = mean(guide * scores[..., None]) - centre * expected[..., None]
    variance = np.empty((*scores.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i, 3):
            value = mean(guide[..., i] * guide[..., j]) - centre[..., i] * centre[..., j]
            variance[..., i, j] = variance[..., j, i] = value
    variance += even * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(variance, together[..., None])[..., 0]
    offset = expected - (slope * centre).sum(-1)
    return (mean(slope) * guide).sum(-1) + mean(offset)


def closed_form(scene: Scene) -> Iterator[Callable[[], Matte]]:
    """Yields PyMatting's closed form at a quarter of the size, enlarged, for several trimaps."""
    h, w = scene.truth.shape
    size = (w // SMALLER, h // SMALLER)
    image = cv2.resize(scene.image, size, interpolation=cv2.INTER_AREA)
    scores = cv2.resize(scene.probabilities[..., 1], size, interpolation=cv2.INTER_AREA)

    def matte(sure):
        small = closed_form_matte(image, scores, sure)
        return cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)

    for sure in SURE:
        yield lambda sure=sure: matte(sure)


def closed_form_matte(image: UInt8[np.ndarray, "h w 3"], scores: Matte, sure: float) -> Matte:
    """Returns the closed-form matte (Levin, Lischinski and Weiss, 2008) of a trimap of scores."""
    from pymatting import estimate_alpha_cf

    trimap = np.where(scores > 1 - sure, 1.0, np.where(scores < sure, 0.0, 0.5))
    return np.float32(np.clip(estimate_alpha_cf(image / 255, trimap), 0, 1))


def ours(scene: Scene) -> Iterator[Callable[[], Matte]]:
    """Yields our one way."""
    yield lambda: coverage(scene.probabilities, scene.image, [1])


WAYS: dict[str, Callable[[Scene], Iterator[Callable[[], Matte]]]] = {
    "hard mask": lambda scene: iter([lambda: hard_mask(scene)]),
    "blurred mask": blurred,
    "scores alone": lambda scene: iter([lambda: prior_of(scene.probabilities, [1])]),
    "guided filter": guided,
    "PyMatting at 1/4": closed_form,
    "ours": ours,
}


def compared(scene: Scene, ways: dict[str, Callable] = WAYS) -> Iterator[Row]:
    """Yields what each way reaches on a scene."""
    for name, settings in ways.items():
        found, times = [], []
        for compute in settings(scene):
            start = time.perf_counter()
            alpha = compute()
            times.append(time.perf_counter() - start)
            found.append(errors(alpha, scene.truth))
        least = Errors(*(min(values) for values in zip(*found, strict=True)))
        yield Row(name, least, float(np.median(times)))


def most_edges(truth: Matte) -> tuple[slice, slice]:
    """Returns the square crop, of some, with most pixels that are partly covered."""
    mixed = ((truth > 0) & (truth < 1)).astype(np.float32)
    h, w = truth.shape
    corners = [(y, x) for y in range(0, h - CROP + 1, 256) for x in range(0, w - CROP + 1, 256)]
    y, x = max(corners, key=lambda at: mixed[at[0] : at[0] + CROP, at[1] : at[1] + CROP].sum())
    return np.s_[y : y + CROP, x : x + CROP]


def crop_of(scene: Scene, place: tuple[slice, slice]) -> Scene:
    """Returns a part of a scene."""
    return Scene(*(np.ascontiguousarray(x[place]) for x in scene))


def full_size_closed_form(scene: Scene) -> Iterator[Callable[[], Matte]]:
    """Yields PyMatting's closed form with every pixel, for several trimaps."""
    for sure in SURE:
        yield lambda sure=sure: closed_form_matte(scene.image, scene.probabilities[..., 1], sure)


class Composites(NamedTuple):
    """Errors of sRGB values, in 0..255, where the truth is partly covered, on a new background.

    The composites have the colours of the photograph or those of `foreground`, and our coverage;
    the last has `foreground` and the true coverage.
    """

    photograph: float
    estimated: float
    with_truth: float
    seconds: float


def composites(scene: Scene) -> Composites:
    """Returns by how much composites over a bright yellow are wrong, as roots of mean squares."""
    alpha = coverage(scene.probabilities, scene.image, [1])
    start = time.perf_counter()
    colours = foreground(scene.image, alpha)
    seconds = time.perf_counter() - start
    mixed = (scene.truth > 0.01) & (scene.truth < 0.99)
    background = np.array([0.9, 0.8, 0.1], np.float32)

    def over(front, share):
        share = share[mixed][:, None]
        return encoded(share * front[mixed] + (1 - share) * background).astype(np.float32)

    def light(image):
        x = image.astype(np.float32) / 255
        return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)

    expected = over(scene.front, scene.truth)

    def error(front, share):
        return float(np.sqrt(np.square(over(front, share) - expected).mean()))

    return Composites(
        error(light(scene.image), alpha),
        error(light(colours), alpha),
        error(light(foreground(scene.image, scene.truth)), scene.truth),
        seconds,
    )


def rows_of(scene: str, seed: int, rows: Iterator[Row]) -> Iterator[list[str]]:
    """Yields the cells of a table's rows, and prints them as they come."""
    for way, found, seconds in rows:
        cells = [
            scene,
            str(seed),
            way,
            f"{found.sad:.1f}",
            f"{1000 * found.mse:.2f}",
            f"{found.gradient:.1f}",
            f"{found.connectivity:.1f}",
            f"{seconds:.1f}",
        ]
        print(*cells, flush=True)
        yield cells


HEAD = ("scene", "seed", "way", "SAD", "MSE x 1000", "gradient", "connectivity", "seconds")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=parse_size, default=(3072, 4096), help="rows x columns")
    parser.add_argument("--seeds", default="0", help="several with commas between them")
    parser.add_argument("--scenes", default=",".join(SCENES), help="names with commas between them")
    parser.add_argument("--ways", default=",".join(WAYS), help="names with commas between them")
    parser.add_argument("--crops", action="store_true", help="PyMatting with every pixel, and ours")
    args = parser.parse_args()
    ways = {name: WAYS[name] for name in args.ways.split(",")}
    try:
        import pymatting  # noqa: F401
    except ImportError:
        parser.error("PyMatting is not installed; pip install -e '.[matting]'")
    # Programs are compiled, and PyMatting is, before anything is timed.
    h, w = args.size
    small = render("fence", min(h, CROP), min(w, CROP), 0)
    list(compared(small, {"": full_size_closed_form}))
    blank = render("fence", h, w, 0)
    foreground(blank.image, coverage(blank.probabilities, blank.image, [1]))
    del blank
    rows, colours = [], []
    pair = {"closed form, every pixel": full_size_closed_form, "ours": ours}
    for seed in map(int, args.seeds.split(",")):
        for name in args.scenes.split(","):
            scene = render(name, h, w, seed)
            if args.crops:
                crop = crop_of(scene, most_edges(scene.truth))
                rows += rows_of(name, seed, compared(crop, pair))
            else:
                rows += rows_of(name, seed, compared(scene, ways))
                found = composites(scene)
                colours.append([name, str(seed), *(f"{x:.1f}" for x in found)])
                print(*colours[-1], flush=True)
    print(
        f"\n{w}x{h} pixels, {describe(jax.devices())}, "
        f"{versions('jax', 'numpy', 'opencv-python-headless', 'pymatting')}\n"
    )
    print(table(HEAD, rows))
    if colours:
        names = ("scene", "seed", "photograph's", "estimated", "with true coverage", "seconds")
        print("Colours of composites:\n\n" + table(names, colours))


if __name__ == "__main__":
    main()
