"""Tests of splitting the rows of one image over several devices, with the same answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from massformer_jax.inference.network import _answer_by_parts, network_scores
from massformer_jax.inference.row_plan import RowPlan
from massformer_jax.models import attention
from massformer_jax.models.build import model_graph
from massformer_jax.models.layers import DeformLayer
from massformer_jax.models.massformer import Proposals
from massformer_jax.ops.deform_conv import SampledMap
from massformer_jax.ops.resize import bilinear_taps
from massformer_jax.parallel import sharding, spatial
from tests.helpers.tiny_weights import TINY, tiny_weights


def mesh_of(**axes):
    return sharding.make_mesh(jax.devices()[: int(np.prod(list(axes.values())))], axes)


def over(mesh, function):
    """Returns the function with rows split over the mesh."""

    def traced(*inputs):
        with spatial.over(mesh):
            return function(*inputs)

    return jax.jit(traced, in_shardings=sharding.photographs_sharded(mesh))


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_nothing_is_split_without_a_mesh():
    x = noise(1, 8, 2)
    assert spatial.parts() == 1 and spatial.by_rows(x) is x and spatial.with_all_rows(x) is x
    with spatial.over(mesh_of(data=8)):
        assert spatial.parts() == 1
    with spatial.over(mesh_of(spatial=4)):
        assert spatial.parts() == 4


def test_reductions_over_the_devices_of_one_photograph():
    """Without a split they do nothing. With two photographs, each has its own result."""
    x = noise(2, 4, 3)

    def reduced(x):
        total, twice = spatial.sum_over_parts(x, 2 * x)
        largest, every = spatial.max_over_parts(x), spatial.all_over_parts(x < 1)
        return total, twice, largest, every

    def by_parts(x):
        return spatial.each_part(
            reduced, x, in_specs=(spatial.ROWS,), out_specs=(spatial.ALL_ROWS,) * 4
        )

    for found, expected in zip(reduced(x), (x, 2 * x, x, x < 1), strict=True):
        np.testing.assert_array_equal(found, expected)
    found = over(mesh_of(data=2, spatial=4), by_parts)(x)
    total = x.sum(1, keepdims=True)
    expected = (total, 2 * total, x.max(1, keepdims=True))
    for got, wanted in zip(found[:3], expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
    every = (x < 1).all(1, keepdims=True)
    assert every.any() and not every.all()
    np.testing.assert_array_equal(found[3], every)


def test_halos_are_the_neighbours_rows():
    rows = jnp.arange(16.0).reshape(1, 16, 1)
    specs = {"in_specs": (spatial.ROWS,), "out_specs": spatial.ROWS}

    def halos(x):
        return spatial.each_part(lambda own: spatial.with_halo(own, 2), x, **specs)

    found = np.asarray(over(mesh_of(spatial=4), halos)(rows)).reshape(4, 8).tolist()
    assert found == [
        [0, 0, 0, 1, 2, 3, 4, 5],
        [2, 3, 4, 5, 6, 7, 8, 9],
        [6, 7, 8, 9, 10, 11, 12, 13],
        [10, 11, 12, 13, 14, 15, 15, 15],
    ]


@pytest.mark.parametrize("axes", [{"spatial": 8}, {"data": 2, "spatial": 4}], ids=str)
def test_a_deformable_layer_samples_from_rows_of_other_devices(axes):
    layer = DeformLayer(4, 6, 3, rngs=nnx.Rngs(0))
    layer.dcn_offset.kernel[...] = noise(*layer.dcn_offset.kernel.shape)
    layer.dcn_offset.bias[...] = 20 * noise(*layer.dcn_offset.bias.shape)
    layer.dcn_bn.use_running_average = True
    graph, state = nnx.split(layer)
    x = noise(2, 32, 12, 4, seed=1)

    def run(x):
        return nnx.merge(graph, state)(SampledMap((spatial.by_rows(x),)))

    expected = jax.jit(run)(x)
    assert np.ptp(expected) > 1
    mesh = mesh_of(**axes)
    text = over(mesh, run).lower(x).compile().as_text()
    np.testing.assert_allclose(over(mesh, run)(x), expected, rtol=0, atol=1e-5)
    # Each device computes its rows, of all the images it has.
    rows, images = 32 // axes["spatial"], 2 // axes.get("data", 1)
    assert f"f32[{images},{rows},12,6]" in text and f"f32[{images},32,12,6]" not in text


def test_attention_over_keys_of_other_devices(monkeypatch):
    """Some devices hold only keys that a query must not see."""
    monkeypatch.setattr(attention, "KEYS", 8)
    layer = attention.MaskedAttention(
        16, 2, kernel_init=jax.nn.initializers.xavier_normal(), rngs=nnx.Rngs(0)
    )
    graph, state = nnx.split(layer)
    queries, keys, values = noise(2, 5, 16), 3 * noise(2, 64, 16), noise(2, 64, 16)
    blocked = np.random.default_rng(0).random((2, 5, 64)) < 0.5
    blocked[0, 1, :48] = True
    blocked[1, 2, 16:] = True

    def run(queries, keys, values, blocked):
        attend = nnx.merge(graph, state)
        return attend(queries, keys, values, residual=queries, blocked=blocked)

    def by_parts(*inputs):
        tokens = PartitionSpec(spatial.PHOTOGRAPHS, None, spatial.SPATIAL)
        return spatial.each_part(
            run,
            *inputs,
            in_specs=(spatial.ALL_ROWS, spatial.ROWS, spatial.ROWS, tokens),
            out_specs=spatial.ALL_ROWS,
        )

    inputs = (queries, keys, values, jnp.asarray(blocked))
    found = over(mesh_of(data=2, spatial=4), by_parts)(*inputs)
    np.testing.assert_allclose(found, run(*inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize(
    ("shown", "size"), [(256, 256), (257, 257), (257, 900), (300, 7), (511, 333), (1000, 1001)]
)
def test_every_row_of_a_photograph_is_answered_from_its_rows_of_the_network(parts, shown, size):
    """Row r of the fused map holds r, so an answer tells which rows it was read from."""
    low, high, _ = bilinear_taps(shown, size)
    height = -(-shown // 256) * 128
    plan = RowPlan(answered=size, shown=shown, padded=2 * height, fused_strip=16, parts=parts)

    def answer(proposals, part):
        rows, first = plan.rows(part), plan.begin(part) // 2
        rows = rows.start + jnp.arange(rows.count)
        near = jnp.stack([jnp.asarray(x)[rows] - first for x in (low // 2 - 1, high // 2 + 1)], -1)
        return jnp.take(proposals.fused[0, :, 0, 0], near, mode="fill", fill_value=-9)[None]

    def run(fused):
        embeds = jnp.zeros((1, 1, 1))
        return _answer_by_parts(answer, plan, Proposals(embeds, embeds, fused))

    fused = jnp.arange(height, dtype=jnp.float32).reshape(1, height, 1, 1)
    found = over(mesh_of(spatial=parts), run)(fused)
    assert found.shape == (1, size, 2)
    # Doubling also reads the row above and the row below, the same one again at the ends.
    np.testing.assert_array_equal(found[0, :, 0], np.maximum(low // 2 - 1, 0))
    np.testing.assert_array_equal(found[0, :, 1], np.minimum(high // 2 + 1, height - 1))


@pytest.mark.slow
def test_scores_and_labels_of_whole_photographs():
    """Two photographs are cut or enlarged; random weights make offsets reach over many rows."""
    params, stats = tiny_weights()
    coarse = np.random.default_rng(1).integers(0, 255, (2, 19, 16, 3))
    images = np.kron(coarse, np.ones((1, 16, 16, 1)))[:, :300, :250].astype(np.uint8)
    size = (333, 222)

    graph = model_graph(TINY, training=False)
    mesh = mesh_of(data=2, spatial=4)
    placed = sharding.photographs_sharded(mesh)
    scores = network_scores(graph, strip_rows=24, mesh=mesh)
    one = network_scores(graph, strip_rows=24)
    for wanted in (images.shape[1:3], size):
        found, expected = (run(params, stats, images, wanted) for run in (scores, one))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert found.shape == (2, *wanted, 7) and found.sharding.is_equivalent_to(placed, 4)
    # Random weights answer one class everywhere; without its mean over the image, many.
    mean = np.asarray(expected).mean((1, 2), keepdims=True)
    found, expected = np.asarray(found) - mean, np.asarray(expected) - mean
    assert len(np.unique(expected.argmax(-1))) > 2
    second, first = np.moveaxis(np.sort(expected, -1)[..., -2:], -1, 0)
    clear = first - second > 2e-5
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(found.argmax(-1)[clear], expected.argmax(-1)[clear])
