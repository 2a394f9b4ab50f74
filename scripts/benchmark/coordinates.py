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
from collections.abc import Callable
from typing import Any

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
from massformer_jax.inference.protocol import Protocol
from massformer_jax.inference.views import label_function, show
from massformer_jax.inference.ways_to_ask import Asked, by_entropy, by_sefi, by_stride, every_pixel
from massformer_jax.metrics.counts import add_counts, image_counts, zero_counts
from massformer_jax.metrics.scores import summarize
from massformer_jax.models.build import is_coordformer, model_graph
from massformer_jax.models.weights import Weights, save_weights
from scripts.benchmark.coordinate_networks import BATCH, NETWORKS, begun, trained, weights_of
from scripts.benchmark.coordinate_picture import SCENE, write_picture
from scripts.benchmark.coordinate_scenes import HEIGHT, WIDTH, record
from scripts.conditions import describe, versions
from scripts.markdown import table

EVERY = "every"
WAYS: dict[str, Callable[..., Asked]] = {
    EVERY: every_pixel,
    "sefi": by_sefi,
    "entropy": by_entropy,
    "stride=8": functools.partial(by_stride, stride=8),
    "sefi,stride=4": functools.partial(by_sefi, stride=4),
    "sefi,stride=4,dilation=1,threshold=0.06": functools.partial(
        by_sefi, stride=4, dilation=1, threshold=0.06
    ),
    "sefi,stride=3,dilation=0,threshold=0.04": functools.partial(
        by_sefi, stride=3, dilation=0, threshold=0.04
    ),
    "entropy,share=0.1": functools.partial(by_entropy, share=0.1),
    "entropy,share=0.18": functools.partial(by_entropy, share=0.18),
    "stride=4": functools.partial(by_stride, stride=4),
}
RATIOS = {"mBIoU": 0.001, "mBIoU, 3 pixels": 0.005}  # of the diagonal: 1 and 3 pixels
TOLERANCES = (0.0075,)  # of BF1, 4.8 pixels
SCORES = ("mIoU", *RATIOS, "mBF1")


@functools.cache
def answers_of(name: str) -> Callable[[Any, Any, np.ndarray], dict[str, Asked]]:
    """Returns a function from weights and a photograph to what each way of asking answers."""
    architecture = NETWORKS[name].architecture
    graph = model_graph(architecture, training=False)
    if is_coordformer(architecture):
        begin = answers_function(graph)

        def at_coordinates(params, batch_stats, image):
            ((answer, photograph),) = begin(params, batch_stats, image[None])
            return {way: ask(answer, photograph) for way, ask in WAYS.items()}

        return at_coordinates
    predict = label_function(graph, Protocol())

    def masks(params, batch_stats, image):
        size = image.shape[:2]
        (found,) = predict(params, batch_stats, show(Protocol(), [image]), size)
        return {EVERY: Asked(np.asarray(found), np.ones(size, bool))}

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
                pool = pools.get((way, name), zero_counts(num_tolerances=len(TOLERANCES)))
                answered = jnp.asarray(found.answers)
                counts = image_counts(answered, label, boundary_ratio=ratio, tolerances=TOLERANCES)
                pools[way, name] = add_counts(pool, counts)
            if way == EVERY and i == SCENE:
                drawn = found.answers
    by_way = {}
    for way, asked in shares.items():
        first = summarize(pools[way, "mBIoU"], TOLERANCES)
        edges = {name: summarize(pools[way, name], TOLERANCES)["mBIoU"] for name in RATIOS}
        values = {"mIoU": first["mIoU"], **edges, "mBF1": first["mBF1@0.75%"]}
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
    by_way, drawn = scores(
        functools.partial(answers_of(name), state.params, state.batch_stats), args.val
    )
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
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
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
        own = [found for found in runs if found["network"] == name]
        if not own:
            continue
        by_way = [found["scores"] for found in own]
        cells = [_spread([x[EVERY][score] for x in by_way]) for score in SCORES]
        size = f"{own[0]['parameters'] / 1e6:.2f} M"
        seconds = statistics.mean(found["cpu_seconds_of_a_step"] for found in own)
        rows.append([network.title, size, *cells, str(len(own)), f"{seconds:.1f} s"])
        if len(by_way[0]) > 1:
            parts.append(f"{network.title[0].upper()}{network.title[1:]}:\n\n{_ways(by_way)}")
    head = ["network", "parameters", *SCORES, "seeds", "CPU time of a step"]
    return "\n".join([table(head, rows), *parts])


def _ways(by_way: list[dict[str, dict[str, float]]]) -> str:
    """Returns the table of the ways to ask a network, from the scores of its runs."""
    rows = []
    for way in by_way[0]:
        shares = _spread([x[way]["asked"] for x in by_way])
        worse = _spread([x[way]["mBIoU"] - x[EVERY]["mBIoU"] for x in by_way], "+.2f")
        cells = [_spread([x[way][score] for x in by_way]) for score in SCORES]
        rows.append([f"`{way}`", shares, *cells, worse])
    return table(["asked", "of the pixels, %", *SCORES, "mBIoU minus that of `every`"], rows)


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
        titles = {f"{name}_{args.seeds[0]}": x.short for name, x in NETWORKS.items()}
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
