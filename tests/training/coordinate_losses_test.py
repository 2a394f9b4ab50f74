"""The losses at coordinates, by their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from massformer_jax.models.coordformer import CoordFormer
from massformer_jax.training.coordinate_losses import coordinate_losses
from tests.helpers.random_network import random_network

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((2, 9, 3)).astype(np.float32) * 2
LABELS = RNG.integers(0, 3, (2, 9)).astype(np.uint8)
LABELS[0, :3] = 255
LABELS[1] = 1  # two of the classes are absent


def by_formula(logits, labels):
    ce, dice, bce = [], [], []
    for z, y in zip(logits.astype(np.float64), labels, strict=True):
        z, y = z[y < 3], y[y < 3]
        shares = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        ce.append(-np.log(shares[np.arange(len(y)), y]).mean())
        p = 1 / (1 + np.exp(-z))
        for k in range(3):
            t = y == k
            bce.append(-np.where(t, np.log(p[:, k]), np.log(1 - p[:, k])).mean())
            dice.append(1 - (2 * p[t, k].sum() + 1) / (p[:, k].sum() + t.sum() + 1))
    return {
        "loss_cls": 2 * np.mean(ce),
        "loss_dice": 5 * np.mean(dice),
        "loss_mask": 5 * np.mean(bce),
    }


def test_terms_by_their_formulas():
    got = coordinate_losses(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    expected = by_formula(LOGITS, LABELS)
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)


def test_ignored_coordinates_have_no_gradient():
    def total(logits):
        return sum(coordinate_losses(logits, jnp.asarray(LABELS)).values())

    gradient = jax.jit(jax.grad(total))(jnp.asarray(LOGITS))
    np.testing.assert_array_equal(gradient[0, :3], 0)
    assert (np.abs(gradient[0, 3:]) > 0).all()


def test_an_image_without_labels_has_no_loss_and_no_gradient():
    def total(logits):
        nothing = jnp.full((1, 9), 255, jnp.uint8)
        return sum(coordinate_losses(logits, nothing).values())

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.asarray(LOGITS[:1]))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_a_perfect_answer_has_almost_no_loss():
    labels = jnp.asarray(np.arange(300, dtype=np.uint8)[None] % 3)
    logits = jnp.where(jax.nn.one_hot(labels, 3) > 0, 20.0, -20.0)
    assert sum(coordinate_losses(logits, labels).values()) < 1e-4


@pytest.mark.slow
def test_a_tiny_network_learns_what_it_can_only_see_in_the_surroundings():
    """The encoder, the decoder and the losses together; the normalisation is that of training."""
    encoder = {"patch": 16, "features": 8, "blocks": 4, "heads": 2, "hidden": 8, "gated": False}
    settings = {"decoder_width": 16, "heads": 2, "head_width": 8, "classes": 2}
    network = random_network(
        lambda: CoordFormer(encoder={**encoder, "grid": None}, **settings, rngs=nnx.Rngs(0))
    )
    graph, params, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    images = jnp.asarray(RNG.standard_normal((2, 32, 32, 3)), jnp.float32)
    patches = jnp.asarray(RNG.standard_normal((2, 64, 8, 8, 3)), jnp.float32)
    places = jnp.asarray(RNG.random((2, 64, 2)), jnp.float32)
    labels = (patches[:, :, 0, 0, 0] > 0).astype(jnp.uint8)
    optimizer = optax.adam(1e-2)

    def loss(params):
        logits = nnx.merge(graph, params, batch_stats, copy=True)(images, patches, places)
        return sum(coordinate_losses(logits, labels).values()), logits

    @jax.jit
    def step(params, state):
        (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, (logits.argmax(-1) == labels).mean()

    state = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(60):
            params, state, right = step(params, state)
    assert right > 0.95
