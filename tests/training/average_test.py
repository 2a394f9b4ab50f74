"""The moving average of the weights: what it is, and that checkpoints and evaluations have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.models.weights import load_weights
from massformer_jax.parallel import sharding
from massformer_jax.training.average import begun, evaluated, moved
from massformer_jax.training.checkpoint import Checkpoints
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import TrainState
from tests.helpers import tiny_config
from tests.helpers.tiny_weights import TINY, tiny_weights


@pytest.fixture(scope="module")
def state():
    """A state whose average differs from its weights."""
    params, batch_stats = tiny_weights()
    optimizer = recipe_optimizer(**tiny_config.get_config().optimizer, total_steps=10)
    zero = jnp.zeros((), jnp.int32)
    state = begun(TrainState(zero + 3, params, batch_stats, optimizer.init(params), zero))
    return state._replace(average=jax.tree.map(lambda x: x + 1, state.average))


def test_it_begins_with_the_weights(state):
    weights = begun(state).average
    jax.tree.map(
        np.testing.assert_array_equal,
        weights,
        {"params": state.params, "batch_stats": state.batch_stats},
    )
    none = state._replace(average=None)
    assert evaluated(none) == (none.params, none.batch_stats)


def test_it_moves_quickly_first():
    average = {"params": {"w": jnp.ones(2)}, "batch_stats": {"mean": jnp.zeros(1)}}
    params, statistics = {"w": jnp.zeros(2)}, {"mean": jnp.ones(1)}
    for step, decay in ((0, 0.1), (90, 0.91), (10**6, 0.99)):
        found = moved(average, params, statistics, decay=0.99, step=jnp.int32(step))
        np.testing.assert_allclose(found["params"]["w"], decay, rtol=1e-5)
        np.testing.assert_allclose(found["batch_stats"]["mean"], 1 - decay, rtol=1e-4)
    assert moved(None, params, statistics, decay=0.99, step=jnp.int32(0)) is None


def test_checkpoints_keep_it_and_predict_with_it(state, tmp_path):
    device = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
    placed = jax.tree.map(lambda _: device, state)
    with Checkpoints(tmp_path, TINY, every=1) as checkpoints:
        checkpoints.save(state)
        checkpoints.save_best(state, 0.5)
    with Checkpoints(tmp_path, TINY, every=1) as checkpoints:
        found = checkpoints.restore(state, placed)
        assert checkpoints.best_step() == 3
    jax.tree.map(np.testing.assert_array_equal, found, state)
    for folder in ("checkpoints", "best"):
        weights = load_weights(tmp_path / folder, device)
        jax.tree.map(
            np.testing.assert_array_equal,
            {"params": weights.params, "batch_stats": weights.batch_stats},
            state.average,
        )
