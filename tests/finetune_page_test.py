"""docs/finetune.md from top to bottom: its commands, in their order, on rendered photographs."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from massformer_jax.data.images import decode_mask, encode_mask
from scripts.benchmark.new_class_scenes import CAR, render
from tests.helpers.compiling import UNOPTIMIZED_FLAG
from tests.helpers.tiny_weights import tiny_state, write

pytestmark = pytest.mark.slow  # compiles a training step and two networks

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "finetune.md"
# A network, crops and a number of steps that take a minute, in place of those of the page.
SMALL = {
    "architecture.encoder_depth": 18,
    "architecture.decoder_width": 8,
    "architecture.ffn_width": 16,
    "architecture.layers": 1,
    "architecture.queries": 8,
    "data.crop_size": 256,
    "data.short_edges": "(256,)",
    "data.threads": 2,
    "loss.points": 64,
    "batch_size": 4,
    "accumulate": 1,  # on CPUs convolutions in loops are slow
    "total_steps": 4,
    "checkpoint_every": 2,
    "eval_every": 2,
    "eval.resolution": "256x256",
}


def commands() -> list[list[str]]:
    """Returns the commands of the page, in their order."""
    return [shlex.split(x) for x in re.findall(r"^    massformer (.*)$", PAGE.read_text(), re.M)]


def write_photographs(folder: pathlib.Path, count: int) -> None:
    """Writes scenes, and label maps of two classes: cars, and everything else."""
    import cv2

    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        scene = render("train", i)
        cv2.imwrite(str(folder / "images" / f"{i:02d}.jpg"), scene.image[..., ::-1])
        labels = np.where(scene.label == 255, 255, scene.label == CAR).astype(np.uint8)
        (folder / "labels" / f"{i:02d}.png").write_bytes(encode_mask(labels))
    (folder / "classes.txt").write_text("other\ncar\n")


def test_the_page_from_top_to_bottom(tmp_path):
    write(tmp_path / "iter_80000.pth", tiny_state())
    write_photographs(tmp_path / "MINE", 20)
    (tmp_path / "PHOTOS").symlink_to(tmp_path / "MINE" / "images")
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{UNOPTIMIZED_FLAG} --xla_force_host_platform_device_count=1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "PYTHONPATH": str(PAGE.parents[1]),
    }
    small = [f"--config.{key}={value}" for key, value in SMALL.items()]
    printed = {}
    for name, *arguments in commands():
        arguments += small if name in ("train", "evaluate") else []
        command = [sys.executable, "-m", "massformer_jax", name, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        printed[name] = done.stdout
    assert list(printed) == ["convert", "build", "train", "evaluate", "predict"]
    assert "for 2 classes instead of 7" in printed["train"]
    summary = json.loads((tmp_path / "RUN" / "eval" / "metrics.json").read_text())
    assert summary["classes"] == ["other", "car"] and len(summary["images"]) == 4
    masks = sorted((tmp_path / "MASKS").glob("*.png"))
    assert len(masks) == 20
    assert set(np.unique(decode_mask(masks[0]))) <= {0, 1}
