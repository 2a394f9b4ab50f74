"""Checkpoints: complete ones to continue training, and weights to evaluate and predict with.

A workdir holds

    checkpoints/STEP/   the last complete states: model, optimizer, meta
    best/STEP/          the weights with the best mIoU so far: model, meta
    nonfinite/STEP/     the state before a step whose loss was not finite, and its batch

and a folder of converted weights STEP/ alone, as in best/. `meta` is JSON with the model's
arguments, class names and palette, so that weights alone suffice to predict, and for converted
weights with where they came from. The position in the data is no part of a state: it follows from
the step, for any number of processes (`pipeline.stream_position`).
Orbax writes into a temporary folder and renames it: what has a step's name is complete. Every
process writes its own arrays; one renames, when all have written.
"""

import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from massformer_jax.data.classes import CLASSES, class_names, class_palette
from massformer_jax.errors import InputError
from massformer_jax.files import written_whole
from massformer_jax.train_state import TrainState, abstract_encoder, abstract_weights

LAST, BEST, NONFINITE = "checkpoints", "best", "nonfinite"
KEPT = 2  # if the newest is damaged by a failing disk, there is one before it


class Weights(NamedTuple):
    """A model that can predict, or an encoder to begin training with."""

    step: int
    model: dict[str, Any]  # arguments of MaSSFormer; of an encoder `encoder_depth` alone
    classes: tuple[str, ...]
    params: Any
    batch_stats: Any
    palette: tuple[tuple[int, int, int], ...] = class_palette(len(CLASSES))  # RGB
    source: dict[str, Any] | None = None  # of converted weights: file, sha256, iteration, counters


def last_manager(workdir: str | os.PathLike) -> ocp.CheckpointManager:
    """Keeps the newest complete states."""
    options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True)
    return ocp.CheckpointManager(epath.Path(workdir) / LAST, options=options)


def best_manager(workdir: str | os.PathLike) -> ocp.CheckpointManager:
    """Keeps the weights of the best mIoU."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, best_fn=lambda metrics: metrics["mIoU"], best_mode="max", create=True
    )
    return ocp.CheckpointManager(epath.Path(workdir) / BEST, options=options)


def save(manager: ocp.CheckpointManager, state: TrainState, model: dict) -> None:
    """Writes a complete state in the background. Safe with donation: arrays are copied first."""
    step = int(state.step)
    if step in manager.all_steps():
        return
    items = ocp.args.Composite(
        model=_model_args(state),
        optimizer=ocp.args.StandardSave(state.opt_state),
        meta=ocp.args.JsonSave({**_meta(model), "skipped": int(state.skipped)}),
    )
    manager.save(step, args=items)


def save_nonfinite(
    workdir: pathlib.Path, state: TrainState, batch: dict[str, np.ndarray], model: dict
) -> pathlib.Path:
    """Writes the state before a failed step, and this process's share of its batch.

    Returns:
        The folder: of the state, like those of `checkpoints`, and of `batch_PROCESS.npz` beside.
    """
    folder = workdir / NONFINITE
    with ocp.CheckpointManager(epath.Path(folder)) as manager:
        save(manager, state, model)
    with (
        written_whole(folder / f"batch_{jax.process_index()}.npz") as part,
        part.open("wb") as file,
    ):
        np.savez_compressed(file, **batch)
    return folder


def save_best(manager: ocp.CheckpointManager, state: TrainState, miou: float, model: dict) -> None:
    """Writes the weights; they stay if no other step has a higher mIoU."""
    step = int(state.step)
    # A run that was killed after this, before the evaluation was noted, comes here twice, with
    # equal weights.
    if step in manager.all_steps():
        return
    items = ocp.args.Composite(model=_model_args(state), meta=ocp.args.JsonSave(_meta(model)))
    manager.save(step, args=items, metrics={"mIoU": miou})


def abstract(state: TrainState, shardings: TrainState) -> TrainState:
    """The state as shapes, each in its sharding: see `restore`."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, shardings
    )


def has_state(workdir: str | os.PathLike) -> bool:
    """Whether there is a complete state to continue from."""
    return any(p.name.isdigit() for p in (pathlib.Path(workdir) / LAST).glob("*"))


def restore(manager: ocp.CheckpointManager, like: TrainState) -> TrainState | None:
    """The newest complete state, in the shardings of `like`; None if there is none yet."""
    step = manager.latest_step()
    if step is None:
        return None
    items = manager.restore(
        step,
        args=ocp.args.Composite(
            model=ocp.args.StandardRestore(
                {"params": like.params, "batch_stats": like.batch_stats}
            ),
            optimizer=ocp.args.StandardRestore(like.opt_state),
            meta=ocp.args.JsonRestore(),
        ),
    )
    step, skipped = (
        jax.device_put(np.asarray(number, like.step.dtype), like.step.sharding)
        for number in (step, items["meta"]["skipped"])
    )
    return TrainState(step, **items["model"], opt_state=items["optimizer"], skipped=skipped)


def save_weights(directory: str | os.PathLike, weights: Weights) -> None:
    """Writes converted weights into a new folder; what is there has been written completely."""
    meta = {
        "model": dict(weights.model),
        "classes": list(weights.classes),
        "palette": [list(rgb) for rgb in weights.palette],
        "source": weights.source,
    }
    items = ocp.args.Composite(
        model=ocp.args.StandardSave({"params": weights.params, "batch_stats": weights.batch_stats}),
        meta=ocp.args.JsonSave(meta),
    )
    with ocp.CheckpointManager(epath.Path(directory).resolve()) as manager:
        manager.save(weights.step, args=items)


def load_weights(
    directory: str | os.PathLike, sharding: jax.sharding.Sharding, *, encoder: bool = False
) -> Weights:
    """The weights in a workdir: the best ones, or the last if none were evaluated.

    Args:
        directory: a workdir, a folder `checkpoints` or `best` of one, or converted weights.
        sharding: where each array goes.
        encoder: an encoder alone will do.

    Raises:
        InputError: there is no complete checkpoint, or an encoder alone where that will not do.
    """
    root = pathlib.Path(directory)
    for folder in (root / BEST, root / LAST, root):
        steps = [p for p in folder.glob("*") if p.name.isdigit()] if folder.is_dir() else []
        if steps:
            break
    else:
        raise InputError(f"{directory} holds no checkpoint; pass the --workdir of a training run")
    with ocp.CheckpointManager(epath.Path(folder).resolve()) as manager:
        step = max(manager.all_steps())
        meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        like = _abstract(meta["model"])
        if "classes" not in meta["model"] and not encoder:
            raise InputError(f"{directory} holds an encoder alone; use it as config.init_from")
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
        )
        model = manager.restore(
            step, args=ocp.args.Composite(model=ocp.args.StandardRestore(like))
        )["model"]
    classes = tuple(meta["classes"])
    palette = tuple(tuple(rgb) for rgb in meta.get("palette") or class_palette(len(classes)))
    return Weights(
        step, meta["model"], classes, **model, palette=palette, source=meta.get("source")
    )


def _abstract(model: dict) -> dict:
    if "classes" in model:
        params, batch_stats = abstract_weights(model)
    else:
        params, batch_stats = abstract_encoder(model["encoder_depth"])
    return {"params": params, "batch_stats": batch_stats}


def _model_args(state: TrainState) -> ocp.args.StandardSave:
    return ocp.args.StandardSave({"params": state.params, "batch_stats": state.batch_stats})


def _meta(model: dict) -> dict:
    return {"model": dict(model), "classes": list(class_names(model["classes"]))}
