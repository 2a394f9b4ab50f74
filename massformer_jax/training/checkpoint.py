"""Checkpoints of a run: complete states to continue from, and the weights with the best mIoU.

A workdir holds

    checkpoints/STEP/   the last complete states: model, optimizer, meta
    best/STEP/          the weights with the best mIoU so far: model, meta
    nonfinite/STEP/     the state before a step whose loss was not finite, and its batch

`model` and `meta` are those of `massformer_jax.models.weights`, so that each of them can predict.
Where a run keeps a moving average of its weights, `model` is the average, and a state has the
weights that are trained as `trained`.

The position in the data is no part of a state: it follows from the step, for any number of
processes (`pipeline.stream_position`). Every process writes its own arrays. When all have written,
one lists the checksums of all files (`massformer_jax.models.checksums`) and completes the state. On
a disk Orbax writes into a temporary folder, which is renamed then: what has a step's name is
complete. In a bucket a last file is written then, `commit_success.txt`, and what lacks it does not
count.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from massformer_jax.classes import Class, class_names, names_of, palette_of
from massformer_jax.errors import InputError
from massformer_jax.files import Place, orbax_path, rename_folder, written_atomically
from massformer_jax.models.checksums import damage, note_damage, write_checksums
from massformer_jax.models.weights import BEST, LAST, steps_in, unfinished_in, weights_item
from massformer_jax.parallel import processes
from massformer_jax.parallel.processes import say
from massformer_jax.training.average import evaluated
from massformer_jax.training.dataset import check_same_classes
from massformer_jax.training.state import TrainState

NONFINITE = "nonfinite"
KEPT = 2  # if the newest is damaged by a failing disk, there is one before it


class Checkpoints:
    """The states and the best weights of a run.

    What is damaged is set aside at the start, so that the run continues from the state before it.
    Used as a context manager, it waits at the end for what is still being written.

    Args:
        workdir: folder of the run; made if it is missing.
        architecture: keyword arguments of MaSSFormer, which are written beside the weights.
        every: number of steps from one state to the next.
        step: continues from the state after this step; None for the newest.
        pictures: (height, width) of the pictures that the weights are meant for, if known; written
            beside them, too.
        classes: of the dataset, likewise. Without any, names are made up.

    Raises:
        InputError: there are states and all are damaged, or there is none after `step`.
    """

    def __init__(
        self,
        workdir: Place,
        architecture: Mapping[str, Any],
        *,
        every: int,
        step: int | None = None,
        pictures: tuple[int, int] | None = None,
        classes: Sequence[Class] = (),
    ):
        self._architecture, self._pictures, self._every = architecture, pictures, every
        self._classes, self._folder = classes, workdir / LAST
        states, best = (workdir / name for name in (LAST, BEST))
        if processes.is_first():
            set_aside(states, step=step, needed=True)
            set_aside(best, step=step, needed=False)
        processes.wait_for_all()
        self._states = ocp.CheckpointManager(orbax_path(states), options=_options(states, KEPT))
        best_of = {"best_fn": lambda metrics: metrics["mIoU"], "best_mode": "max"}
        self._best = ocp.CheckpointManager(orbax_path(best), options=_options(best, 1, **best_of))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._states.close()
        self._best.close()

    def is_due(self, step: int) -> bool:
        """Tells whether a state is kept after this step."""
        return step % self._every == 0

    def save(self, state: TrainState) -> None:
        """Writes a complete state in the background.

        Its arrays are copied first, so that the next step may reuse their memory.
        """
        _save(self._states, state, _meta(self._architecture, self._pictures, self._classes))

    def save_best(self, state: TrainState, miou: float) -> None:
        """Writes the weights, and waits, if their mIoU (0..1) is higher than that of the best.

        Release: mmengine, too, keeps the earlier of two that are equal.
        """
        step, best = int(state.step), self.best_step()
        # A run that was killed after this, before the evaluation was noted, comes here twice with
        # its best step; on accelerators its mIoU may then differ in the last digits.
        if best is not None and (step == best or miou <= self._best.metrics(best)["mIoU"]):
            return
        items = ocp.args.Composite(
            model=weights_item(*evaluated(state)),
            meta=ocp.args.JsonSave(_meta(self._architecture, self._pictures, self._classes)),
        )
        self._best.save(step, args=items, metrics={"mIoU": miou})
        self._best.wait_until_finished()

    def restore(self, shapes: TrainState, shardings: TrainState) -> TrainState | None:
        """Returns the newest complete state, or None if there is none yet.

        Args:
            shapes: shapes and dtypes of the state.
            shardings: where each of its arrays goes.

        Raises:
            InputError: the state is of other classes than the dataset.
        """
        step = self._states.latest_step()
        if step is None:
            return None
        if self._classes:
            found = self._states.restore(
                step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
            )["meta"]
            where = f"the state in {self._folder / str(step)}"
            check_same_classes(found["classes"], self._classes, where)
        like = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            shapes,
            shardings,
        )
        trained = {"params": like.params, "batch_stats": like.batch_stats}
        weights = {"model": trained}
        if like.average is not None:
            weights = {"model": like.average, "trained": trained}
        items = self._states.restore(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardRestore(tree) for name, tree in weights.items()},
                optimizer=ocp.args.StandardRestore(like.opt_state),
                meta=ocp.args.JsonRestore(),
            ),
        )
        step, skipped = (
            jax.device_put(np.asarray(number, like.step.dtype), like.step.sharding)
            for number in (step, items["meta"]["skipped"])
        )
        average = items["model"] if like.average is not None else None
        trained = items["model" if average is None else "trained"]
        opt_state = items["optimizer"]
        return TrainState(step, **trained, opt_state=opt_state, skipped=skipped, average=average)

    def best_step(self) -> int | None:
        """Returns the step with the best mIoU, or None if nothing was evaluated yet."""
        return self._best.best_step()


def set_aside(folder: Place, *, step: int | None, needed: bool) -> None:
    """Renames checkpoints that are not what was written, and says which, down to a sound one.

    Nothing is deleted: 2000/ becomes 2000.damaged/, or 2000.later/ if it is sound but later than
    `step`. No command looks at these.

    Args:
        folder: of checkpoints.
        step: the one to continue from; later ones are set aside, too. None for the newest.
        needed: whether it is an error if all are damaged, or if there is none of `step`.

    Raises:
        InputError: all are damaged, or there is none of `step`, or that one is damaged.
    """
    steps = steps_in(folder)
    if needed and step is not None and step not in steps:
        there = f"those of {', '.join(map(str, steps))}" if steps else "none"
        raise InputError(f"{folder} holds no state of step {step}, but {there}")
    later = [number for number in steps if step is not None and number > step]
    aside = {number: f"is later than step {step}" for number in later}
    earlier = steps[: len(steps) - len(later)]
    while earlier:
        number = earlier.pop()
        problem = damage(folder / str(number))
        if not problem:
            break
        if needed and number == step:
            raise InputError(f"{folder / str(step)} is damaged: {problem}; name another --step")
        aside[number] = f"is damaged: {problem}"
    else:
        if steps and needed:
            raise InputError(
                f"{folder / str(steps[-1])} {aside[steps[-1]]}, and no other state is sound; "
                "restore one from a copy, or start again in another --workdir"
            )
    for number in earlier:
        if problem := note_damage(folder / str(number)):
            aside[number] = f"is damaged: {problem}"
    for number, reason in aside.items():
        suffix = "later" if number in later else "damaged"
        kept = _free_name(folder / f"{number}.{suffix}")
        rename_folder(folder / str(number), kept)
        say(f"{folder / str(number)} {reason}; it is now {kept.name}")


def _free_name(path: Place) -> Place:
    names = (path.with_name(f"{path.name}{i or ''}") for i in itertools.count())
    return next(name for name in names if not name.exists())


def _options(folder: Place, kept: int, **best: Any) -> ocp.CheckpointManagerOptions:
    """Returns options of a manager that lists the checksums of what it has written."""

    def seal():
        # Called when all is written, before the folder gets its name, or is finished otherwise.
        if processes.is_first():
            for unfinished in unfinished_in(folder):
                write_checksums(unfinished)

    return ocp.CheckpointManagerOptions(
        max_to_keep=kept,
        create=True,
        # Both managers may save a state of the same step at once.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=folder.name
        ),
        async_options=ocp.AsyncOptions(post_finalization_callback=seal),
        **best,
    )


def has_state(workdir: Place) -> bool:
    """Tells whether there is a complete state to continue from."""
    return bool(steps_in(workdir / LAST))


def save_nonfinite(
    workdir: Place,
    state: TrainState,
    batch: Mapping[str, np.ndarray],
    architecture: Mapping[str, Any],
    classes: Sequence[Class] = (),
) -> Place:
    """Writes the state before a failed step, and this process's share of its batch.

    Those of another step are kept under another name. The same step has the same state, which is
    not written twice.

    Returns:
        The folder: of the state, like those of `checkpoints`, and of `batch_PROCESS.npz` beside.
    """
    folder = workdir / NONFINITE
    if processes.is_first() and (steps := steps_in(folder)) and int(state.step) not in steps:
        rename_folder(folder, _free_name(workdir / f"{NONFINITE}.earlier"))
    processes.wait_for_all()
    with ocp.CheckpointManager(orbax_path(folder)) as manager:
        _save(manager, state, _meta(architecture, None, classes))
    if processes.is_first():
        write_checksums(folder / str(int(state.step)))
    with (
        written_atomically(folder / f"batch_{jax.process_index()}.npz") as part,
        part.open("wb") as file,
    ):
        np.savez_compressed(file, **batch)
    return folder


def _save(manager: ocp.CheckpointManager, state: TrainState, meta: Mapping[str, Any]) -> None:
    step = int(state.step)
    if step in manager.all_steps():
        return
    items = {
        "model": weights_item(*evaluated(state)),
        "optimizer": ocp.args.StandardSave(state.opt_state),
        "meta": ocp.args.JsonSave({**meta, "skipped": int(state.skipped)}),
    }
    if state.average is not None:
        items["trained"] = weights_item(state.params, state.batch_stats)
    manager.save(step, args=ocp.args.Composite(**items))


def _meta(
    architecture: Mapping[str, Any], pictures: tuple[int, int] | None, classes: Sequence[Class]
) -> dict[str, Any]:
    told = {"classes": list(names_of(classes)), "palette": [list(c) for c in palette_of(classes)]}
    return {
        "architecture": dict(architecture),
        **(told if classes else {"classes": list(class_names(architecture["classes"]))}),
        "pictures": pictures,
    }
