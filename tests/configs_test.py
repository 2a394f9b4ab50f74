"""Tests that every config in configs/ can be traced at full size, without computing anything.

Those of networks that answer at coordinates are in coordinate_configs_test.py.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from massformer_jax.evaluation.evaluate import evaluation_function
from massformer_jax.models.build import is_coordformer
from massformer_jax.parallel import sharding
from massformer_jax.training.average import begun
from massformer_jax.training.config import validate
from massformer_jax.training.loop import step_of
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import init_state
from tests.helpers.configs import CONFIGS, load

MASKS = [path for path in CONFIGS if not is_coordformer(load(path).architecture.to_dict())]
PARAMETERS = {
    "finetune": 37_578_176,
    "massformer_r50": 37_578_176,
    "massformer_r18_lite": 15_080_864,
    "sample": 11_959_760,
}


@pytest.mark.parametrize("path", MASKS, ids=lambda path: path.stem)
def test_training_step(path):
    config = load(path)
    mesh = sharding.make_mesh(jax.devices()[:2])
    validate(config, mesh)
    tx = recipe_optimizer(**config.optimizer, total_steps=config.total_steps)
    init = functools.partial(init_state, architecture=config.architecture.to_dict(), optimizer=tx)
    state = jax.eval_shape(init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(state.params)) == PARAMETERS[path.stem]

    crop = (config.batch_size, config.data.crop_size, config.data.crop_size)
    batch = {
        "image": jax.ShapeDtypeStruct((*crop, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct(crop, jnp.uint8),
    }
    if config.average:
        state = begun(state)
    step = step_of(config, tx, mesh)()
    after, scalars = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert len(scalars) == 3 * (config.architecture.layers + 1) + 4
    assert all(x.shape == () and x.dtype == jnp.float32 for x in scalars.values())


@pytest.mark.parametrize("path", MASKS, ids=lambda path: path.stem)
def test_evaluation_step(path):
    config = load(path)
    mesh = sharding.make_mesh(jax.devices()[:2])
    tx = recipe_optimizer(**config.optimizer, total_steps=config.total_steps)
    init = functools.partial(init_state, architecture=config.architecture.to_dict(), optimizer=tx)
    state = jax.eval_shape(init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 3072, 4096, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((2, 2736, 3648), jnp.uint8)
    step = evaluation_function(config.architecture.to_dict(), mesh)
    predictions, counts = jax.eval_shape(step, state.params, state.batch_stats, images, labels)
    assert (predictions.shape, predictions.dtype) == (labels.shape, jnp.uint8)
    assert counts.confusion.shape == (2, 7, 7)


def test_every_config_has_a_count():
    assert {path.stem for path in MASKS} == PARAMETERS.keys()
