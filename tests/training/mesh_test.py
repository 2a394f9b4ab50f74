"""Training on eight devices: what they tell each other, and that the mesh does not change it."""

import functools

import jax
import numpy as np
import pytest

from massformer_jax.parallel import sharding
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import abstract_state, init_state
from massformer_jax.training.step import training_step
from scripts.pods.collectives import collectives, total_bytes
from tests.helpers import tiny_config
from tests.helpers.compiling import UNOPTIMIZED

pytestmark = pytest.mark.slow  # each mesh takes half a minute to compile

CONFIG = tiny_config.get_config()
MODEL = CONFIG.architecture.to_dict()
# Adam's first steps follow the sign of a gradient, also of one that is rounding alone: an epsilon
# above that makes steps as equal as gradients are.
TX = recipe_optimizer(**{**CONFIG.optimizer, "clip_norm": 1.0}, eps=1e-3, total_steps=10)
# After more, rounding decides which points are the most uncertain: losses jump by 3e-5.
STEPS = 2


@functools.cache
def first_state():
    init = functools.partial(init_state, architecture=MODEL, optimizer=TX)
    return jax.device_get(jax.jit(init)(jax.random.key(0, impl="unsafe_rbg")))


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, (8, 8, 8), np.uint8).repeat(32, 1).repeat(32, 2)
    noise = rng.integers(0, 64, (8, 256, 256, 3), np.uint8)
    return {"image": noise + 24 * labels[..., None], "label": labels}


@functools.cache
def trained(**axes):
    """The program's text, the state after some steps, and the losses."""
    mesh = sharding.make_mesh(jax.devices(), axes)
    shapes = abstract_state(MODEL, TX)
    specs = sharding.parameter_specs(mesh, shapes.params, CONFIG.shardings)
    placed = sharding.state_shardings(mesh, shapes, specs)
    step = training_step(
        MODEL, TX, mesh, seed=0, points=64, edge_target="edges", dtype="float32", shardings=placed
    )
    state = jax.device_put(first_state(), placed)
    crops = jax.device_put(batch(), sharding.batch_sharded(mesh))
    compiled = step.lower(state, crops).compile(compiler_options=UNOPTIMIZED)
    losses = []
    for _ in range(STEPS):
        state, terms = compiled(state, crops)
        losses.append(float(terms["loss"]))
    assert jax.tree.map(lambda x: x.sharding, state) == placed
    return compiled.as_text(), jax.device_get(state), losses


def test_devices_tell_each_other_gradients_statistics_and_scalars():
    """In bytes: one gradient of every parameter, among them the sums that BatchNorm's backward pass
    needs; its mean and variance; little else: scalars, and what is used twice is reduced twice."""
    text, state, _ = trained(data=8)
    totals = total_bytes(collectives(text))
    assert totals.keys() == {"all-reduce"}
    known = sum(x.nbytes for x in jax.tree.leaves((state.params, state.batch_stats)))
    # LSE's map has channels of zeros up to a multiple of 8, whose weights have gradients too: 3x3
    # that predict 27 planes, and 3x3 that are sampled with.
    half = MODEL["decoder_width"] // 2
    zeros = -(half + 3) % 8 * 9 * (27 + half) * 4
    assert known <= totals["all-reduce"] <= known + zeros + 4096


def test_split_parameters_train_as_replicated_ones():
    """The loss of the second step tells that the first moved all parameters alike."""
    axes = {"data": 4, "fsdp": 2}
    text, state, losses = trained(**axes)
    _, _, expected_losses = trained(data=8)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert losses[-1] < losses[0]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, first_state().params)
    assert max(jax.tree.leaves(moved)) > 1e-4
    # Parameters are gathered, and nothing else is.
    totals = total_bytes(collectives(text))
    kernels = sum(x.nbytes for x in jax.tree.leaves(state.params))
    assert totals.pop("all-gather") <= kernels / axes["fsdp"]
    assert totals.keys() <= {"all-reduce", "reduce-scatter"}
