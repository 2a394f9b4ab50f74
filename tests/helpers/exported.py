"""Exported folders of the smallest network."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from massformer_jax.classes import CLASSES
from massformer_jax.export.__main__ import main
from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.models.weights import Weights, save_weights
from tests.helpers.tiny_weights import TINY, tiny_weights


def weights() -> Weights:
    """Returns weights whose labels are not all the same."""
    source = {"file": "tiny.pth", "sha256": "0" * 64, "iteration": 3}
    return Weights(3, TINY, CLASSES, *tiny_weights(), source=source, pictures=(480, 640))


def rounded(dtype: str) -> Weights:
    """Returns weights of which those with several axes are numbers that a dtype stores."""

    def one(leaf):
        leaf = np.asarray(leaf)
        if leaf.ndim > 1 and dtype == "float16":
            leaf = leaf.astype(np.float16).astype(np.float32)
        elif leaf.ndim > 1:
            step = np.abs(leaf).reshape(-1, leaf.shape[-1]).max(0) / np.float32(127)
            leaf = np.rint(leaf / step) * step
        return jnp.asarray(leaf)

    own = weights()
    params, batch_stats = jax.tree.map(one, (own.params, own.batch_stats))
    return own._replace(params=params, batch_stats=batch_stats)


def segmenter() -> Segmenter:
    return Segmenter(weights())


def checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """Returns a folder of these weights."""
    path = folder / "checkpoint"
    if not path.exists():
        save_weights(path, weights())
    return path


def exported(folder: pathlib.Path, size: str, *flags: str) -> pathlib.Path:
    """Returns what the command writes, StableHLO for CPUs alone unless flags say otherwise."""
    output = folder / "exported"
    argv = ["--checkpoint", str(checkpoint(folder)), "--output", str(output), "--size", size]
    argv += [*([] if "onnx" in flags else ["--platforms", "cpu"]), *flags]
    if size != "any":
        assert main(argv) == 0
        return output
    # In a process of its own: open sides are expressions where annotations, checked here, say int.
    command = [sys.executable, "-m", "massformer_jax.export", *argv]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def photograph(height: int, width: int) -> np.ndarray:
    """Returns coarse random colours, uint8 [h, w, 3], which the network gives several labels."""
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
