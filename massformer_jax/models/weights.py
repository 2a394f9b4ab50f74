"""Weights on disk: everything that is needed to predict, or to begin training with.

A folder of weights holds STEP/ with `model`, the arrays, and `meta`, JSON with the architecture,
class names and palette, and for converted weights with where they came from; and `checksums.json`,
with which the rest is compared before it is read. A training run keeps such folders in its workdir,
as `best/` and, with more in them, as `checkpoints/`. Weights are read from folders of the form of
`exchange`, too, and by their names on the Hub of Hugging Face (`hub`).
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from massformer_jax.classes import CLASSES, class_palette
from massformer_jax.command import say_beside_output
from massformer_jax.errors import InputError
from massformer_jax.files import Place, in_bucket, orbax_path, place
from massformer_jax.models.build import abstract_encoder, abstract_weights
from massformer_jax.models.checksums import damage, write_checksums
from massformer_jax.models.exchange import is_exchanged, read_exchanged
from massformer_jax.models.finite import check_numbers
from massformer_jax.models.hub import local_folder
from massformer_jax.models.picture_size import pictures_of

LAST, BEST = "checkpoints", "best"  # folders of a workdir


class Weights(NamedTuple):
    """A model that can predict, or an encoder to begin training with."""

    step: int
    architecture: dict[str, Any]  # of the network; of a ResNet alone only `encoder_depth`
    classes: tuple[str, ...]
    params: Any
    batch_stats: Any
    palette: tuple[tuple[int, int, int], ...] = class_palette(len(CLASSES))  # RGB
    source: dict[str, Any] | None = None  # of converted weights: file, sha256, iteration, counters
    folder: Place | None = None  # STEP/, or the exchanged folder, from which they were read
    pictures: tuple[int, int] | None = None  # (height, width) that they are meant for, if known


def save_weights(directory: str | os.PathLike, weights: Weights) -> None:
    """Writes converted weights into a new folder; what is there has been written completely."""
    meta = {
        "architecture": dict(weights.architecture),
        "classes": list(weights.classes),
        "palette": [list(rgb) for rgb in weights.palette],
        "source": weights.source,
        "pictures": weights.pictures,
    }
    items = ocp.args.Composite(
        model=weights_item(weights.params, weights.batch_stats),
        meta=ocp.args.JsonSave(meta),
    )
    folder = place(directory)
    with ocp.CheckpointManager(orbax_path(folder)) as manager:
        manager.save(weights.step, args=items)
    write_checksums(folder / str(weights.step))


def load_weights(
    directory: str | os.PathLike,
    sharding: jax.sharding.Sharding,
    *,
    encoder: bool = False,
    step: int | None = None,
    say: Callable[[str], None] = say_beside_output,
) -> Weights:
    """Returns the weights in a workdir: the best ones, or the last if none were evaluated.

    What is damaged is passed over, and said: after the best weights come those of the last states,
    the newest first.

    Args:
        directory: a workdir, a folder `checkpoints` or `best` of one, or converted or exchanged
            weights; or their name on the Hub, hf://OWNER/NAME[@REVISION][/FOLDER].
        sharding: where each array goes.
        encoder: whether an encoder alone will do.
        step: takes the weights of this step, and no others.
        say: prints a line.

    Raises:
        InputError: there is no complete and undamaged checkpoint, or its weights are not finite,
            or there is an encoder alone where that will not do; or a name cannot be downloaded.
    """
    root = place(local_folder(directory))
    if not in_bucket(root) and is_exchanged(root):
        return _exchanged(root, directory, sharding, step)
    found = [
        folder / str(number)
        for folder in (root / BEST, root / LAST, root)
        for number in reversed(steps_in(folder))
        if step in (None, number)
    ]
    if not found:
        what = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise InputError(f"{directory} holds {what}; pass the --workdir of a training run")
    path = undamaged(found, say)
    step, folder = int(path.name), path.parent
    with ocp.CheckpointManager(orbax_path(folder)) as manager:
        meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        try:
            like = _abstract(meta["architecture"])
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if "classes" not in meta["architecture"] and not encoder:
            raise InputError(f"{directory} holds an encoder alone; use it as config.init_from")
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
        )
        arrays = manager.restore(
            step, args=ocp.args.Composite(model=ocp.args.StandardRestore(like))
        )["model"]
    try:
        check_numbers(**arrays)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    classes = tuple(meta["classes"])
    palette = tuple(tuple(rgb) for rgb in meta.get("palette") or class_palette(len(classes)))
    return Weights(
        step,
        meta["architecture"],
        classes,
        **arrays,
        palette=palette,
        source=meta.get("source"),
        folder=path,
        pictures=pictures_of(meta.get("pictures")),
    )


def _exchanged(
    folder: Place,
    directory: str | os.PathLike,
    sharding: jax.sharding.Sharding,
    step: int | None,
) -> Weights:
    """Returns the weights in a folder of the form of `exchange`, which is named as `directory`."""
    found = read_exchanged(folder)
    if step not in (None, found.step):
        raise InputError(
            f"{directory} holds no checkpoint of step {step}, but that of {found.step}; leave the "
            "step out"
        )
    try:
        check_numbers(found.params, found.batch_stats)
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error
    params, batch_stats = jax.device_put((found.params, found.batch_stats), sharding)
    return Weights(
        **{**found._asdict(), "params": params, "batch_stats": batch_stats}, folder=folder
    )


def steps_in(folder: Place) -> list[int]:
    """Returns the steps of which a folder holds a checkpoint, in order."""
    return sorted(
        int(path.name)
        for path in folder.glob("*")
        # On a disk, a folder that is being written does not have its name yet.
        if path.name.isdecimal() and (not in_bucket(path) or _is_finished(path))
    )


def unfinished_in(folder: Place) -> list[Place]:
    """Returns the checkpoints in a folder that are being written, or were when a run ended."""
    if not in_bucket(folder):
        return list(folder.glob("*.orbax-checkpoint-tmp*"))
    there = (path for path in folder.glob("*") if path.name.isdecimal())
    return [path for path in there if not _is_finished(path)]


def undamaged(checkpoints: Sequence[Place], say: Callable[[str], None]) -> Place:
    """Returns the first checkpoint that is what was written; says which ones before it are not.

    Raises:
        InputError: there is none; names the first.
    """
    wrong = []
    for path in checkpoints:
        problem = damage(path)
        if not problem:
            for line in wrong:
                say(f"{line}; {path} is taken instead")
            return path
        wrong.append(f"{path} is damaged: {problem}")
    more = f" (and {len(wrong) - 1} more are damaged)" if len(wrong) > 1 else ""
    raise InputError(f"{wrong[0]}{more}; take a copy of it, or train or convert again")


def weights_item(params: Any, batch_stats: Any) -> ocp.args.StandardSave:
    """Returns what writes weights as `load_weights` reads them."""
    return ocp.args.StandardSave({"params": params, "batch_stats": batch_stats})


def _is_finished(checkpoint: Place) -> bool:
    """Tells whether Orbax has written a checkpoint in a bucket to its end."""
    return ocp.utils.is_checkpoint_finalized(orbax_path(checkpoint))


def _abstract(architecture: dict[str, Any]) -> dict[str, Any]:
    if "classes" in architecture:
        params, batch_stats = abstract_weights(architecture)
    else:
        params, batch_stats = abstract_encoder(architecture["encoder_depth"])
    return {"params": params, "batch_stats": batch_stats}
