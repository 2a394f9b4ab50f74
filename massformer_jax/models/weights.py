"""Weights on disk: everything that is needed to predict, or to begin training with.

A folder of weights holds STEP/ with `model`, the arrays, and `meta`, JSON with the architecture,
class names and palette, and for converted weights with where they came from. A training run keeps
such folders in its workdir, as `best/` and, with more in them, as `checkpoints/`.
"""

import os
import pathlib
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from massformer_jax.classes import CLASSES, class_palette
from massformer_jax.errors import InputError
from massformer_jax.models.build import abstract_encoder, abstract_weights

LAST, BEST = "checkpoints", "best"  # folders of a workdir


class Weights(NamedTuple):
    """A model that can predict, or an encoder to begin training with."""

    step: int
    architecture: dict[str, Any]  # of MaSSFormer; of an encoder alone only `encoder_depth`
    classes: tuple[str, ...]
    params: Any
    batch_stats: Any
    palette: tuple[tuple[int, int, int], ...] = class_palette(len(CLASSES))  # RGB
    source: dict[str, Any] | None = None  # of converted weights: file, sha256, iteration, counters


def save_weights(directory: str | os.PathLike, weights: Weights) -> None:
    """Writes converted weights into a new folder; what is there has been written completely."""
    meta = {
        "architecture": dict(weights.architecture),
        "classes": list(weights.classes),
        "palette": [list(rgb) for rgb in weights.palette],
        "source": weights.source,
    }
    items = ocp.args.Composite(
        model=weights_item(weights.params, weights.batch_stats),
        meta=ocp.args.JsonSave(meta),
    )
    with ocp.CheckpointManager(epath.Path(directory).resolve()) as manager:
        manager.save(weights.step, args=items)


def load_weights(
    directory: str | os.PathLike, sharding: jax.sharding.Sharding, *, encoder: bool = False
) -> Weights:
    """Returns the weights in a workdir: the best ones, or the last if none were evaluated.

    Args:
        directory: a workdir, a folder `checkpoints` or `best` of one, or converted weights.
        sharding: where each array goes.
        encoder: whether an encoder alone will do.

    Raises:
        InputError: there is no complete checkpoint, or there is an encoder alone where that will
            not do.
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
        like = _abstract(meta["architecture"])
        if "classes" not in meta["architecture"] and not encoder:
            raise InputError(f"{directory} holds an encoder alone; use it as config.init_from")
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
        )
        arrays = manager.restore(
            step, args=ocp.args.Composite(model=ocp.args.StandardRestore(like))
        )["model"]
    classes = tuple(meta["classes"])
    palette = tuple(tuple(rgb) for rgb in meta.get("palette") or class_palette(len(classes)))
    return Weights(
        step, meta["architecture"], classes, **arrays, palette=palette, source=meta.get("source")
    )


def weights_item(params: Any, batch_stats: Any) -> ocp.args.StandardSave:
    """Returns what writes weights as `load_weights` reads them."""
    return ocp.args.StandardSave({"params": params, "batch_stats": batch_stats})


def _abstract(architecture: dict[str, Any]) -> dict[str, Any]:
    if "classes" in architecture:
        params, batch_stats = abstract_weights(architecture)
    else:
        params, batch_stats = abstract_encoder(architecture["encoder_depth"])
    return {"params": params, "batch_stats": batch_stats}
