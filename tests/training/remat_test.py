"""Recomputation in training: the same step, with less that is kept."""

from collections import Counter

import jax
import numpy as np
import pytest
from jax.extend import core

from massformer_jax.parallel import sharding
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.step import training_step
from tests.helpers import tiny_config
from tests.helpers.compiling import UNOPTIMIZED
from tests.helpers.tiny_weights import tiny_train_state


def setup(remat):
    """The step, a state and a batch of the tiny network."""
    config = tiny_config.get_config()
    model = config.architecture.to_dict()
    # Adam's first step follows the sign of a gradient, also of one that is rounding alone: an
    # epsilon above that makes steps as equal as gradients are.
    tx = recipe_optimizer(**{**config.optimizer, "clip_norm": 1.0}, eps=1e-3, total_steps=10)
    mesh = sharding.make_mesh(jax.devices()[:1])
    loss = config.loss.to_dict()
    step = training_step(model, tx, mesh, seed=0, dtype="float32", remat=remat, **loss)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 256, 256, 3), np.uint8),
        "label": rng.integers(0, 7, (2, 32, 32), np.uint8).repeat(8, 1).repeat(8, 2),
    }
    return step, lambda: tiny_train_state(tx), batch


def primitives(jaxpr) -> Counter:
    """How many equations of each kind a traced program has."""
    found = Counter()
    for equation in jaxpr.eqns:
        found[equation.primitive.name] += 1
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr),
        ):
            if isinstance(value, core.Jaxpr | core.ClosedJaxpr):
                found += primitives(getattr(value, "jaxpr", value))
    return found


@pytest.mark.slow  # traces two training steps
def test_stages_are_computed_again_but_for_deformable_convolutions():
    plain, again = (
        primitives(step.trace(jax.eval_shape(state), batch).jaxpr.jaxpr)
        for step, state, batch in (setup(False), setup(True))
    )
    # Convolutions and the weights of attention: those of the forward pass once more.
    for name in ("conv_general_dilated", "logistic", "rsqrt", "exp", "reduce_max"):
        assert again[name] > plain[name], name
    # What reads at scattered places is kept.
    assert again["gather"] == plain["gather"] > 50


@pytest.mark.slow  # compiles two training steps
def test_the_step_is_the_same():
    (state, scalars), (other, others) = (
        step.lower(state(), batch).compile(compiler_options=UNOPTIMIZED)(state(), batch)
        for step, state, batch in (setup(False), setup(True))
    )
    for name, value in scalars.items():
        np.testing.assert_allclose(others[name], value, rtol=1e-4, err_msg=name)
    leaves = map(jax.tree.leaves_with_path, (other, state))
    for (path, a), (_, b) in zip(*leaves, strict=True):
        name = jax.tree_util.keystr(path)
        # First moments are the gradients, but for a factor. Those of some arrays are a thousandth
        # of others', and each has its own scale; what is rounding alone stays below 1e-11.
        atol = 1e-3 * np.abs(b).max() + 1e-10 if ".mu[" in name else 2e-5
        # Relative, too: the norm of the gradient, 41,000, may differ in its last bit, 0.004.
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=atol, err_msg=name)
