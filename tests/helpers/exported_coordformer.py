"""Exported folders of the smallest CoordFormers, and what runs them."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import safetensors.numpy
from jax import export

from massformer_jax.data import coordinates
from massformer_jax.export.__main__ import main
from massformer_jax.models.build import abstract_weights
from massformer_jax.models.weights import Weights, save_weights
from tests.helpers import tiny_coordformer
from tests.helpers.tiny_weights import tiny_weights

ENCODER = tiny_coordformer.TINY["encoder"]
# As of DINOv3, whose positions turn queries and keys; as of DINOv2, whose positions are learned;
# and the maps of a MaSSFormer.
ARCHITECTURES = {
    "turned": tiny_coordformer.TINY,
    "learned": tiny_coordformer.TINY | {"encoder": ENCODER | {"grid": 3, "gated": True}},
    "massformer": tiny_coordformer.TINY
    | {"encoder": {"encoder_depth": 18, "decoder_width": 8, "map": "d3"}, "side": 256},
}


def weights(name: str = "turned") -> Weights:
    """Returns weights whose labels are not all the same."""
    architecture = ARCHITECTURES[name]
    found = tiny_coordformer.tiny_weights(architecture=architecture)
    if name != "massformer":
        return found
    like, parts = abstract_weights(architecture), []
    for own, trained, kept in zip(found[3:5], tiny_weights(), like, strict=True):
        backbone = jax.tree.map(
            lambda _, x: x, kept["backbone"], part_of(trained, kept["backbone"])
        )
        parts.append({**own, "backbone": backbone})
    return found._replace(params=parts[0], batch_stats=parts[1])


def part_of(tree, like):
    """Returns the part of nested dictionaries that others have, too."""
    if not isinstance(like, dict):
        return tree
    return {key: part_of(tree[key], value) for key, value in like.items()}


def photograph(height: int, width: int) -> np.ndarray:
    """Returns coarse random colours, uint8 [h, w, 3]."""
    rng = np.random.default_rng(4)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width]


def checkpoint(folder: pathlib.Path, own: Weights) -> pathlib.Path:
    """Returns a new folder of weights."""
    save_weights(folder / "checkpoint", own)
    return folder / "checkpoint"


def exported(folder: pathlib.Path, own: Weights, *flags: str) -> pathlib.Path:
    """Returns what the command writes, StableHLO for CPUs alone unless flags say otherwise."""
    output = folder / "exported"
    argv = ["--checkpoint", str(checkpoint(folder, own)), "--output", str(output), *flags]
    assert main([*argv, *([] if "onnx" in flags else ["--platforms", "cpu"])]) == 0
    return output


def answers(folder: pathlib.Path, image: np.ndarray, bucket: int | None = None) -> np.ndarray:
    """Returns the answers for every pixel of an image, [h, w, …]."""
    facts = json.loads((folder / "export.json").read_text())
    run = _run_onnx if facts["format"] == "onnx" else _run_stablehlo
    see, ask = (run(folder, facts["programs"][name]) for name in ("memory", "answers"))
    memory = see(coordinates.squeezed(image, facts["side"])[None])
    height, width = image.shape[:2]
    rows, columns = np.divmod(np.arange(height * width), width)
    pixels = np.stack([columns, rows], -1)
    parts = np.split(pixels, range(bucket, len(pixels), bucket)) if bucket else [pixels]
    found = [
        ask(*memory, coordinates.patches(image, part), coordinates.places(part, (height, width)))
        for part in parts
    ]
    found = [x for (x,) in found]
    return np.concatenate(found).reshape(height, width, *found[0].shape[1:])


def _run_stablehlo(folder, program):
    call = export.deserialize(bytearray((folder / program["file"]).read_bytes())).call
    tensors = safetensors.numpy.load_file(folder / "weights.safetensors")
    call = jax.jit(call)

    def run(*inputs):
        found = call(tensors, *map(jnp.asarray, inputs))
        return [np.asarray(x) for x in (found if isinstance(found, tuple) else [found])]

    return run


def _run_onnx(folder, program):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        folder / program["file"], options, providers=["CPUExecutionProvider"]
    )
    names = [argument["name"] for argument in program["arguments"]]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))
