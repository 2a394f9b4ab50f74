"""Compares labels at coordinates with MaSSFormer's masks, in small networks on rendered scenes.

    taskset -c 0 python -m scripts.benchmark.coordinates --output DIR [--seeds 0,1,2]
    python -m scripts.benchmark.coordinates --output DIR --tables
    python -m scripts.benchmark.coordinates --output DIR --picture docs/images/coordinates.jpg

Each run writes a JSON of its scores below DIR, and one that is there is not done again: so a broken
measurement goes on with the same command (docs/coordinates.md).
"""

import argparse
import functools
import json
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from massformer_jax.classes import CLASSES
from massformer_jax.compilation import keep_compiled
from massformer_jax.data.images import encode_mask
from massformer_jax.data.pipeline import Decode
from massformer_jax.files import write_atomically
from massformer_jax.inference.coordinate_network import answers_function
from massformer_jax.inference.coordinates import Asked, by_entropy, by_sefi, by_stride, every_pixel
from massformer_jax.inference.protocol import Protocol
from massformer_jax.inference.views import label_function, show
from massformer_jax.metrics.counts import add_counts, image_counts, zero_counts
from massformer_jax.metrics.scores import summarize
from massformer_jax.models.build import is_coordformer, model_graph
from massformer_jax.models.weights import Weights, save_weights
from massformer_jax.parallel import sharding
from massformer_jax.training.initial import read_initial, start
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import TrainState, init_state
from massformer_jax.training.step import training_step
from scripts.benchmark.coordinate_picture import SCENE, write_picture
from scripts.benchmark.coordinate_scenes import HEIGHT, SIDE, WIDTH, batches, crop, record, whole
from scripts.conditions import describe, versions
from scripts.markdown import table

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
        architecture: keyword arguments of MaSSFormer or CoordFormer.
        optimizer: what differs from the defaults of `recipe_optimizer`.
        settings: further arguments of `training_step`.
        begins_with: the network whose weights of the same seed it begins with, or "".
    """

    title: str
    architecture: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    settings: Mapping[str, Any] = {}
    begins_with: str = ""


_MASKS = {"points": 2048, "edge_target": "edges"}
_AT_COORDINATES = {"weight_decay": 1e-4, "clip_norm": 0.0, "schedule": "linear", "warmup_steps": 20}
NETWORKS = {
    "massformer": Network(
        "MaSSFormer",
        MASSFORMER,
        {"peak_learning_rate": 1e-3, "encoder_multiplier": 1.0},
        _MASKS,
    ),
    "on_massformer": Network(
        "coordinates on its frozen maps, that many steps on top",
        {"encoder": ON_MASSFORMER, **DECODER},
        {"peak_learning_rate": 2e-3, "encoder_multiplier": 0.0, **_AT_COORDINATES},
        {"frozen_statistics": "encoder"},
        "massformer",
    ),
    "vit": Network(
        "coordinates on a ViT from scratch",
        {"encoder": VIT, **DECODER},
        {"peak_learning_rate": 1e-3, "encoder_multiplier": 1.0, **_AT_COORDINATES},
    ),
    "longer": Network(
        "MaSSFormer, that many steps on top",
        MASSFORMER,
        {"peak_learning_rate": 5e-4, "encoder_multiplier": 1.0},
        _MASKS,
        "massformer",
    ),
}
BATCH = 2
EVERY = "every"
WAYS: dict[str, Callable[..., Asked]] = {
    EVERY: every_pixel,
    "sefi": by_sefi,
    "entropy": by_entropy,
    "stride=8": functools.partial(by_stride, stride=8),
    "sefi,stride=4": functools.partial(by_sefi, stride=4),
    "entropy,stride=4,share=0.1": functools.partial(by_entropy, stride=4, share=0.1),
    "stride=4": functools.partial(by_stride, stride=4),
}
RATIOS = {"mBIoU": 0.001, "mBIoU, 3 pixels": 0.005}  # of the diagonal: 1 and 3 pixels
TOLERANCES = (0.0075,)  # of BF1, 4.8 pixels
SCORES = ("mIoU", *RATIOS, "mBF1")


@functools.cache
def step_of(name: str, steps: int):
    """Returns the training step of a network, compiled once for all seeds."""
    network = NETWORKS[name]
    return training_step(
        network.architecture,
        optimizer_of(name, steps),
        sharding.make_mesh(jax.devices()[:1]),
        seed=0,
        dtype="float32",
        **network.settings,
    )


def optimizer_of(name: str, steps: int):
    """Returns the optimizer of a network for a short run."""
    return recipe_optimizer(**NETWORKS[name].optimizer, total_steps=steps)


def begun(name: str, folder: pathlib.Path, seed: int, steps: int) -> TrainState:
    """Returns the state before the first step."""
    network = NETWORKS[name]
    init = functools.partial(
        init_state, architecture=network.architecture, optimizer=optimizer_of(name, steps)
    )
    state = jax.jit(init)(jax.random.key(seed, impl="unsafe_rbg"))
    if not network.begins_with:
        return state
    weights = weights_of(folder, network.begins_with, seed)
    return start(state, read_initial(weights, network.architecture))


def weights_of(folder: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Returns where the weights of a network are kept."""
    return folder / f"{name}_{seed}_weights"


def trained(name: str, state: TrainState, seed: int, args: argparse.Namespace):
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


def labels_of(name: str, state: TrainState):
    """Returns a function from a photograph to what each way answers: labels, and who was asked."""
    architecture = NETWORKS[name].architecture
    graph, weights = model_graph(architecture, training=False), (state.params, state.batch_stats)
    if is_coordformer(architecture):
        answers = answers_function(graph)

        def ask(image):
            ((answer, photograph),) = answers(*weights, image[None])
            return {way: ask(answer, photograph) for way, ask in WAYS.items()}

        return ask
    predict = label_function(graph, Protocol())

    def masks(image):
        found = predict(*weights, show(Protocol(), [image]), image.shape[:2])[0]
        return {EVERY: Asked(np.asarray(found), np.ones(image.shape[:2], bool))}

    return masks


def scores(
    answers: Callable[[np.ndarray], dict[str, Asked]], count: int
) -> tuple[dict[str, dict[str, float]], UInt8[np.ndarray, "h w"]]:
    """Returns scores in percent by the way of asking, and the labels of the scene to be drawn."""
    pools, shares, drawn = {}, {}, None
    for i in range(count):
        scene = Decode().map(record("val", i))
        label = jnp.asarray(scene["label"])
        for way, found in answers(scene["image"]).items():
            shares.setdefault(way, []).append(100 * float(found.asked.mean()))
            for name, ratio in RATIOS.items():
                tolerances = TOLERANCES if name == "mBIoU" else ()
                pool = pools.get((way, name), zero_counts(len(CLASSES), len(tolerances)))
                counts = image_counts(
                    jnp.asarray(found.answers), label, boundary_ratio=ratio, tolerances=tolerances
                )
                pools[way, name] = add_counts(pool, counts)
            if way == EVERY and i == SCENE:
                drawn = found.answers
    by_way = {}
    for way, asked in shares.items():
        first = summarize(pools[way, "mBIoU"], TOLERANCES)
        others = {name: summarize(pools[way, name], ())["mBIoU"] for name in RATIOS}
        values = {"mIoU": first["mIoU"], **others, "mBF1": first["mBF1@0.75%"]}
        by_way[way] = {name: 100 * values[name] for name in SCORES} | {
            "asked": statistics.mean(asked)
        }
    return by_way, drawn


def run(name: str, seed: int, folder: pathlib.Path, args: argparse.Namespace) -> None:
    """Trains and scores one network, unless that is done."""
    path = folder / f"{name}_{seed}.json"
    if path.exists():
        return
    began, spent = time.monotonic(), time.process_time()
    state, step_seconds, loss = trained(name, begun(name, folder, seed, args.steps), seed, args)
    at_last = time.process_time()
    by_way, drawn = scores(labels_of(name, state), args.val)
    if any(network.begins_with == name for network in NETWORKS.values()):
        shutil.rmtree(weights_of(folder, name, seed), ignore_errors=True)
        architecture = dict(NETWORKS[name].architecture)
        weights = Weights(args.steps, architecture, CLASSES, state.params, state.batch_stats)
        save_weights(weights_of(folder, name, seed), weights)
    write_atomically(path.with_suffix(".png"), encode_mask(drawn))
    found = {
        "network": name,
        "seed": seed,
        "steps": args.steps,
        "batch": BATCH,
        "scenes": [args.scenes, args.val],
        "size": [HEIGHT, WIDTH],
        "architecture": NETWORKS[name].architecture,
        "optimizer": NETWORKS[name].optimizer,
        "loss": loss,
        "scores": by_way,
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - spent,
        "cpu_seconds_of_a_step": step_seconds,
        "cpu_seconds_of_scores": time.process_time() - at_last,
        "device": describe(jax.devices()),
        "versions": versions("jax", "flax", "numpy"),
    }
    write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())
    print(f"wrote {path}: {by_way[EVERY]}", flush=True)


def tables(folder: pathlib.Path) -> str:
    """Returns the tables: networks that are asked everything, and ways to ask those that can be."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows, parts = [], []
    for name, network in NETWORKS.items():
        own = [found["scores"] for found in runs if found["network"] == name]
        if not own:
            continue
        cells = [_spread([x[EVERY][score] for x in own]) for score in SCORES]
        rows.append([network.title, *cells, str(len(own))])
        if len(own[0]) > 1:
            parts.append(f"{network.title[0].upper()}{network.title[1:]}:\n\n{_ways(own)}")
    return "\n".join([table(["network", *SCORES, "seeds"], rows), *parts])


def _ways(own: list[dict[str, dict[str, float]]]) -> str:
    """Returns the table of the ways to ask a network, from the scores of its runs."""
    rows = []
    for way in own[0]:
        shares = _spread([x[way]["asked"] for x in own])
        worse = _spread([x[way]["mBIoU"] - x[EVERY]["mBIoU"] for x in own], "+.2f")
        cells = [_spread([x[way][score] for x in own]) for score in SCORES]
        rows.append([f"`{way}`", shares, *cells, worse])
    return table(["asked", "of the pixels, %", *SCORES, "mBIoU beside `every`"], rows)


def _spread(values: list[float], form: str = ".1f") -> str:
    """Returns the mean, the smallest and the largest of some values."""
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder of the runs")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there")
    parser.add_argument("--steps", type=int, default=250, help="of each network")
    parser.add_argument("--scenes", type=int, default=64, help="to train on")
    parser.add_argument("--val", type=int, default=16, help="to evaluate on")
    parser.add_argument("--seeds", default=[0, 1, 2], type=lambda x: [*map(int, x.split(","))])
    parser.add_argument("--networks", default=[*NETWORKS], type=lambda x: x.split(","))
    parser.add_argument("--picture", type=pathlib.Path, help="draw the answers of the first seed")
    args = parser.parse_args()
    if args.picture:
        titles = {f"{name}_{args.seeds[0]}": x.title for name, x in NETWORKS.items()}
        write_picture(args.picture, args.output, titles)
        return
    if not args.tables:
        args.output.mkdir(parents=True, exist_ok=True)
        keep_compiled(str(args.output / "compiled"))
        # What takes longest and matters least comes last.
        for later in (False, True):
            for seed in args.seeds:
                for name in args.networks:
                    if (name == "longer") == later:
                        run(name, seed, args.output, args)
    print(tables(args.output))


if __name__ == "__main__":
    main()
