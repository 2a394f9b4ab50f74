"""Weights that a training run starts from: `config.init_from`."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from massformer_jax import checkpoint
from massformer_jax.convert import is_encoder, recognise, weights_of
from massformer_jax.errors import InputError
from massformer_jax.train_state import TrainState
from massformer_jax.weights_file import read_weights

CLASS_HEAD = "cls_embed"


class Initial(NamedTuple):
    """Some parts of the network, by their names at the top of the tree."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    message: str  # what was taken and what stays freshly initialised


def read_initial(path: str | os.PathLike, model: Mapping[str, Any]) -> Initial:
    """Reads what a run of this model can start from.

    Args:
        path: a workdir, converted weights, or a file that `massformer_jax.convert` reads. It holds
            the same model, or an encoder of the same depth. Another number of classes leaves the
            class head out.
        model: arguments of MaSSFormer.

    Raises:
        InputError: it is none of these, or holds another model; names it.
    """
    weights = _read(path, model)
    for key, value in weights.model.items():
        if key != "classes" and value != model[key]:
            raise InputError(
                f"init_from: {path} has model.{key}={value}, the config {model[key]}; "
                "use weights of the same model"
            )
    if "classes" not in weights.model:
        fresh = "all but the encoder is freshly initialised"
    elif weights.model["classes"] != model["classes"]:
        fresh = (
            f"the class head ({CLASS_HEAD}) is freshly initialised, for {model['classes']} classes "
            f"instead of {weights.model['classes']}"
        )
        del weights.params[CLASS_HEAD]
    else:
        fresh = "nothing is freshly initialised"
    return Initial(weights.params, weights.batch_stats, f"starts from {path}; {fresh}")


def start(state: TrainState, initial: Initial) -> TrainState:
    """The state with these parts in place of its own, and in the shardings of its own."""
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


def _read(path: str | os.PathLike, model: Mapping[str, Any]) -> checkpoint.Weights:
    if pathlib.Path(path).is_dir():
        device = jax.local_devices(backend="cpu")[0]
        sharding = jax.sharding.SingleDeviceSharding(device)
        weights = checkpoint.load_weights(path, sharding, encoder=True)
        # The step's program may run on other devices.
        params, batch_stats = jax.device_get((weights.params, weights.batch_stats))
        return weights._replace(params=params, batch_stats=batch_stats)
    source = read_weights(path)
    known = recognise(source.tensors) or is_encoder(source.tensors)
    return weights_of(source, None if known else model)
