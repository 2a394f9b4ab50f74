"""A batch in parts: which crops are in which part, and that the gradient is that of the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.errors import InputError
from massformer_jax.models.build import model_graph
from massformer_jax.parallel import sharding
from massformer_jax.parallel.sharding import check_batch_size
from massformer_jax.training.accumulation import accumulated, in_parts
from massformer_jax.training.average import begun
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import abstract_state, init_state
from massformer_jax.training.step import training_step
from massformer_jax.training.trust import Trust
from tests.helpers import tiny_config
from tests.helpers.compiling import UNOPTIMIZED
from tests.helpers.tiny_weights import TINY


@pytest.mark.parametrize("devices", [1, 4])
def test_no_crop_moves_to_another_device(devices):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    crops = jax.device_put(jnp.arange(16), sharding.batch_sharded(mesh))
    parts = jax.jit(functools.partial(in_parts, parts=2, mesh=mesh))(crops)
    # Each device has `16 / devices` neighbours; the first half of them is in the first part.
    expected = np.arange(16).reshape(devices, 2, -1).swapaxes(0, 1).reshape(2, 8)
    np.testing.assert_array_equal(parts, expected)
    for shard in parts.addressable_shards:
        own = {int(x) // (16 // devices) for x in np.asarray(shard.data).ravel()}
        assert len(own) == 1


def test_parts_along_another_axis():
    mesh = sharding.make_mesh(jax.devices()[:1])
    points = in_parts(jnp.arange(24).reshape(3, 8), 4, mesh, axis=1)
    np.testing.assert_array_equal(points, np.arange(24).reshape(3, 4, 2).swapaxes(0, 1))


def test_gradients_and_terms_are_summed_and_statistics_follow_each_other():
    def gradient(statistics, part):
        return {"w": part.sum()}, ({"loss": part.max()}, 0.5 * statistics + part[0])

    parts = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    found, (terms, statistics) = accumulated(gradient, jnp.float32(8), parts)
    assert (found["w"], terms["loss"], statistics) == (10, 6, 0.5 * (0.5 * 8 + 1) + 3)


def test_batches_that_cannot_be_had_in_parts():
    mesh = sharding.make_mesh(jax.devices()[:2])
    check_batch_size(16, mesh, parts=8)
    for size, parts, words in (
        (16, 16, "in 16 parts (accumulate); use 32, or fewer parts"),
        (16, 0, "accumulate is 0"),
    ):
        with pytest.raises(InputError) as refused:
            check_batch_size(size, mesh, parts=parts)
        assert words in str(refused.value)
    one = sharding.make_mesh(jax.devices()[:1])
    check_batch_size(4, one, parts=4, normalised=False)
    check_batch_size(1, one, normalised=False)
    with pytest.raises(InputError, match="frozen_statistics=all"):
        check_batch_size(4, one, parts=4)


@pytest.mark.parametrize("frozen", ["none", "encoder", "all"])
def test_which_statistics_are_frozen(frozen):
    from flax import nnx

    from tests.helpers.tiny_weights import tiny_weights

    graph = model_graph(TINY, training=True, frozen_statistics=frozen)
    network = nnx.merge(graph, *tiny_weights())
    assert network.backbone.bn1.use_running_average == (frozen != "none")
    assert network.pixel_decoder.SEB[0].norm.use_running_average == (frozen == "all")


@pytest.mark.slow
def test_all_settings_go_together():
    """Traced on two devices, nothing is computed: shapes, dtypes, and where the batch is split."""
    mesh = sharding.make_mesh(jax.devices()[:2])
    optimizer = recipe_optimizer(encoder_multiplier=0.0, multipliers=(("^cls_embed", 10.0),))
    step = training_step(
        TINY,
        optimizer,
        mesh,
        seed=0,
        points=64,
        edge_target="edges",
        dtype="float32",
        remat=True,
        frozen_statistics="encoder",
        accumulate=2,
        average=0.99,
        trust=Trust(((5, 6), (6, 2)), leave_out_unknown=True),
    )
    state = begun(abstract_state(TINY, optimizer))
    batch = {
        "image": jax.ShapeDtypeStruct((8, 256, 256, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((8, 256, 256), jnp.uint8),
        "annotated": jax.ShapeDtypeStruct((8, 7), bool),
    }
    after, scalars = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert all(x.shape == () and x.dtype == jnp.float32 for x in scalars.values())


@pytest.mark.slow
@pytest.mark.long  # six minutes; on CPUs convolutions in loops are slow
def test_a_step_in_parts_is_that_of_the_batch():
    """With frozen statistics; otherwise each part has its own."""
    config = tiny_config.get_config()
    optimizer = recipe_optimizer(**{**config.optimizer, "clip_norm": 1.0}, eps=1e-3, total_steps=10)
    init = functools.partial(init_state, architecture=TINY, optimizer=optimizer)
    first = jax.device_get(jax.jit(init)(jax.random.key(0, impl="unsafe_rbg")))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, (4, 8, 8), np.uint8).repeat(32, 1).repeat(32, 2)
    noise = rng.integers(0, 64, (4, 256, 256, 3), np.uint8)
    batch = {"image": noise + 24 * labels[..., None], "label": labels}

    def stepped(devices, **settings):
        mesh = sharding.make_mesh(jax.devices()[:devices])
        step = training_step(
            TINY,
            optimizer,
            mesh,
            seed=0,
            points=64,
            edge_target="edges",
            dtype="float32",
            **settings,
        )
        state = jax.device_put(first, sharding.replicated(mesh))
        crops = jax.device_put(batch, sharding.batch_sharded(mesh))
        state, terms = step.lower(state, crops).compile(compiler_options=UNOPTIMIZED)(state, crops)
        return jax.device_get((state, terms))

    whole, expected = stepped(1, frozen_statistics="all")
    for devices, parts in ((1, 4), (2, 2)):
        state, terms = stepped(devices, frozen_statistics="all", accumulate=parts)
        for name, value in expected.items():
            np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
        jax.tree.map(np.testing.assert_array_equal, state.batch_stats, first.batch_stats)
        for one, other in zip(*map(jax.tree.leaves, (whole.params, state.params)), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)
