"""Released weights of the smallest network."""

import numpy as np
import safetensors.numpy

from massformer_jax.convert.names import COUNTER, to_torch_layout, torch_name, weights_by_path
from massformer_jax.models.build import abstract_weights
from tests.helpers import release, tiny_config

TINY = tiny_config.get_config().architecture.to_dict()


def counted(state: dict) -> dict:
    """Returns the state with counters as after a long training, which are not all equal."""
    names = [name for name in state if name.endswith(COUNTER)]
    return state | {name: np.array(80_000 + i, np.int64) for i, name in enumerate(names)}


def tiny_state(**changes) -> dict[str, np.ndarray]:
    """Returns a state dict of the smallest model, as the release has it."""
    like = weights_by_path(abstract_weights(TINY | changes))
    state = {}
    for path, leaf in like.items():
        name = torch_name(path)
        spread = np.broadcast_to(np.empty((), bool), leaf.shape)
        shape = to_torch_layout(path, spread).shape
        state[name] = release.recipe_tensor(1, name, shape)
        if name.endswith("running_var"):
            state[name.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    return counted(state)


def write(path, state):
    safetensors.numpy.save_file(state, path)
    return path
