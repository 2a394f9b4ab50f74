"""Measures how fast training crops are made, for docs/pipeline.md.

    python -m scripts.benchmark.pipeline --folder photographs

The first run renders photographs of 12 megapixels into the folder (half a minute). Then the
released steps and ours take turns on one core. Both make the same crops, drawn with the same random
numbers. The crops must be equal bit for bit before their colours are distorted.
"""

import argparse
import dataclasses
import io
import os
import pathlib
import time
from collections import defaultdict

import cv2
import numpy as np
from PIL import Image

from massformer_jax.data.crops import Place, ResizedCrop, cut_images
from massformer_jax.data.images import decode_mask, encode_mask
from massformer_jax.data.sample.scenes import render_scene
from massformer_jax.data.sizes import resized_size
from massformer_jax.data.transforms import Each, PhotometricDistortion, RandomFlip

SIZES = ((2736, 3648), (3648, 2736))
CROP = ResizedCrop(1024, tuple(int(3072 * x * 0.1) for x in range(5, 21)), max_long_edge=8192)


def render(folder: pathlib.Path) -> None:
    """Writes scenes with texture at all scales, which JPEG has to store, as in photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (height, width) in enumerate(SIZES):
        rng = np.random.default_rng(seed)
        image, label = render_scene(rng, height, width, water=seed % 2 == 0)
        texture = np.zeros((height, width), np.float32)
        for octave in range(7):
            shape = (height >> octave) + 1, (width >> octave) + 1
            coarse = rng.standard_normal(shape, np.float32)
            texture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        image = image + 8 * texture[..., None] + 1.5 * rng.standard_normal(image.shape, np.float32)
        image = np.clip(image, 0, 255).round().astype(np.uint8)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
        restarts = [cv2.IMWRITE_JPEG_RST_INTERVAL, -(-width // 16)]
        for name, options in (("plain", quality), ("restarts", quality + restarts)):
            jpeg = cv2.imencode(".jpg", image[..., ::-1], options)[1]
            (folder / f"{seed}_{name}.jpg").write_bytes(jpeg.tobytes())
        (folder / f"{seed}.png").write_bytes(encode_mask(label))


def records(folder: pathlib.Path, kind: str) -> list[dict[str, bytes]]:
    """Returns what `render` wrote, as records of the dataset; `kind` is "plain" or "restarts"."""
    return [
        {
            "image": (folder / f"{seed}_{kind}.jpg").read_bytes(),
            "segmentation_mask": (folder / f"{seed}.png").read_bytes(),
            "file_name": f"{seed}_{kind}.jpg".encode(),
        }
        for seed in range(len(SIZES))
    ]


class Stages:
    """The seconds that each stage took."""

    def __init__(self):
        self.seconds = defaultdict(float)
        self._time = time.perf_counter()

    def start(self) -> None:
        """Begins the next stage."""
        self._time = time.perf_counter()

    def end(self, stage: str) -> None:
        """Ends a stage and begins the next one."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._time
        self._time = now


def released(record: dict, rng: np.random.Generator, stages: Stages) -> dict:
    """Decodes all, resizes all and then crops, with OpenCV and Pillow, as the release does."""
    stages.start()
    image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)
    stages.end("decode photograph")
    label = np.array(Image.open(io.BytesIO(record["segmentation_mask"])))
    stages.end("decode label map")
    short_edge = int(rng.choice(CROP.short_edges))
    size = resized_size(*label.shape, long_edge=CROP.max_long_edge, short_edge=short_edge)
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    stages.end("resize photograph")
    label = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
    stages.end("resize label map")
    for redrawn in range(CROP.tries + 1):
        top, left = (int(rng.integers(max(length - CROP.size, 0) + 1)) for length in size)
        window = slice(top, top + CROP.size), slice(left, left + CROP.size)
        if redrawn == CROP.tries:
            break
        classes, counts = np.unique(label[window], return_counts=True)
        counts = counts[classes != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < CROP.max_class_share:
            break
    stages.end("find crop")
    return {"image": image[window], "label": label[window]}


def ours(record: dict, rng: np.random.Generator, stages: Stages, crop: ResizedCrop) -> list[dict]:
    """Cuts the same crops in our way."""
    stages.start()
    crops = crop.random_map(record, rng)
    stages.end("all of it")
    return crops


def released_distortion(element: dict, rng: np.random.Generator, stages: Stages) -> dict:
    """Flips and distorts as `PhotometricDistortion` of the release does, in float arithmetic."""
    stages.start()
    image, label = element["image"], element["label"]
    if rng.random() < 0.5:
        image, label = image[:, ::-1].copy(), label[:, ::-1].copy()
    stages.end("flip")

    def scaled(array, factor, offset):
        return np.clip(array.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)

    if rng.random() < 0.5:
        image = scaled(image, 1, rng.uniform(-32, 32))
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    if contrast_first and contrast:
        image = scaled(image, contrast, 0)
    for channel in (1, 0):
        if rng.random() < 0.5:
            hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            if channel == 1:
                hsv[..., 1] = scaled(hsv[..., 1], rng.uniform(0.5, 1.5), 0)
            else:
                hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(-18, 18)) % 180
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if not contrast_first and contrast:
        image = scaled(image, contrast, 0)
    stages.end("distort colours")
    return {"image": image, "label": label}


def our_distortion(elements: list[dict], rng: np.random.Generator, stages: Stages) -> list[dict]:
    """Flips and distorts in our way."""
    stages.start()
    elements = Each(RandomFlip()).random_map(elements, rng)
    stages.end("flip")
    elements = Each(PhotometricDistortion()).random_map(elements, rng)
    stages.end("distort colours")
    return elements


def measure(folder: pathlib.Path, count: int) -> dict[str, tuple[Stages, int]]:
    """Returns the stages and the number of crops, for each way.

    The ways take turns, so that a slow minute of the machine affects all of them.
    """
    plain, restarts = records(folder, "plain"), records(folder, "restarts")
    ways = {
        "(b) ours": (plain, 1),
        "(c) ours, restart markers": (restarts, 1),
        "(d) ours, 2 crops per decoding": (plain, 2),
        "(e) ours, 4 crops per decoding": (plain, 4),
        "(f) ours, restart markers, 4 crops": (restarts, 4),
    }
    results = {name: (Stages(), count * crops) for name, (_, crops) in ways.items()}
    results = {"(a) the released steps": (Stages(), count), **results}
    for i in range(-2, count):  # the first two only warm up
        stages = results["(a) the released steps"][0] if i >= 0 else Stages()
        expected = released(plain[i % len(plain)], np.random.default_rng(i % 2**32), stages)
        released_distortion(expected, np.random.default_rng(i % 2**32), stages)
        for name, (source, crops) in ways.items():
            stages = results[name][0] if i >= 0 else Stages()
            crop = dataclasses.replace(CROP, crops=crops)
            got = ours(source[i % len(source)], np.random.default_rng(i % 2**32), stages, crop)
            if crops == 1:
                np.testing.assert_array_equal(got[0]["image"], expected["image"][..., ::-1])
                np.testing.assert_array_equal(got[0]["label"], expected["label"])
            our_distortion(got, np.random.default_rng(i % 2**32), stages)
    return results


def measure_reduced(folder: pathlib.Path, count: int) -> None:
    """Prints how much faster it is to decode at a reduced size, and how different the result is."""
    print("\nexact=False, where a photograph shrinks to half or less")
    print("|  size | exact, ms | reduced, ms | mean difference of 255 | 99th percentile |")
    record = records(folder, "plain")[0]
    shape = decode_mask(record["segmentation_mask"]).shape
    for factor in (0.5, 0.4, 0.3, 0.25, 0.125):
        size = int(shape[0] * factor + 0.5), int(shape[1] * factor + 0.5)
        edge = min(340, *size)
        rng = np.random.default_rng(0)
        seconds, differences = np.zeros(2), []
        for _ in range(count):
            starts = [int(rng.integers(length - edge + 1)) for length in size]
            place = Place(size, *(slice(start, start + edge) for start in starts))
            crops = []
            for i, exact in enumerate((True, False)):
                start = time.perf_counter()
                crops += cut_images(record["image"], "", shape, [place], exact=exact)
                seconds[i] += time.perf_counter() - start
            differences.append(np.abs(crops[0].astype(int) - crops[1]))
        a, b = 1000 * seconds / count
        mean, most = np.mean(differences), np.percentile(differences, 99)
        print(f"| {factor:5} | {a:9.1f} | {b:11.1f} | {mean:22.2f} | {most:15.0f} |")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    parser.add_argument("--count", type=int, default=64, help="photographs per way")
    args = parser.parse_args()
    if not (args.folder / f"{len(SIZES) - 1}.png").exists():
        render(args.folder)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    for kind in ("plain", "restarts"):
        sizes = [len(record["image"]) / 1e6 for record in records(args.folder, kind)]
        print(kind, "JPEGs:", ", ".join(f"{size:.2f} MB" for size in sizes))
    results = measure(args.folder, args.count)
    print("\nmilliseconds per crop")
    for name, (stages, crops) in results.items():
        parts = ", ".join(f"{k} {1000 * v / crops:.1f}" for k, v in stages.seconds.items())
        print(f"{name}: {parts}")
    print("\n| way | crops per second and core | against (a) | until cropped | against (a) |")
    whole, cropped = [], []
    for name, (stages, crops) in results.items():
        seconds = sum(stages.seconds.values())
        rest = stages.seconds["flip"] + stages.seconds["distort colours"]
        whole.append(crops / seconds)
        cropped.append(crops / (seconds - rest))
        print(
            f"| {name} | {whole[-1]:.1f} | {whole[-1] / whole[0]:.2f} | "
            f"{cropped[-1]:.1f} | {cropped[-1] / cropped[0]:.2f} |"
        )
    measure_reduced(args.folder, args.count // 4)


if __name__ == "__main__":
    main()
