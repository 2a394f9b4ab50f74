"""Whose workdir it is: checking a config, and tying a folder to it."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
from jax.sharding import Mesh

from massformer_jax.errors import InputError
from massformer_jax.files import write_whole
from massformer_jax.models.massformer import STRIDE
from massformer_jax.precision import computation
from massformer_jax.profiling import parse_steps
from massformer_jax.protocols import Protocol
from massformer_jax.sharding import check_batch_size

# Keys that may change when a run continues: they move or report it. All others belong to the run.
CHANGEABLE = (
    "data.data_dir",
    "data.threads",
    "data.on_bad_record",
    "eval.pictures",
    "eval.save_predictions",
    "log_every",
    "checkpoint_every",
    "eval_every",
    "on_nonfinite",
    "profile_steps",
    "mesh.data",
    "mesh.fsdp",
    "mesh.spatial",
    "shardings",
)

EVALUATED = "evaluated"


def check_config(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Raises InputError for a setting that cannot be trained, naming the key."""
    check_batch_size(config.batch_size, mesh)
    crop = config.data.crop_size
    if crop < STRIDE or crop % STRIDE:
        raise InputError(f"data.crop_size is {crop}; it must be a multiple of {STRIDE}")
    for key in ("log_every", "checkpoint_every", "eval_every", "total_steps"):
        if config[key] < 1:
            raise InputError(f"{key} is {config[key]}; it must be at least 1")
    if config.loss.edge_target not in ("edges", "ones"):
        raise InputError(f"loss.edge_target is {config.loss.edge_target!r}; use 'edges' or 'ones'")
    computation(config.dtype)
    if config.loss.points < 4:
        raise InputError(f"loss.points is {config.loss.points}; it must be at least 4")
    if config.on_nonfinite not in ("halt", "skip"):
        raise InputError(f"on_nonfinite is {config.on_nonfinite!r}; use 'halt' or 'skip'")
    parse_steps(config.profile_steps)
    eval_protocol(config)


def eval_protocol(config: ml_collections.ConfigDict) -> Protocol:
    """How photographs are shown to the network in an evaluation.

    Raises:
        InputError: the config asks for what there is not; names the key.
    """
    names = [field.name for field in dataclasses.fields(Protocol)]
    try:
        return Protocol(**{name: config.eval[name] for name in names})
    except InputError as error:
        raise InputError(f"config.eval: {error}") from error


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict, *, write: bool) -> None:
    """Checks `config.json`, if the folder has one; writes it, and makes the folder, if `write`.

    Raises:
        InputError: the folder belongs to a run with another config; names the first keys.
    """
    path = workdir / "config.json"
    mine = flatten(json.loads(config.to_json()))
    if path.exists():
        theirs = flatten(json.loads(path.read_text()))
        differing = [
            f"{key} is {theirs.get(key)!r} there and {mine.get(key)!r} here"
            for key in sorted(mine.keys() | theirs.keys())
            if key not in CHANGEABLE and mine.get(key) != theirs.get(key)
        ]
        if differing:
            more = f" (and {len(differing) - 1} more keys)" if len(differing) > 1 else ""
            raise InputError(
                f"{workdir} belongs to a run with another config: {differing[0]}{more}; "
                "use another --workdir or that config"
            )
    if write:
        write_whole(path, (json.dumps(json.loads(config.to_json()), indent=1) + "\n").encode())


def last_evaluation(workdir: pathlib.Path) -> int:
    """The last step whose evaluation came to its end, 0 if none did."""
    path = workdir / EVALUATED
    return int(path.read_text()) if path.exists() else 0


def note_evaluation(workdir: pathlib.Path, step: int) -> None:
    """Makes it `last_evaluation`."""
    write_whole(workdir / EVALUATED, f"{step}\n".encode())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
