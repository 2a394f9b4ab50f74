"""The small networks that docs/coordinates.md compares, and how each is trained.

Sizes are such that all fit into 70 minutes of one CPU core: a step of MaSSFormer or of the ViT took
1.2 s of its time (AMD EPYC, other programs beside it, 2026-11-27). Learning rates are larger than
those of the recipes, since steps are few, and were not searched for. MaSSFormer's are those of
`new_classes`. That of the ViT was tried once, for 60 steps with the first seed, in which the loss
fell from above 10.2 to 6.6 and was still falling. The decoder alone has twice that.
"""

import argparse
import functools
import pathlib
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from massformer_jax.classes import CLASSES
from massformer_jax.models.build import is_coordformer
from massformer_jax.parallel import sharding
from massformer_jax.training.initial import read_initial, start
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import TrainState, init_state
from massformer_jax.training.step import training_step
from scripts.benchmark.coordinate_scenes import SIDE, batches, crop, record, whole

MASSFORMER = {
    "encoder_depth": 18,
    "decoder_width": 32,
    "ffn_width": 128,
    "layers": 3,
    "queries": 20,
    "classes": len(CLASSES),
}
DECODER = {
    "decoder_width": 96,
    "heads": 4,
    "head_width": 64,
    "classes": len(CLASSES),
    "side": SIDE,
}
# Of both encoders the decoder gets maps of 32x32.
ON_MASSFORMER = {"encoder_depth": 18, "decoder_width": 32, "map": "d3"}
VIT = {
    "patch": 8,
    "features": 96,
    "blocks": 6,
    "heads": 3,
    "hidden": 384,
    "gated": False,
    "grid": None,
}


class Network(NamedTuple):
    """How a row of the table is trained.

    Attributes:
        title: what the table calls it.
        short: what the picture calls it.
        architecture: keyword arguments of MaSSFormer or CoordFormer.
        optimizer: what differs from the defaults of `recipe_optimizer`.
        settings: further arguments of `training_step`.
        begins_with: the network whose weights of the same seed it begins with, or "".
    """

    title: str
    short: str
    architecture: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    settings: Mapping[str, Any] = {}
    begins_with: str = ""


_MASKS = {"points": 2048, "edge_target": "edges"}
_AT_COORDINATES = {"weight_decay": 1e-4, "clip_norm": 0.0, "schedule": "linear"}
NETWORKS = {
    "massformer": Network(
        "MaSSFormer",
        "MaSSFormer",
        MASSFORMER,
        {"peak_learning_rate": 1e-3, "encoder_multiplier": 1.0},
        _MASKS,
    ),
    "on_massformer": Network(
        "coordinates on its frozen maps, that many steps on top",
        "coordinates on its maps",
        {"encoder": ON_MASSFORMER, **DECODER},
        {"peak_learning_rate": 2e-3, "encoder_multiplier": 0.0, **_AT_COORDINATES},
        {"frozen_statistics": "encoder"},
        "massformer",
    ),
    "vit": Network(
        "coordinates on a ViT from scratch",
        "coordinates on a ViT",
        {"encoder": VIT, **DECODER},
        {"peak_learning_rate": 1e-3, "encoder_multiplier": 1.0, **_AT_COORDINATES},
    ),
    "longer": Network(
        "MaSSFormer, that many steps on top",
        "MaSSFormer, longer",
        MASSFORMER,
        {"peak_learning_rate": 5e-4, "encoder_multiplier": 1.0},
        _MASKS,
        "massformer",
    ),
}
BATCH = 2


@functools.cache
def step_of(name: str, steps: int):
    """Returns the training step of a network, compiled once for all seeds."""
    network = NETWORKS[name]
    return training_step(
        network.architecture,
        optimizer_of(name, steps),
        _mesh(),
        seed=0,
        dtype="float32",
        **network.settings,
    )


def _mesh() -> jax.sharding.Mesh:
    return sharding.make_mesh(jax.devices()[:1])


def optimizer_of(name: str, steps: int):
    """Returns the optimizer of a network for a short run."""
    settings = {**NETWORKS[name].optimizer, "total_steps": steps}
    if is_coordformer(NETWORKS[name].architecture):
        settings["warmup_steps"] = steps // 10
    return recipe_optimizer(**settings)


def begun(name: str, folder: pathlib.Path, seed: int, steps: int) -> TrainState:
    """Returns the state before the first step."""
    network = NETWORKS[name]
    init = functools.partial(
        init_state, architecture=network.architecture, optimizer=optimizer_of(name, steps)
    )
    # Where the step leaves it: else the second step would be compiled anew.
    init = jax.jit(init, out_shardings=sharding.replicated(_mesh()))
    state = init(jax.random.key(seed, impl="unsafe_rbg"))
    if not network.begins_with:
        return state
    weights = weights_of(folder, network.begins_with, seed)
    return start(state, read_initial(weights, network.architecture))


def weights_of(folder: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Returns where the weights of a network are kept."""
    return folder / f"{name}_{seed}_weights"


def trained(
    name: str, state: TrainState, seed: int, args: argparse.Namespace
) -> tuple[TrainState, float, float]:
    """Returns the state after all steps, the median CPU time of a step, and the last losses."""
    records = [record("train", i) for i in range(args.scenes)]
    example = whole if is_coordformer(NETWORKS[name].architecture) else crop
    found, step = batches(records, example, BATCH, seed), step_of(name, args.steps)
    times, losses = [], []
    for i in range(1, args.steps + 1):
        began = time.process_time()
        state, scalars = step(state, next(found))
        losses.append(float(scalars["loss"]))
        times.append(time.process_time() - began)
        if i % 10 == 0 or i == args.steps:
            mean = statistics.mean(losses[-10:])
            print(f"{name}_{seed}: step {i} of {args.steps}, loss {mean:.2f}", flush=True)
    return state, statistics.median(times), statistics.mean(losses[-10:])
