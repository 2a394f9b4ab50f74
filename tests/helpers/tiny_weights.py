"""Weights of the smallest network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

from massformer_jax.models.build import abstract_weights
from massformer_jax.models.names import (
    COUNTER,
    from_torch,
    to_torch_layout,
    torch_name,
    weights_by_path,
)
from massformer_jax.training.state import TrainState
from tests.helpers import release, tiny_config

TINY = tiny_config.get_config().architecture.to_dict()


def counted(state: dict) -> dict:
    """Returns the state with counters as after a long training, which are not all equal."""
    names = [name for name in state if name.endswith(COUNTER)]
    return state | {name: np.array(80_000 + i, np.int64) for i, name in enumerate(names)}


def tiny_state(seed: int = 1, **changes) -> dict[str, np.ndarray]:
    """Returns a state dict of the smallest model, as the release has it."""
    like = weights_by_path(abstract_weights(TINY | changes))
    state = {}
    for path, leaf in like.items():
        name = torch_name(path)
        spread = np.broadcast_to(np.empty((), bool), leaf.shape)
        shape = to_torch_layout(path, spread).shape
        state[name] = release.recipe_tensor(seed, name, shape)
        if name.endswith("running_var"):
            state[name.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    return counted(state)


def tiny_weights(seed: int = 1) -> tuple[dict, dict]:
    """Returns (params, batch_stats) of the smallest network, without compiling anything.

    No parameter is 0, where fresh ones may be: coordinates are offset by many rows.
    """
    return jax.tree.map(jnp.asarray, from_torch(tiny_state(seed), abstract_weights(TINY)))


def tiny_train_state(optimizer: optax.GradientTransformation) -> TrainState:
    """Returns a training state before its first step, whose weights are not those of a file."""
    params, batch_stats = tiny_weights(seed=2)
    # Two arrays: a step donates each of them.
    step, skipped = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    return TrainState(step, params, batch_stats, optimizer.init(params), skipped)


def write(path, state):
    safetensors.numpy.save_file(state, path)
    return path
