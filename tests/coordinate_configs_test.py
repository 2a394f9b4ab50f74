"""Tests that the configs of networks that answer at coordinates can be traced at full size."""

import functools

import jax
import jax.numpy as jnp
import pytest

from massformer_jax.models.build import is_coordformer
from massformer_jax.models.flops import network_size
from massformer_jax.parallel import sharding
from massformer_jax.training.config import validate
from massformer_jax.training.loop import step_of
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import init_state
from tests.helpers.configs import CONFIGS, load

FOUND = {
    path.stem: config
    for path in CONFIGS
    if is_coordformer((config := load(path)).architecture.to_dict())
}
# Parameters, and the side of what the encoder sees.
EXPECTED = {
    "coordinates_dinov2_s": (23_285_255, 2044),
    "coordinates_on_massformer": (28_095_865, 2048),
    "coordinates_dinov3_splus": (29_920_007, 2048),
}


@pytest.mark.parametrize("name", FOUND)
def test_training_step(name):
    config, (parameters, side) = FOUND[name], EXPECTED[name]
    mesh = sharding.make_mesh(jax.devices()[:2])
    validate(config, mesh)
    tx = recipe_optimizer(**config.optimizer, total_steps=config.total_steps)
    architecture = config.architecture.to_dict()
    init = functools.partial(init_state, architecture=architecture, optimizer=tx)
    state = jax.eval_shape(init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(state.params)) == parameters

    b, asked = config.batch_size, config.loss.coordinates
    shapes = {
        "image": ((b, side, side, 3), jnp.uint8),
        "patches": ((b, asked, 8, 8, 3), jnp.uint8),
        "places": ((b, asked, 2), jnp.float32),
        "label": ((b, asked), jnp.uint8),
    }
    batch = {name: jax.ShapeDtypeStruct(*each) for name, each in shapes.items()}
    step = step_of(config, tx, mesh)()
    with jax.numpy_dtype_promotion("standard"):  # norms are float32, the rest bfloat16
        after, scalars = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert len(scalars) == 3 + 3
    assert all(x.shape == () and x.dtype == jnp.float32 for x in scalars.values())


def test_the_schedule_is_that_of_the_paper():
    """In steps of 16 of the 11,348 photographs."""
    config = FOUND["coordinates_dinov3_splus"]
    assert (config.optimizer.warmup_steps, config.total_steps) == (7092, 120_572)


def test_the_cost_of_a_photograph():
    """The sums of docs/coordinates.md: the encoder, what all tokens share, and every pixel.

    Those do not have the mixtures of samples, 3,000 of 790,000 for a pixel.
    """
    parameters, macs = network_size(FOUND["coordinates_dinov3_splus"].architecture.to_dict())
    assert parameters == EXPECTED["coordinates_dinov3_splus"][0]
    assert macs / 1e9 == pytest.approx(2944 + 7 + 9890, rel=0.004)


def test_every_config_is_expected():
    assert FOUND.keys() == EXPECTED.keys()
