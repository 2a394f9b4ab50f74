"""Small photographs and label maps, the predictions of two methods, and their evaluations."""

import json
import pathlib
import re
import unittest.mock

import cv2
import numpy as np

from massformer_jax import evaluate_files
from massformer_jax.data.images import encode_mask
from massformer_jax.evaluation import provenance

# The last is reduced in a report, by 2, and has parts at full resolution.
SIZES = {"0": (64, 96), "1": (96, 64), "deep/2": (720, 900)}


def write_runs(root: pathlib.Path) -> None:
    """Writes `images`, `labels`, `a`, `b`, and JSON and HTML of both evaluations into `root`.

    Run a is nearly right, and run b has more errors. But in image 1, run a is completely wrong
    about the class person, and run b is right.
    """
    rng = np.random.default_rng(7)
    for folder in ("images", "labels", "a", "b"):
        (root / folder / "deep").mkdir(parents=True)
    for i, (name, (height, width)) in enumerate(SIZES.items()):
        y, x = np.mgrid[:height, :width] / height
        labels = np.where(y < 0.5, 5, 4).astype(np.uint8)
        labels[(x - 0.3) ** 2 + (y - 0.6) ** 2 < 0.04] = 1
        labels[(x - 0.5) ** 2 + (y - 0.35) ** 2 < 0.03] = 3
        labels[:, width // 2] = 2
        labels[:5, :5] = 255
        image = np.stack([30 * labels, 255 * y, 255 * x % 256], -1).astype(np.uint8)
        image += rng.integers(0, 8, image.shape, dtype=np.uint8)
        known = np.where(labels == 255, 5, labels).astype(np.uint8)
        ours, others = np.roll(known, 1, 0), np.roll(known, 3, 1)
        others[-height // 4 :, : width // 3] = 6
        if i == 1:
            others = known.copy()
            ours[ours == 1] = 4
        cv2.imwrite(str(root / "images" / f"{name}.jpg"), image[..., ::-1])
        for folder, content in (("labels", labels), ("a", ours), ("b", others)):
            (root / folder / f"{name}.png").write_bytes(encode_mask(content))
    for run in ("a", "b"):
        # The label maps count as those of MaSS13K's val split, so that the pages show its table.
        with (
            unittest.mock.patch.dict(provenance.PHOTOGRAPHS, val=len(SIZES)),
            unittest.mock.patch.object(provenance, "_is_released", lambda name, size: True),
        ):
            _evaluate(root, run)


def _evaluate(root: pathlib.Path, run: str) -> None:
    status = evaluate_files.main(
        [
            *("--predictions", str(root / run), "--labels", str(root / "labels")),
            *("--images", str(root / "images"), "--published", "val"),
            *("--output", str(root / f"{run}.json"), "--report", str(root / f"{run}.html")),
        ]
    )
    assert status == 0


def carried(page: str) -> dict:
    """Returns the data that a page carries."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
