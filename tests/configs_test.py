"""Every config in configs/ is traced at full size, without computing anything."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import pytest

from massformer_jax import sharding
from massformer_jax.evaluate import evaluation_step
from massformer_jax.optim import optimizer
from massformer_jax.step import training_step
from massformer_jax.train_state import init_state
from massformer_jax.workdir import check_config

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))
PARAMETERS = {"massformer_r50": 37_578_176, "massformer_r18_lite": 15_080_864, "sample": 11_959_760}


def load(path: pathlib.Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_training_step(path):
    config = load(path)
    mesh = sharding.make_mesh(jax.devices()[:2])
    check_config(config, mesh)
    tx = optimizer(**config.optimizer, total_steps=config.total_steps)
    init = functools.partial(init_state, model=config.model.to_dict(), optimizer=tx)
    state = jax.eval_shape(init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(state.params)) == PARAMETERS[path.stem]

    crop = (config.batch_size, config.data.crop_size, config.data.crop_size)
    batch = {
        "image": jax.ShapeDtypeStruct((*crop, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct(crop, jnp.uint8),
    }
    step = training_step(
        config.model.to_dict(), tx, mesh, seed=config.seed, dtype=config.dtype, **config.loss
    )
    after, scalars = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert len(scalars) == 3 * (config.model.layers + 1) + 4
    assert all(x.shape == () and x.dtype == jnp.float32 for x in scalars.values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_evaluation_step(path):
    config = load(path)
    mesh = sharding.make_mesh(jax.devices()[:2])
    tx = optimizer(**config.optimizer, total_steps=config.total_steps)
    init = functools.partial(init_state, model=config.model.to_dict(), optimizer=tx)
    state = jax.eval_shape(init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 3072, 4096, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((2, 2736, 3648), jnp.uint8)
    step = evaluation_step(config.model.to_dict(), mesh)
    predictions, counts = jax.eval_shape(step, state.params, state.batch_stats, images, labels)
    assert (predictions.shape, predictions.dtype) == (labels.shape, jnp.uint8)
    assert counts.confusion.shape == (2, 7, 7)


def test_every_config_has_a_count():
    assert {path.stem for path in CONFIGS} == PARAMETERS.keys()
