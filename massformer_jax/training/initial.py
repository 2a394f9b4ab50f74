"""The weights that a training run starts from, `config.init_from`."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from massformer_jax.classes import are_numbered
from massformer_jax.convert.weights import is_encoder, recognise, weights_of
from massformer_jax.convert.weights_file import read_weights
from massformer_jax.errors import InputError
from massformer_jax.files import Place, place
from massformer_jax.models.hub import local_file
from massformer_jax.models.weights import Weights, load_weights
from massformer_jax.parallel.processes import say
from massformer_jax.training.checkpoint import has_state
from massformer_jax.training.state import TrainState

CLASS_HEAD = "cls_embed"


class Initial(NamedTuple):
    """Weights of some parts of the network, by their names at the top of the tree."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    message: str  # what was taken and what stays freshly initialised


def initial_weights(
    config: ml_collections.ConfigDict, workdir: Place, classes: Sequence[str] = ()
) -> Initial | None:
    """Returns what a new run starts from; None for nothing, or if the run has begun already.

    Raises:
        InputError: see `read_initial`; or statistics are to be frozen that are not there.
    """
    if has_state(workdir):
        return None
    frozen = config.frozen_statistics
    if not config.init_from:
        if frozen != "none":
            raise InputError(
                f"frozen_statistics is {frozen!r}, and there are none without init_from; name "
                "weights there, or use frozen_statistics=none"
            )
        return None
    initial = read_initial(config.init_from, config.architecture.to_dict(), classes)
    if frozen == "all" and "pixel_decoder" not in initial.batch_stats:
        raise InputError(
            f"frozen_statistics is 'all', and {config.init_from} holds those of the encoder alone; "
            "use frozen_statistics=encoder"
        )
    return initial


def read_initial(
    path: str | os.PathLike, architecture: Mapping[str, Any], classes: Sequence[str] = ()
) -> Initial:
    """Reads what a run of this model can start from.

    Args:
        path: a workdir, converted weights, a file that `massformer_jax.convert` reads, or a name of
            the Hub that stands for weights or for a .safetensors file. It holds the same model, or
            an encoder of the same depth. Other classes leave the class head out.
        architecture: keyword arguments of MaSSFormer.
        classes: names of the dataset's classes; without any, only their number is compared.

    Raises:
        InputError: it is none of these, or holds another model; names it.
    """
    weights = _read(path, architecture)
    for key, value in weights.architecture.items():
        if key != "classes" and value != architecture[key]:
            raise InputError(
                f"init_from: {path} has architecture.{key}={value}, the config "
                f"{architecture[key]}; use weights of the same architecture"
            )
    if "classes" not in weights.architecture:
        fresh = "all but the encoder is freshly initialised"
    elif weights.architecture["classes"] != architecture["classes"]:
        fresh = (
            f"the class head ({CLASS_HEAD}) is freshly initialised, for {architecture['classes']} "
            f"classes instead of {weights.architecture['classes']}"
        )
        del weights.params[CLASS_HEAD]
    elif classes and not are_numbered(weights.classes) and weights.classes != tuple(classes):
        fresh = (
            f"the class head ({CLASS_HEAD}) is freshly initialised, since the weights have other "
            f"classes: {', '.join(weights.classes)}"
        )
        del weights.params[CLASS_HEAD]
    else:
        fresh = "nothing is freshly initialised"
    return Initial(weights.params, weights.batch_stats, f"starts from {path}; {fresh}")


def start(state: TrainState, initial: Initial) -> TrainState:
    """Returns the state with these parts in place of its own, where its own lie."""
    parts = (initial.params, initial.batch_stats)
    where = (
        {name: jax.tree.map(lambda x: x.sharding, tree[name]) for name in part}
        for part, tree in zip(parts, (state.params, state.batch_stats), strict=True)
    )
    # Copied by the program, so that nothing else holds the buffers when a step donates them.
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=tuple(where))
    params, batch_stats = copy(parts)
    return state._replace(
        params={**state.params, **params}, batch_stats={**state.batch_stats, **batch_stats}
    )


def _read(path: str | os.PathLike, architecture: Mapping[str, Any]) -> Weights:
    path = local_file(path, (".safetensors",))
    if place(path).is_dir():
        device = jax.local_devices(backend="cpu")[0]
        sharding = jax.sharding.SingleDeviceSharding(device)
        weights = load_weights(path, sharding, encoder=True)
        # The step's program may run on other devices.
        params, batch_stats = jax.device_get((weights.params, weights.batch_stats))
        return weights._replace(params=params, batch_stats=batch_stats)
    source = read_weights(path)
    for note in source.notes:
        say(f"{path}: {note}")
    known = recognise(source.tensors) or is_encoder(source.tensors)
    return weights_of(source, None if known else architecture)
