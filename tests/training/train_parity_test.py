"""One training step of the released model, recorded in float64: losses, gradients, optimizer.

In float64 because float32 cannot tell a mistake from rounding here: which points are the least
certain flips on the last bit.
"""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from massformer_jax.models.names import to_torch_layout, torch_name, weights_by_path
from massformer_jax.training import losses, optimizer
from tests.helpers import release

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
CLASSES = 7


class Step(NamedTuple):
    """What one step of ours and of the release computed; arrays by released name."""

    z: Any  # the record's arrays
    record: dict  # train.json
    recorded_groups: dict  # optimizer_groups.json: [learning rate, weight decay] if trained
    present: np.ndarray  # [b, k]
    params: dict
    terms: dict
    queries: np.ndarray  # [heads, b, k]
    gradients: dict
    batch_stats: dict
    updated: list[dict]  # parameters after one and after two optimizer steps
    gradient_norms: list[float]  # before clipping, in these steps
    optimizer_groups: dict


def by_release_name(tree) -> dict[str, np.ndarray]:
    """Leaves in torch's names and layout."""
    return {
        torch_name(path): to_torch_layout(path, np.asarray(leaf))
        for path, leaf in weights_by_path(tree).items()
    }


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("train_256x256", "r50", 9), id="r50", marks=pytest.mark.slow),
        pytest.param(("train_lite_256x256", "r18_lite", 3), id="r18_lite", marks=pytest.mark.slow),
    ],
)
def step(request) -> Step:
    name, manifest, seed = request.param
    folder = release.PARITY / name
    z = np.load(folder / "train.npz")
    images = np.stack([release.read_rgb(folder / f"image{i}.png") for i in range(2)])
    labels = np.stack([release.read_labels(folder / f"label{i}.png") for i in range(2)])
    present = (labels[:, None] == np.arange(CLASSES).reshape(1, -1, 1, 1)).any((2, 3))
    points = [release.recorded_points(z, head, present) for head in range(7)]

    with jax.enable_x64(True):
        graphdef, params, batch_stats = release.released_weights(
            manifest, seed, training=True, dtype=np.float64
        )
        images = jnp.asarray((images - np.array(MEAN)) / np.array(STD))

        def loss(params, batch_stats, images, labels, points):
            model = nnx.merge(graphdef, params, batch_stats, copy=True)
            # flax's LayerNorm promotes float64 with float32, which strict promotion refuses.
            with jax.numpy_dtype_promotion("standard"):
                outputs = model(images)
            terms = losses.losses(outputs, labels, points, edge_target="ones")
            queries = losses.image_terms(outputs, labels, points).queries
            _, _, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
            return losses.total(terms), (terms, queries, nnx.to_pure_dict(stats))

        points = jax.tree.map(lambda *heads: jnp.stack(heads), *points)
        (_, (terms, queries, stats)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            params, batch_stats, images, jnp.asarray(labels), points
        )

        # The record has one learning rate for both steps: a cosine too long to fall.
        tx = optimizer.recipe_optimizer(total_steps=10**9)
        state, current = tx.init(params), params
        updated, gradient_norms = [], []
        update = jax.jit(tx.update)
        for _ in range(2):
            updates, state = update(gradients, state, current)
            current = optax.apply_updates(current, updates)
            updated.append(by_release_name(current))
            gradient_norms.append(float(optimizer.gradient_norm(state)))

        return Step(
            z=z,
            record=json.loads((folder / "train.json").read_text()),
            recorded_groups=json.loads((folder / "optimizer_groups.json").read_text()),
            present=present,
            params=by_release_name(params),
            terms={key: float(value) for key, value in terms.items()},
            queries=np.asarray(queries),
            gradients=by_release_name(gradients),
            batch_stats=by_release_name(stats),
            updated=updated,
            gradient_norms=gradient_norms,
            optimizer_groups={
                torch_name(p): g for p, g in optimizer.parameter_groups(params).items()
            },
        )


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference of two probes, relative to the recorded probe's largest value."""
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def test_matched_pairs(step):
    for head in range(7):
        for image, assigned in enumerate(step.z[f"assigned_gt.{head}"]):
            # Query of the k-th present class, k = 1, 2, ...
            theirs = [np.flatnonzero(assigned == k).item() for k in range(1, assigned.max() + 1)]
            ours = step.queries[head, image][step.present[image]]
            np.testing.assert_array_equal(ours, theirs)


def test_loss_terms(step):
    recorded = [key for key in step.z if key.startswith("loss/decode.")]
    assert {key.removeprefix("loss/decode.") for key in recorded} == set(step.terms)
    for key in recorded:
        ours = step.terms[key.removeprefix("loss/decode.")]
        np.testing.assert_allclose(ours, step.z[key], rtol=1e-11, err_msg=key)
    np.testing.assert_allclose(sum(step.terms.values()), step.z["loss/total"], rtol=1e-11)


def test_gradient_norms(step):
    recorded = step.record["gradient_norms"]
    assert set(recorded) == set(step.gradients)
    for key, norm in recorded.items():
        if norm is None:  # frozen: our optimizer, not our loss, leaves it out
            assert step.optimizer_groups[key].frozen, key
        elif norm < 1e-9:
            assert np.linalg.norm(step.gradients[key]) < 1e-9, key
        else:
            np.testing.assert_allclose(
                np.linalg.norm(step.gradients[key]), norm, rtol=1e-8, err_msg=key
            )


def test_gradient_probes(step):
    compared = 0
    for key, norm in step.record["gradient_norms"].items():
        if norm is not None and norm >= 1e-9:
            ours = release.probe(step.gradients[key], 8)
            assert relative_error(ours, step.z[f"grad/{key}"]) < 1e-7, key
            compared += 1
    assert compared > 150


def test_running_statistics(step):
    recorded = step.record["running_stats_after"]
    assert set(recorded) == set(step.batch_stats)
    for key, (mean, std) in recorded.items():
        ours = step.batch_stats[key]
        np.testing.assert_allclose([ours.mean(), ours.std(ddof=1)], [mean, std], rtol=1e-11)


def test_optimizer_groups(step):
    trained = {key for key, group in step.optimizer_groups.items() if not group.frozen}
    assert trained == set(step.recorded_groups)
    for key, recorded in step.recorded_groups.items():
        group = step.optimizer_groups[key]
        assert [3e-4 * group.learning_rate, 0.05 * group.decays] == recorded, key


def test_parameters_after_optimizer_steps(step):
    for count, (updated, norm) in enumerate(
        zip(step.updated, step.gradient_norms, strict=True), start=1
    ):
        np.testing.assert_allclose(norm, step.z[f"grad_norm_total.{count}"], rtol=1e-9)
        for key, leaf in updated.items():
            if step.optimizer_groups[key].frozen:
                np.testing.assert_array_equal(leaf, step.params[key])
            else:
                recorded = step.z[f"param_after_{count}/{key}"]
                assert relative_error(release.probe(leaf, 4), recorded) < 1e-10, key
