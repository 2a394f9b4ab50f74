"""Recomputation in training: the same step with less memory."""

import jax
import numpy as np
import pytest
import tiny_config

from massformer_jax import sharding
from massformer_jax.optim import optimizer
from massformer_jax.step import training_step
from massformer_jax.train_state import init_state


@pytest.mark.slow  # compiles two training steps
def test_recomputation_changes_memory_and_nothing_else():
    config = tiny_config.get_config()
    model, tx = config.model.to_dict(), optimizer(**config.optimizer, total_steps=10)
    mesh = sharding.make_mesh(jax.devices()[:1])
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 256, 256, 3), np.uint8),
        "label": rng.integers(0, 7, (2, 32, 32), np.uint8).repeat(8, 1).repeat(8, 2),
    }

    def stepped(remat):
        state = init_state(jax.random.key(0), model, tx)
        step = training_step(
            model, tx, mesh, seed=0, dtype="float32", remat=remat, **config.loss.to_dict()
        )
        compiled = step.lower(state, batch).compile()
        return *compiled(state, batch), compiled.memory_analysis().temp_size_in_bytes

    state, scalars, memory = stepped(False)
    remat_state, remat_scalars, remat_memory = stepped(True)
    assert remat_memory < 0.8 * memory
    for name, value in scalars.items():
        np.testing.assert_allclose(remat_scalars[name], value, rtol=1e-4, err_msg=name)
    for a, b in zip(*map(jax.tree.leaves, (remat_state, state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)
