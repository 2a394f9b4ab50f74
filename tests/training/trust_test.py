"""Losses where labels are doubtful, unknown or missing, and of a batch in parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.models.massformer import Outputs
from massformer_jax.training import losses
from massformer_jax.training.losses import Totals
from massformer_jax.training.trust import Trust
from tests.helpers.random_outputs import random_outputs

HEADS, BATCH, QUERIES, CLASSES, WIDTH, POINTS = 2, 4, 10, 4, 8, 64
CAR = 3


@pytest.fixture(scope="module")
def example():
    """Outputs, labels and points: a square of class 3 on a ground of classes 0 and 1."""
    g = np.random.default_rng(0)
    outputs = random_outputs(g, HEADS, BATCH, QUERIES, CLASSES, WIDTH)
    labels = np.zeros((BATCH, 32, 32), np.uint8)
    labels[:, :, 20:] = 1
    for i in range(BATCH):
        labels[i, 8 + i : 24, 4 : 16 - i] = CAR
    points = losses.draw_points(jax.random.key(0), HEADS, BATCH, CLASSES, points=POINTS)
    return outputs, jnp.asarray(labels), points


@functools.partial(jax.jit, static_argnames="trust")
def terms_of(outputs, labels, points, *, trust=None, annotated=None, whole=None):
    return losses.losses(outputs, labels, points, trust=trust, annotated=annotated, whole=whole)


def assert_close(terms, expected):
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)


def test_trusted_labels_give_the_released_losses(example):
    assert_close(terms_of(*example, trust=Trust()), terms_of(*example))


def test_pseudo_labels_count_less_at_their_border_alone(example):
    """The gradient of the mask features: the same far from the square, smaller at its border."""
    outputs, labels, points = example

    @functools.partial(jax.jit, static_argnames="trust")
    def pull(features, trust):
        def loss(features):
            changed = outputs._replace(mask_features=features)
            terms = losses.image_terms(changed, labels, points, trust=trust)
            return terms.bce.sum()

        return jnp.abs(jax.grad(loss)(features)).sum((0, -1))

    border, inner = np.s_[10:13, 1:9], np.s_[6:9, 4:5]
    equal, less = (
        np.asarray(pull(outputs.mask_features, Trust(((CAR, 4),), strength)))
        for strength in (0.0, 20.0)
    )
    assert less[border].sum() < 0.5 * equal[border].sum()
    assert less[inner].sum() > 0.5 * equal[inner].sum()


@pytest.mark.slow
def test_what_is_unknown_has_no_gradient(example):
    outputs, labels, points = example
    labels = labels.at[:, :, 24:].set(255)
    trust = Trust(leave_out_unknown=True)

    @functools.partial(jax.jit, static_argnames="trust")
    def gradient(features, edges, trust=None):
        def loss(features, edges):
            changed = outputs._replace(mask_features=features, edge_logits=edges)
            return losses.total(losses.losses(changed, labels, points, trust=trust))

        return jax.grad(loss, (0, 1))(features, edges)

    features, edges = outputs.mask_features, outputs.edge_logits
    # At half the size; columns beside what is known are read together with it.
    for found in gradient(features, edges, trust=trust):
        assert not np.any(found[:, :, 14:])
        assert np.any(found[:, :, :12])
    for found in gradient(features, edges):
        assert np.any(found[:, :, 14:])


def test_a_class_that_was_not_annotated_is_not_punished():
    """By hand: a query that is sure of class 1, and two classes."""
    logits = jnp.array([[[0.0, 4.0, 1.0]]])
    nothing = jnp.array([[2]])
    p = np.exp([0.0, 4.0, 1.0]) / np.exp([0.0, 4.0, 1.0]).sum()
    for annotated, expected in (([True, True], p[2]), ([True, False], p[1] + p[2])):
        loss = losses.class_loss(logits, nothing, jnp.array([annotated]))
        np.testing.assert_allclose(loss, -np.log(expected), rtol=1e-5)
    # What is there is asked for all the same.
    loss = losses.class_loss(logits, jnp.array([[0]]), jnp.array([[True, False]]))
    np.testing.assert_allclose(loss, -np.log(p[0]), rtol=1e-5)


@pytest.mark.parametrize("trust", [None, Trust(((CAR, 3),), 5.0, True)])
def test_parts_of_a_batch_add_up(example, trust):
    outputs, labels, points = example
    labels = labels.at[1].set(255).at[2, :, 4:20].set(0)  # parts with unequal numbers of masks
    expected = terms_of(outputs, labels, points, trust=trust)
    whole = losses.totals(labels, classes=CLASSES, queries=QUERIES, trust=trust)
    assert isinstance(whole, Totals)
    found = []
    for i in range(2):
        part = slice(2 * i, 2 * i + 2)
        heads = (outputs.class_logits[:, part], outputs.mask_embeds[:, part])
        cut = Outputs(*heads, outputs.mask_features[part], outputs.edge_logits[part])
        drawn = losses.Points(*(x[:, part] for x in points))
        found.append(terms_of(cut, labels[part], drawn, trust=trust, whole=whole))
    assert_close(jax.tree.map(jnp.add, *found), expected)
