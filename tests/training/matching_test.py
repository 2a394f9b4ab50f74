"""The assignment against scipy's, and the costs against whole masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from massformer_jax.ops.points import corners
from massformer_jax.training import matching


def random_problems(seed: int, *, ties: bool, count: int = 40):
    g = np.random.default_rng(seed)
    costs = g.integers(0, 4, (count, 7, 20)) if ties else g.normal(size=(count, 7, 20))
    present = g.random((count, 7)) < 0.6
    present[0], present[1] = True, False
    return costs.astype(np.float32), present


@pytest.mark.parametrize("ties", [False, True])
def test_assign_is_optimal_and_absent_classes_take_nothing(ties):
    costs, present = random_problems(0, ties=ties)
    ours = np.asarray(jax.jit(matching.assign)(jnp.asarray(costs), jnp.asarray(present)))
    for cost, here, query in zip(costs, present, ours, strict=True):
        assert len(set(query)) == 7  # no query twice, also among slots of absent classes
        rows, columns = linear_sum_assignment(cost[here])
        total = cost[here][np.arange(len(rows)), query[here]].sum()
        np.testing.assert_allclose(total, cost[here][rows, columns].sum(), rtol=1e-5, atol=1e-5)
        if not ties:
            np.testing.assert_array_equal(query[here], columns)


@pytest.mark.parametrize("ties", [False, True])
def test_assign_ignores_costs_of_absent_classes(ties):
    costs, present = random_problems(1, ties=ties)
    assign = jax.jit(matching.assign)
    ours = np.asarray(assign(jnp.asarray(costs), jnp.asarray(present)))
    tempting = np.where(present[..., None], costs, -100).astype(np.float32)
    again = np.asarray(assign(jnp.asarray(tempting), jnp.asarray(present)))
    np.testing.assert_array_equal(ours, again)
    # Exactly what four present classes get without any other row, ties included.
    four = present.sum(1) == 4
    assert four.sum() > 3
    alone = assign(
        jnp.asarray(costs[present & four[:, None]].reshape(-1, 4, 20)),
        jnp.ones((four.sum(), 4), bool),
    )
    np.testing.assert_array_equal(ours[present & four[:, None]].reshape(-1, 4), alone)


def test_assign_ends_on_costs_that_are_no_numbers():
    costs = np.random.default_rng(2).normal(size=(2, 7, 20)).astype(np.float32)
    costs[0], costs[1, 2:4] = np.nan, np.inf
    ours = matching.assign(jnp.asarray(costs), jnp.ones((2, 7), bool))
    assert [len(set(row.tolist())) for row in ours] == [7, 7]


def test_assign_refuses_too_few_queries():
    with pytest.raises(ValueError, match="5 queries cannot answer for 7 classes"):
        matching.assign(jnp.zeros((2, 7, 5)), jnp.ones((2, 7), bool))


def test_match_costs_equal_definition():
    """Masks of all queries are built and read where points hit pixel centres."""
    g = np.random.default_rng(3)
    logits, embeds = g.normal(size=(2, 5, 4)), g.normal(size=(2, 5, 6))
    features, labels = g.normal(size=(2, 4, 8, 6)), g.integers(0, 3, (2, 4, 8))
    labels[:, 0, :2] = 255
    row, column = g.integers(0, 4, (2, 30)), g.integers(0, 8, (2, 30))
    points = np.stack([(column + 0.5) / 8, (row + 0.5) / 4], -1)

    expected = np.zeros((2, 3, 5))
    for b in range(2):
        masks = np.einsum("qe,pe->qp", embeds[b], features[b, row[b], column[b]])
        p = 1 / (1 + np.exp(-masks))
        chance = np.exp(logits[b]) / np.exp(logits[b]).sum(-1, keepdims=True)
        for k in range(3):
            t = (labels[b, row[b], column[b]] == k).astype(float)
            bce = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(-1)
            dice = 1 - (2 * (p * t).sum(-1) + 1) / (p.sum(-1) + t.sum() + 1)
            expected[b, k] = -2 * chance[:, k] + 5 * bce + 5 * dice
    ours = matching.match_costs(
        *(jnp.asarray(x, jnp.float32) for x in (logits, embeds, features)),
        corners(jnp.asarray(labels, jnp.uint8)),
        jnp.asarray(points, jnp.float32),
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_matched_labels():
    queries = jnp.asarray([[4, 0, 2], [1, 3, 0]])
    present = jnp.asarray([[True, False, True], [False, True, True]])
    ours = matching.matched_labels(queries, present, 5)
    np.testing.assert_array_equal(ours, [[3, 3, 2, 3, 0], [2, 3, 3, 1, 3]])
