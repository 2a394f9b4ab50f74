"""One image over several devices: the rows are split, the answer is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

import tiny_config
from massformer_jax import sharding
from massformer_jax.inference import _answer_by_parts, score_function
from massformer_jax.models import attention
from massformer_jax.models.layers import DeformLayer
from massformer_jax.models.massformer import Masks
from massformer_jax.ops import split
from massformer_jax.ops.resize import bilinear_taps
from massformer_jax.train_state import init_weights, model_graph

MODEL = tiny_config.get_config().model.to_dict()


def mesh_of(**axes):
    return sharding.make_mesh(jax.devices()[: int(np.prod(list(axes.values())))], axes)


def over(mesh, function):
    """The function, with rows split over the mesh."""

    def traced(*inputs):
        with split.over(mesh):
            return function(*inputs)

    return jax.jit(traced, in_shardings=sharding.photographs_sharded(mesh))


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_nothing_is_split_without_a_mesh():
    x = noise(1, 8, 2)
    assert split.parts() == 1 and split.by_rows(x) is x and split.whole(x) is x
    with split.over(mesh_of(data=8)):
        assert split.parts() == 1
    with split.over(mesh_of(spatial=4)):
        assert split.parts() == 4


def test_halos_are_the_neighbours_rows():
    rows = jnp.arange(16.0).reshape(1, 16, 1)
    specs = {"in_specs": (split.ROWS,), "out_specs": split.ROWS}

    def halos(x):
        return split.each_part(lambda own: split.with_halo(own, 2), x, **specs)

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
        return nnx.merge(graph, state)(split.by_rows(x))

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
    layer = attention.Attention(
        16, 2, kernel_init=jax.nn.initializers.xavier_normal(), rngs=nnx.Rngs(0)
    )
    graph, state = nnx.split(layer)
    queries, keys, values = noise(2, 5, 16), 3 * noise(2, 64, 16), noise(2, 64, 16)
    closed = np.random.default_rng(0).random((2, 5, 64)) < 0.5
    closed[0, 1, :48] = True
    closed[1, 2, 16:] = True

    def run(axis, queries, keys, values, closed):
        attend = nnx.merge(graph, state)
        return attend(queries, keys, values, residual=queries, closed=closed, axis=axis)

    def by_parts(*inputs):
        tokens = PartitionSpec(split.PHOTOGRAPHS, None, split.SPATIAL)
        return split.each_part(
            lambda *own: run(split.SPATIAL, *own),
            *inputs,
            in_specs=(split.WHOLE, split.ROWS, split.ROWS, tokens),
            out_specs=split.WHOLE,
        )

    inputs = (queries, keys, values, jnp.asarray(closed))
    found = over(mesh_of(data=2, spatial=4), by_parts)(*inputs)
    np.testing.assert_allclose(found, run(None, *inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize(
    ("shown", "size"), [(256, 256), (257, 257), (257, 900), (300, 7), (511, 333), (1000, 1001)]
)
def test_every_row_of_a_photograph_is_answered_from_its_rows_of_the_network(parts, shown, size):
    """Row r of the fused map holds r, so an answer tells which rows it was read from."""
    low, high, _ = bilinear_taps(shown, size)
    height = -(-shown // 256) * 128

    def answer(masks, part, starts, count, first):
        rows = jnp.asarray(starts)[part] + jnp.arange(count)
        near = jnp.stack([jnp.asarray(x)[rows] - first for x in (low // 2 - 1, high // 2 + 1)], -1)
        return jnp.take(masks.fused[0, :, 0, 0], near, mode="fill", fill_value=-9)[None]

    def run(fused):
        embeds = jnp.zeros((1, 1, 1))
        return _answer_by_parts(answer, Masks(embeds, embeds, fused), low)

    fused = jnp.arange(height, dtype=jnp.float32).reshape(1, height, 1, 1)
    found = over(mesh_of(spatial=parts), run)(fused)
    assert found.shape == (1, size, 2)
    # Doubling also reads the row above and the row below, the same one again at the ends.
    np.testing.assert_array_equal(found[0, :, 0], np.maximum(low // 2 - 1, 0))
    np.testing.assert_array_equal(found[0, :, 1], np.minimum(high // 2 + 1, height - 1))


@pytest.mark.slow
def test_scores_and_labels_of_whole_photographs():
    """Two at once; cut, and also enlarged; random weights, so that offsets reach over many rows."""
    params, stats = init_weights(jax.random.key(0), MODEL)
    leaves, structure = jax.tree.flatten(params)
    noisy = [x + 0.2 * noise(*x.shape, seed=i) for i, x in enumerate(leaves)]
    params = jax.tree.unflatten(structure, noisy)
    coarse = np.random.default_rng(1).integers(0, 255, (2, 19, 16, 3))
    images = np.kron(coarse, np.ones((1, 16, 16, 1)))[:, :300, :250].astype(np.uint8)
    size = (333, 222)

    graph = model_graph(MODEL, training=False)
    mesh = mesh_of(data=2, spatial=4)
    placed = sharding.photographs_sharded(mesh)
    scores = score_function(graph, strip_rows=24, mesh=mesh)
    one = score_function(graph, strip_rows=24)
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
