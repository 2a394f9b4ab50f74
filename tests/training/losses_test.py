"""Losses of made-up outputs: definitions, slots, dtypes, degenerate images, eight devices.

Their values on the real network are held against the release's in train_parity_test.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from massformer_jax.models.massformer import Outputs
from massformer_jax.ops.edges import pack_masks
from massformer_jax.ops.points import corners
from massformer_jax.parallel import sharding
from massformer_jax.training import losses
from tests.helpers.points_by_definition import by_definition
from tests.helpers.random_outputs import random_outputs

HEADS, BATCH, QUERIES, CLASSES, WIDTH, POINTS = 3, 8, 12, 7, 8, 64


@pytest.fixture(scope="module")
def example():
    """Outputs, labels and points; class 6 is absent everywhere, some pixels are ignored."""
    g = np.random.default_rng(0)
    outputs = random_outputs(g, HEADS, BATCH, QUERIES, CLASSES, WIDTH)
    blocks = g.integers(0, CLASSES, (BATCH, 4, 4)).astype(np.uint8)
    blocks[blocks == 6] = 255
    labels = jnp.asarray(blocks.repeat(8, 1).repeat(8, 2))
    points = losses.draw_points(jax.random.key(0), HEADS, BATCH, CLASSES, points=POINTS)
    return outputs, labels, points


def terms_and_gradient(outputs, labels, points):
    def total(outputs):
        terms = losses.losses(outputs, labels, points)
        return losses.total(terms), terms

    (value, terms), gradient = jax.value_and_grad(total, has_aux=True)(outputs)
    return value, terms, gradient


compute = jax.jit(terms_and_gradient)


def test_names_and_total(example):
    value, terms, _ = compute(*example)
    names = {p + n for p in ("", "d0.", "d1.") for n in ("loss_cls", "loss_mask", "loss_dice")}
    assert set(terms) == names | {"edge_loss"}
    assert all(t.shape == () and t.dtype == jnp.float32 and t > 0 for t in terms.values())
    np.testing.assert_allclose(value, sum(float(t) for t in terms.values()), rtol=1e-6)


def test_terms_are_made_of_their_parts(example):
    outputs, labels, _ = example
    _, terms, _ = compute(*example)
    present, queries, bce, dice = jax.jit(losses.image_terms)(*example)
    assert not present[:, 6].any() and present[:, :6].any()
    masks = float(present.sum())
    for head, prefix in enumerate(("d0.", "d1.", "")):
        found = np.full((BATCH, QUERIES), CLASSES)
        for image, k in np.argwhere(present):
            found[image, queries[head, image, k]] = k
        expected = {
            "loss_cls": 2 * losses.class_loss(outputs.class_logits[head], jnp.asarray(found)),
            "loss_mask": 5 * bce[head].sum() / (masks * POINTS),
            "loss_dice": 5 * dice[head].sum() / masks,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(terms[prefix + name], value, rtol=1e-5, err_msg=name)
    expected = 10 * losses.edge_loss(outputs.edge_logits, labels, "edges")
    np.testing.assert_allclose(terms["edge_loss"], expected, rtol=1e-6)


def test_point_terms_equal_definition():
    g = np.random.default_rng(1)
    maps = g.normal(size=(6, 8, 1)).astype(np.float32)
    mask = (g.random((3, 4)) < 0.5).repeat(4, 0).repeat(4, 1)
    oversampled, random = (g.random((n, 2)).astype(np.float32) for n in (48, 4))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2).astype(float), (5, 5))
    boundary = abs(windows.mean((-2, -1)) - mask)

    shade = by_definition(1 - boundary[..., None], oversampled)[:, 0]
    order = np.argsort(np.abs(by_definition(maps, oversampled)[:, 0]) * shade)
    chosen = np.concatenate([oversampled[order[:12]], random])
    x, t, w = (
        by_definition(image.reshape(*image.shape[:2], 1), chosen)[:, 0]
        for image in (maps, mask, boundary)
    )
    p = 1 / (1 + np.exp(-x))
    bce = -((1 + 5 * w) * (t * np.log(p) + (1 - t) * np.log(1 - p))).sum()
    dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)

    points = losses.Points(
        jnp.zeros((1, 16, 2)), jnp.asarray(oversampled)[None, None], jnp.asarray(random)[None, None]
    )
    packed = corners(pack_masks(jnp.asarray(mask))[None, None])
    ours = jax.jit(losses.point_terms)(jnp.asarray(maps)[None, None, ..., 0], points, packed)
    np.testing.assert_allclose(np.ravel(ours), [bce, dice], rtol=1e-5)


def test_four_corners_of_a_point_are_one_gather():
    """TPUs pay for each row that they gather: one of a map and one of bytes, for each point."""
    b, k, p = 2, 3, 16
    points = losses.Points(
        *(jnp.zeros((b, *shape, 2)) for shape in ((p,), (k, 3 * p), (k, p // 4)))
    )
    maps, packed = jnp.zeros((b, k, 8, 8)), jnp.zeros((b, k, 33, 33), jnp.uint32)

    def loss(maps):
        bce, dice = losses.point_terms(maps, points, packed)
        return (bce + dice).sum()

    text = jax.jit(jax.grad(loss)).lower(maps).as_text()
    # Those of the candidates, of the points that are kept, and the one that keeps them.
    assert text.count('"stablehlo.gather"(') == 2 + 2 + 1
    assert text.count('"stablehlo.scatter"(') == 1


def test_class_loss_weighs_no_object_by_a_tenth():
    logits = np.array([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0], [1.0, 1.0, 0.0]], np.float32)
    labels = np.array([0, 2, 2])
    surprise = np.log(np.exp(logits).sum(-1)) - logits[np.arange(3), labels]
    expected = (surprise * [1, 0.1, 0.1]).sum() / 1.2
    ours = losses.class_loss(jnp.asarray(logits)[None], jnp.asarray(labels)[None])
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_edge_targets():
    logits = jnp.full((1, 4, 4, 1), 3.0)
    labels = jnp.zeros((1, 8, 8), jnp.uint8)
    high, low = np.log1p(np.exp(3.0)), np.log1p(np.exp(-3.0))
    # One class has no edges; the released target sees one everywhere.
    np.testing.assert_allclose(losses.edge_loss(logits, labels, "edges"), high, rtol=1e-6)
    np.testing.assert_allclose(losses.edge_loss(logits, labels, "ones"), low, rtol=1e-6)
    # A change between columns 3 and 4 marks column 3, its right neighbour differs, and column 4,
    # its lower left differs; the dilation adds column 5.
    labels = labels.at[:, :, 4:].set(1)
    expected = (3 * low + 5 * high) / 8
    np.testing.assert_allclose(losses.edge_loss(logits, labels, "edges"), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="not 'edge'"):
        losses.edge_loss(logits, labels, "edge")


def test_slots_of_absent_classes_add_nothing(example):
    outputs, labels, points = example
    _, expected, _ = compute(*example)
    other = points._replace(
        oversampled=points.oversampled.at[:, :, 6].set(0.3),
        random=points.random.at[:, :, 6].set(0.7),
    )
    assert compute(outputs, labels, other)[1] == expected
    other = points._replace(random=points.random.at[:, :, 0].set(0.7))
    assert compute(outputs, labels, other)[1] != expected


def test_only_matched_queries_get_mask_gradients(example):
    _, _, gradient = compute(*example)
    terms = jax.jit(losses.image_terms)(*example)
    for head in range(HEADS):
        for image in range(BATCH):
            matched = terms.queries[head, image][terms.present[image]]
            moved = np.flatnonzero(np.abs(gradient.mask_embeds[head, image]).sum(-1))
            np.testing.assert_array_equal(moved, np.sort(matched))


def test_images_without_any_target(example):
    outputs, labels, points = example
    _, terms, gradient = compute(outputs, jnp.full_like(labels, 255), points)
    assert terms["loss_mask"] == terms["d0.loss_dice"] == 0
    assert terms["loss_cls"] > 0
    assert all(np.isfinite(leaf).all() for leaf in gradient)
    assert not np.any(gradient.mask_embeds)


def test_bfloat16_outputs_give_float32_terms_and_bfloat16_gradients(example):
    outputs, labels, points = example
    narrow = Outputs(*(x.astype(jnp.bfloat16) for x in outputs))
    _, terms, gradient = jax.eval_shape(terms_and_gradient, narrow, labels, points)
    assert {term.dtype for term in terms.values()} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in gradient} == {jnp.dtype(jnp.bfloat16)}


def test_draw_points():
    points = losses.draw_points(jax.random.key(0), HEADS, 2, CLASSES)
    shapes = [(2, 12544, 2), (2, CLASSES, 37632, 2), (2, CLASSES, 3136, 2)]
    assert [leaf.shape for leaf in points] == [(HEADS, *shape) for shape in shapes]
    first = []
    for leaf in points:
        assert leaf.min() >= 0 and leaf.max() < 1
        sets = np.asarray(leaf).reshape(-1, *leaf.shape[-2:])
        np.testing.assert_allclose(sets.mean(1), 0.5, atol=0.03)
        first.extend(sets[:, 0, 0])
    assert len(np.unique(first)) == len(first)  # every use, head, image and mask has its own


@pytest.mark.slow  # compiles for eight devices
def test_eight_devices_equal_one(example):
    outputs, labels, points = example
    mesh = sharding.make_mesh(jax.devices())
    batch = sharding.batch_sharded(mesh)
    heads = NamedSharding(mesh, PartitionSpec(None, sharding.AXES))
    whole = sharding.replicated(mesh)
    specs = Outputs(heads, heads, batch, batch)

    def step(outputs, labels, key):
        points = losses.draw_points(key, HEADS, BATCH, CLASSES, points=POINTS)
        with sharding.training_on(mesh):
            return *terms_and_gradient(outputs, labels, points), points

    compiled = (
        jax.jit(
            step,
            in_shardings=(specs, batch, whole),
            out_shardings=(whole, whole, specs, heads),
        )
        .lower(outputs, labels, jax.random.key(0))
        .compile()
    )
    _, terms, gradient, drawn = compiled(
        *jax.device_put((outputs, labels, jax.random.key(0)), (specs, batch, whole))
    )
    jax.tree.map(np.testing.assert_array_equal, drawn, points)
    _, expected, expected_gradient = compute(*example)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
    for ours, one in zip(gradient, expected_gradient, strict=True):
        np.testing.assert_allclose(ours, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())
    # Nothing but sums crosses devices.
    assert "all-reduce" in compiled.as_text()
    assert "all-gather" not in compiled.as_text()
