"""Learns new classes from wrong pseudo labels beside seven exact classes, in three ways.

    python -m scripts.benchmark.new_classes --output DIR [--steps 250] [--seeds 0,1,2]
    python -m scripts.benchmark.new_classes --output DIR --tables
    python -m scripts.benchmark.new_classes --output DIR --picture docs/images/new_classes.jpg

The ways differ in the losses alone: pseudo labels taken as exact, weighed equally everywhere, or
weighed less where they border on the background that they were split from, and as exact labels
elsewhere (docs/new_classes.md). All start from one network that has learned
the seven classes. Each run writes a JSON of its scores below DIR, and one
that is there is not done again: so a broken measurement goes on with the same command.
"""

import argparse
import functools
import json
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.compilation import keep_compiled
from massformer_jax.data.sample.objects import BACKGROUND
from massformer_jax.data.transforms import PhotometricDistortion, RandomFlip
from massformer_jax.files import write_atomically
from massformer_jax.inference.protocol import Protocol
from massformer_jax.inference.views import label_function, show
from massformer_jax.metrics.counts import add_counts, image_counts, zero_counts
from massformer_jax.metrics.scores import summarize
from massformer_jax.models.build import model_graph
from massformer_jax.parallel import sharding
from massformer_jax.training.initial import known_classes, with_known_classes
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import TrainState, init_state
from massformer_jax.training.step import training_step
from massformer_jax.training.trust import Trust
from scripts.benchmark.new_class_scenes import (
    Scene,
    exact_labels,
    render,
    training_labels,
    true_labels,
)
from scripts.conditions import describe, versions
from scripts.markdown import table

ARCHITECTURE = {
    "encoder_depth": 18,
    "decoder_width": 32,
    "ffn_width": 128,
    "layers": 3,
    "queries": 20,
    "classes": len(CLASSES),
}
NEW = (("car",), ("car", "tent"))  # the new classes of each table
# By how many pixels borders may be wrong, as the user says: erosion and shift, and some more.
REACH = 8
WAYS = {
    "(a) taken as exact": lambda labels: None,
    "(b) weighed equally": lambda labels: Trust(_borders(labels), 0.0),
    "(c) less at borders": lambda labels: Trust(_borders(labels), split_from=BACKGROUND),
}
CROP, BATCH, POINTS = 256, 3, 2048
NEAR = 0.75  # share of the crops that lie around a car or a tent, where a scene has one
# Of the optimizers: weights that begin at random, and those that know the seven classes. With the
# whole rate at once, 57 % of the pixels are right after three steps.
FROM_RANDOM = {"peak_learning_rate": 1e-3}
FROM_BASE = {"peak_learning_rate": 1e-3, "warmup_steps": 25}
RATIOS = {"BIoU": 0.001, "BIoU of 3 pixels": 0.003}  # of the diagonal: 1 and 3 pixels
Batches = Iterator[dict[str, np.ndarray]]


def _borders(labels: Iterable[int]) -> tuple[tuple[int, int], ...]:
    return tuple((label, REACH) for label in labels)


def batches(scenes: list[Scene], labels: list[np.ndarray], seed: int) -> Batches:
    """Yields endless batches of crops of the scenes as they are, mirrored, in other colours."""
    rng = np.random.default_rng(seed)
    flip, distort = RandomFlip(), PhotometricDistortion()

    def crop():
        number = rng.integers(len(scenes))
        h, w = labels[number].shape
        y, x = rng.integers(h - CROP + 1), rng.integers(w - CROP + 1)
        shown = np.argwhere(scenes[number].label >= len(CLASSES))
        if len(shown) and rng.random() < NEAR:
            centre = shown[rng.integers(len(shown))] + rng.integers(-CROP // 4, CROP // 4, 2)
            y, x = np.clip(centre - CROP // 2, 0, (h - CROP, w - CROP))
        window = np.s_[y : y + CROP, x : x + CROP]
        found = {"image": scenes[number].image[window], "label": labels[number][window]}
        return distort.random_map(flip.random_map(found, rng), rng)

    while True:
        crops = [crop() for _ in range(BATCH)]
        yield {key: np.stack([x[key] for x in crops]) for key in ("image", "label")}


@functools.cache
def step_of(classes: int, trust: Trust | None, steps: int, frozen_statistics: str):
    """Returns the training step, compiled once for all seeds."""
    return training_step(
        {**ARCHITECTURE, "classes": classes},
        optimizer_of(steps, FROM_RANDOM if classes == len(CLASSES) else FROM_BASE),
        sharding.make_mesh(jax.devices()[:1]),
        seed=0,
        points=POINTS,
        edge_target="edges",
        dtype="float32",
        trust=trust,
        frozen_statistics=frozen_statistics,
    )


def trained(
    state: TrainState,
    classes: int,
    found: Batches,
    *,
    steps: int,
    trust: Trust | None = None,
    frozen_statistics: str = "none",
    say: str,
) -> TrainState:
    """Returns the state after some steps."""
    step = step_of(classes, trust, steps, frozen_statistics)
    for i in range(1, steps + 1):
        state, scalars = step(state, next(found))
        if i % 10 == 0 or i == steps:
            print(f"{say}: step {i} of {steps}, loss {float(scalars['loss']):.2f}", flush=True)
    return state


def optimizer_of(steps: int, settings: dict[str, Any]):
    """Returns the recipe's optimizer for a short run."""
    return recipe_optimizer(encoder_multiplier=1.0, total_steps=steps, **settings)


def placed(state: TrainState) -> TrainState:
    """Returns a state placed as a step leaves it; otherwise the second step is compiled anew."""
    return jax.device_put(state, sharding.replicated(sharding.make_mesh(jax.devices()[:1])))


def base_weights(folder: pathlib.Path, scenes: list[Scene], steps: int) -> tuple[Any, Any]:
    """Returns weights that have learned the seven classes, from the folder if they are there."""
    path = folder / f"base_{steps}.npz"
    optimizer = optimizer_of(steps, FROM_RANDOM)
    key = jax.random.key(0, impl="unsafe_rbg")
    init = functools.partial(init_state, architecture=ARCHITECTURE, optimizer=optimizer)
    if not path.exists():
        start = time.monotonic()
        state = trained(
            placed(jax.jit(init)(key)),
            len(CLASSES),
            batches(scenes, [exact_labels(x) for x in scenes], seed=0),
            steps=steps,
            say="seven classes",
        )
        leaves = jax.tree.leaves((state.params, state.batch_stats))
        part = path.with_suffix(".part.npz")
        np.savez(part, *leaves)
        part.rename(path)
        print(f"seven classes: {time.monotonic() - start:.0f} s")
    shapes = jax.eval_shape(init, key)
    with np.load(path) as kept:
        leaves = [jnp.asarray(kept[name]) for name in kept.files]
    return jax.tree.unflatten(jax.tree.structure((shapes.params, shapes.batch_stats)), leaves)


def begun(weights: tuple[Any, Any], classes: int, seed: int, steps: int) -> TrainState:
    """Returns a state with these weights, and more classes than they have."""
    optimizer = optimizer_of(steps, FROM_BASE)
    architecture = {**ARCHITECTURE, "classes": classes}
    init = functools.partial(init_state, architecture=architecture, optimizer=optimizer)
    state = jax.jit(init)(jax.random.key(seed, impl="unsafe_rbg"))
    params, batch_stats = jax.tree.map(jnp.copy, weights)
    names = [f"new {i}" for i in range(classes)]
    names[: len(CLASSES)] = CLASSES
    params = with_known_classes(params, state.params, known_classes(architecture, names, CLASSES))
    return placed(state._replace(params=params, batch_stats=batch_stats))


@functools.cache
def prediction_of(classes: int):
    """Returns the function that predicts label maps."""
    graph = model_graph({**ARCHITECTURE, "classes": classes}, training=False)
    mesh = sharding.make_mesh(jax.devices()[:1])
    return label_function(graph, Protocol(), dtype="float32", mesh=mesh)


def scores(
    state: TrainState, classes: int, scenes: list[Scene], labels: list[np.ndarray]
) -> dict[str, list[float]]:
    """Returns IoU and boundary IoU of every class over the scenes, in percent."""
    pools = dict.fromkeys(RATIOS, zero_counts(classes))
    for scene, label in zip(scenes, labels, strict=True):
        shown = show(Protocol(), [scene.image])
        predict = prediction_of(classes)
        found = predict(state.params, state.batch_stats, shown, label.shape)[0]
        for name, ratio in RATIOS.items():
            counts = image_counts(
                found, jnp.asarray(label), num_classes=classes, boundary_ratio=ratio
            )
            pools[name] = add_counts(pools[name], counts)
    by_name = {name: summarize(pool)["BIoU"] for name, pool in pools.items()}
    by_name["IoU"] = summarize(pools["BIoU"])["IoU"]
    return {name: [100 * float(x) for x in values] for name, values in by_name.items()}


def runs(folder: pathlib.Path, args: argparse.Namespace) -> None:
    """Does all runs that are not done yet."""
    train = [render("train", i) for i in range(args.scenes)]
    val = [render("val", i) for i in range(args.val)]
    weights = base_weights(folder, train, args.base_steps)
    for seed in args.seeds:
        for new in NEW[: args.up_to]:
            for way, trust_of in WAYS.items():
                path = folder / f"{'_'.join(new)}_{way[1]}_{seed}.json"
                if path.exists():
                    continue
                start = time.monotonic()
                classes = len(CLASSES) + len(new)
                labels = [training_labels(x, i, new) for i, x in enumerate(train)]
                state = trained(
                    begun(weights, classes, seed, args.steps),
                    classes,
                    batches(train, labels, seed=100 + seed),
                    steps=args.steps,
                    trust=trust_of(range(len(CLASSES), classes)),
                    # Three crops say little of the statistics of whole scenes.
                    frozen_statistics="all",
                    say=path.stem,
                )
                found = {
                    "new": new,
                    "way": way,
                    "seed": seed,
                    "steps": args.steps,
                    "base_steps": args.base_steps,
                    "scenes": [args.scenes, args.val],
                    "scores": scores(state, classes, val, [true_labels(x, new) for x in val]),
                    "seconds": time.monotonic() - start,
                    "device": describe(jax.devices()),
                    "versions": versions("jax", "flax", "numpy"),
                }
                write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())
                print(f"wrote {path}", flush=True)


def tables(folder: pathlib.Path) -> str:
    """Returns a table for each set of new classes: means over the seeds, and their spread."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    parts = []
    for new in NEW:
        rows = [row for way in WAYS if (row := _row(found, new, way))]
        if rows:
            names = [f"{name} {score}" for name in new for score in RATIOS]
            head = ["pseudo labels", *names, "mIoU of the seven", "their mean BIoU", "seeds"]
            parts.append(f"New: {' and '.join(new)}.\n\n{table(head, rows)}")
    return "\n".join(parts)


def _row(found: list[dict], new: tuple[str, ...], way: str) -> list[str]:
    """Returns the cells of a way, or none if it has no run."""
    chosen = [x["scores"] for x in found if tuple(x["new"]) == new and x["way"] == way]
    if not chosen:
        return []
    k = len(CLASSES)
    values = [[x[score][k + i] for x in chosen] for i in range(len(new)) for score in RATIOS]
    values += [[float(np.nanmean(x[score][:k])) for x in chosen] for score in ("IoU", "BIoU")]
    cells = [f"{np.mean(x):.1f} ({min(x):.1f} to {max(x):.1f})" for x in values]
    return [way, *cells, str(len(chosen))]


def picture(count: int = 3) -> UInt8[np.ndarray, "h w 3"]:
    """Returns scenes at half size beside their true labels and those to train on."""
    new = NEW[-1]
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(CLASSES) + len(new)] = [*PALETTE, (255, 128, 0), (255, 0, 255)]
    scenes = [render("train", i) for i in range(count)]
    rows = [
        (x.image, colours[true_labels(x, new)], colours[training_labels(x, i, new)])
        for i, x in enumerate(scenes)
    ]
    drawn = np.concatenate([np.concatenate(row, 1) for row in rows])
    return cv2.resize(drawn, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder of the runs")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there")
    parser.add_argument("--steps", type=int, default=250, help="with the new classes")
    parser.add_argument("--base-steps", type=int, default=1000, help="with the seven classes alone")
    parser.add_argument("--scenes", type=int, default=48, help="to train on")
    parser.add_argument("--val", type=int, default=16, help="to evaluate on")
    parser.add_argument("--seeds", default=[0, 1, 2], type=lambda x: [*map(int, x.split(","))])
    parser.add_argument("--up-to", type=int, default=2, help="number of tables")
    parser.add_argument("--picture", type=pathlib.Path, help="write a picture of some scenes alone")
    args = parser.parse_args()
    if args.picture:
        cv2.imwrite(str(args.picture), picture()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
        return
    args.output.mkdir(parents=True, exist_ok=True)
    if not args.tables:
        keep_compiled(str(args.output / "compiled"))
        runs(args.output, args)
    print(tables(args.output))


if __name__ == "__main__":
    main()
