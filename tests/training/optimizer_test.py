"""Parameter groups, one AdamW step by hand, frozen parameters, and the learning rate."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from massformer_jax.models.massformer import MaSSFormer
from massformer_jax.models.names import torch_name
from massformer_jax.training import optimizer
from tests.helpers import release


def parameters() -> dict:
    def leaf(*shape):
        size = int(np.prod(shape))
        return jnp.linspace(-1.0, 1.0, size).reshape(shape)

    return {
        "backbone": {
            "layer1": {
                0: {"conv1": {"kernel": leaf(3, 2)}, "bn1": {"scale": leaf(2), "bias": leaf(2)}}
            }
        },
        "pixel_decoder": {
            "cbn1": {
                "conv": {"kernel": leaf(2, 2), "bias": leaf(2)},
                "bn": {"scale": leaf(2), "bias": leaf(2)},
            }
        },
        "query_feat": {"embedding": leaf(4, 2)},
        "level_embed": {"embedding": leaf(3, 2)},
    }


ENCODER, FROZEN = optimizer.Group(0.1, True), optimizer.Group(0.0, False)
USUAL, NO_DECAY = optimizer.Group(1.0, True), optimizer.Group(1.0, False)


def test_groups_by_path():
    assert optimizer.parameter_groups(parameters()) == {
        "backbone/layer1/0/bn1/bias": FROZEN,
        "backbone/layer1/0/bn1/scale": FROZEN,
        "backbone/layer1/0/conv1/kernel": ENCODER,
        "level_embed/embedding": NO_DECAY,
        "pixel_decoder/cbn1/bn/bias": NO_DECAY,
        "pixel_decoder/cbn1/bn/scale": NO_DECAY,
        "pixel_decoder/cbn1/conv/bias": USUAL,
        "pixel_decoder/cbn1/conv/kernel": USUAL,
        "query_feat/embedding": NO_DECAY,
    }


@pytest.mark.parametrize("manifest", ["r50", "r18_lite"])
def test_groups_of_the_released_parameters(manifest):
    """Every parameter of the network, without computing anything."""
    model = nnx.eval_shape(lambda: MaSSFormer(**release.model_kwargs(manifest), rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    groups = {torch_name(p): g for p, g in optimizer.parameter_groups(params).items()}
    folder = {"r50": "train_256x256", "r18_lite": "train_lite_256x256"}[manifest]
    recorded = json.loads((release.PARITY / folder / "optimizer_groups.json").read_text())
    ours = {
        key: [3e-4 * group.learning_rate, 0.05 * group.decays]
        for key, group in groups.items()
        if not group.frozen
    }
    assert ours == recorded
    record = json.loads((release.PARITY / folder / "train.json").read_text())
    frozen = {key for key, norm in record["gradient_norms"].items() if norm is None}
    assert {key for key, group in groups.items() if group.frozen} == frozen


def gradients_like(params, scale):
    return jax.tree.map(
        lambda p: scale * jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params
    )


@pytest.mark.parametrize("scale", [1e-4, 1.0])  # below and above the clipping norm
def test_two_steps_by_hand(scale):
    params = parameters()
    gradients = gradients_like(params, scale)
    # With a tiny eps, Adam would hide the size of the gradient and so the clipping.
    tx = optimizer.recipe_optimizer(peak_learning_rate=0.01, total_steps=10, eps=1e-3)
    state, current = tx.init(params), params
    for _ in range(2):
        updates, state = jax.jit(tx.update)(gradients, state, current)
        current = optax.apply_updates(current, updates)

    groups = list(optimizer.parameter_groups(params).values())
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    raw = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradients)]
    trained = [g for g, group in zip(raw, groups, strict=True) if group != FROZEN]
    norm = np.sqrt(sum((g**2).sum() for g in trained))
    np.testing.assert_allclose(optimizer.gradient_norm(state), norm, rtol=1e-6)
    factor = min(1, 0.01 / (norm + 1e-6))
    assert (factor < 1) == (scale == 1.0)
    for p, g, group, ours in zip(leaves, raw, groups, jax.tree.leaves(current), strict=True):
        m, v = 0, 0
        for t in (1, 2):
            rate = 0.01 * 0.5 * (1 + np.cos(np.pi * (t - 1) / 10)) * group.learning_rate
            m, v = 0.9 * m + 0.1 * factor * g, 0.999 * v + 0.001 * (factor * g) ** 2
            p = p - rate * 0.05 * group.decays * p
            p = p - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-3)
        np.testing.assert_allclose(ours, p, rtol=2e-5, atol=2e-6)


def test_frozen_parameters_stay_bit_for_bit_whatever_their_gradient():
    params = parameters()
    gradients = gradients_like(params, 1e-3)
    huge = jax.tree.map(lambda g: g, gradients)
    huge["backbone"]["layer1"][0]["bn1"] = {"scale": jnp.full(2, 1e9), "bias": jnp.full(2, jnp.nan)}
    tx = optimizer.recipe_optimizer()
    update, results = jax.jit(tx.update), []
    for g in (gradients, huge):
        updates, _ = update(g, tx.init(params), params)
        results.append(optax.apply_updates(params, updates))
    jax.tree.map(np.testing.assert_array_equal, *results)
    before, after = (tree["backbone"]["layer1"][0] for tree in (params, results[0]))
    jax.tree.map(np.testing.assert_array_equal, before["bn1"], after["bn1"])
    assert (before["conv1"]["kernel"] != after["conv1"]["kernel"]).all()


def test_learning_rate_equals_the_release():
    table = json.loads((release.PARITY / "misc" / "tables.json").read_text())
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        schedule = optimizer.learning_rate(3e-4, 80_000)
        for step, rate in table["learning_rate_at_step"].items():
            np.testing.assert_allclose(schedule(int(step)), rate, rtol=1e-12, err_msg=step)
        assert schedule(80_000) == 0
