"""Measures programs of ONNX with fewer bits, for docs/export.md.

    python -m scripts.benchmark.smaller --checkpoint RUN --output FOLDER [--scenes 8]

Weights are stored in several dtypes, and computed with in float32; and onnxruntime quantises the
program itself to 8 bits: dynamically, and statically after a look at other scenes than those that
are labelled. Told are the file, the CPU seconds for a scene of 480x640 on one thread, the pixels
whose label is that of float32, and scores against the truth of rendered scenes. FOLDER keeps the
programs, and those that are there are not made again.
"""

import argparse
import pathlib
import time
from collections.abc import Callable, Iterator

import jax
import ml_dtypes
import numpy as np
import onnxruntime
from onnxruntime import quantization

from massformer_jax.data.sample.scenes import render_scene
from massformer_jax.export.form import Form
from massformer_jax.export.program import lower
from massformer_jax.metrics.counts import add_counts, image_counts, zero_counts
from massformer_jax.metrics.scores import summarize
from massformer_jax.models.weights import Weights, load_weights
from scripts.arguments import parse_count
from scripts.markdown import table

SCENE, PADDED = (480, 640), (512, 768)
_CALIBRATION = 4  # scenes that a static quantisation looks at
_TOLERANCES = (1.0,)  # of contours, which are not told


def to_bfloat16(leaf: np.ndarray) -> np.ndarray:
    """Returns numbers rounded to 8 bits of precision."""
    return leaf.astype(ml_dtypes.bfloat16).astype(np.float32)


def rounded(weights: Weights, function: Callable[[np.ndarray], np.ndarray]) -> Weights:
    """Returns weights whose kernels and embeddings are rounded."""

    def one(leaf):
        leaf = np.asarray(leaf)
        return function(leaf) if leaf.ndim > 1 else leaf

    params, batch_stats = jax.tree.map(one, (weights.params, weights.batch_stats))
    return weights._replace(params=params, batch_stats=batch_stats)


def scenes(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields rendered scenes and their labels."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        yield render_scene(rng, *SCENE, water=number % 2 == 0)


def shown(image: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what a program is given of an image."""
    margin = [(0, to - side) for to, side in zip(PADDED, SCENE, strict=True)]
    return {"images": np.pad(image, [*margin, (0, 0)], mode="edge")[None]}


class _Scenes(quantization.CalibrationDataReader):
    def __init__(self):
        self._images = (shown(image) for image, _ in scenes(_CALIBRATION, seed=9))

    def get_next(self):
        return next(self._images, None)


def programs(weights: Weights, folder: pathlib.Path) -> Iterator[tuple[str, pathlib.Path, float]]:
    """Yields name, file and bytes of each program; bytes as if weights were stored rounded."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / "float32.onnx"

    def written(name, own, dtype="float32"):
        path = folder / f"{name}.onnx"
        if not path.exists():
            form = Form(PADDED, format="onnx", weights=dtype)
            path.write_bytes(lower(own, form).programs["model"].serialized)
        return path

    whole = written("float32", weights).stat().st_size
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(weights.params) if np.ndim(leaf) > 1)
    yield "float32", plain, whole
    for dtype in ("float16", "int8"):
        path = written(dtype, weights, dtype)
        yield f"weights in {dtype}", path, path.stat().st_size
    yield "weights in bfloat16", written("bf16", rounded(weights, to_bfloat16)), whole - 2 * count
    for name, kinds in (
        ("dynamic int8, products", ["MatMul"]),
        ("static int8, convolutions", ["Conv"]),
        ("static int8, both", ["Conv", "MatMul"]),
    ):
        path = folder / f"{name}.onnx"
        if not path.exists():
            if name.startswith("dynamic"):
                quantization.quantize_dynamic(plain, path, kinds, per_channel=True)
            else:
                quantization.quantize_static(
                    plain, path, _Scenes(), op_types_to_quantize=kinds, per_channel=True
                )
        yield name, path, path.stat().st_size


def measured(path: pathlib.Path, count: int) -> tuple[list[np.ndarray], float, dict]:
    """Returns the labels of all scenes, CPU seconds for the fastest, and scores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    labels, seconds, pool = [], [], zero_counts(num_tolerances=1)
    for image, truth in scenes(count, seed=5):
        begin = time.process_time()
        (found,) = session.run(None, shown(image))
        seconds.append(time.process_time() - begin)
        labels.append(found[0, : SCENE[0], : SCENE[1]])
        pool = add_counts(pool, image_counts(labels[-1], truth, tolerances=_TOLERANCES))
    return labels, min(seconds), summarize(pool, _TOLERANCES)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--scenes", type=parse_count, default=8)
    args = parser.parse_args()
    device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    weights = load_weights(args.checkpoint, device)
    lines, wanted = [], None
    for name, path, size in programs(weights, args.output):
        labels, seconds, scores = measured(path, args.scenes)
        wanted = wanted or labels
        agree = np.mean([np.mean(x == y) for x, y in zip(labels, wanted, strict=True)])
        percents = [f"{100 * x:.2f} %" for x in (scores["mIoU"], scores["mBIoU"])]
        lines.append(
            [name, f"{size / 1e6:.1f} MB", f"{seconds:.2f} s", f"{100 * agree:.3f} %", *percents]
        )
        print(*lines[-1], flush=True)
    head = ["", "file", "CPU seconds", "labels as float32", "mIoU", "mBIoU"]
    print(table(head, lines))


if __name__ == "__main__":
    main()
