"""One image over several devices: the rows are split, the answer is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_config
from massformer_jax import sharding
from massformer_jax.inference import score_function
from massformer_jax.train_state import init_weights, model_graph

MODEL = tiny_config.get_config().model.to_dict()


@pytest.fixture(scope="module")
def weights():
    """Random ones, also where training starts from zero: offsets reach over many rows."""
    params, stats = init_weights(jax.random.key(0), MODEL)
    rng = np.random.default_rng(0)

    def noisy(leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        return leaf + 0.2 * jnp.asarray(noise)

    return jax.tree.map(noisy, params), stats


def photographs(count, height, width):
    coarse = np.random.default_rng(1).integers(
        0, 255, (count, height // 16 + 1, width // 16 + 1, 3)
    )
    return np.kron(coarse, np.ones((1, 16, 16, 1)))[:, :height, :width].astype(np.uint8)


def jitted(function, axes, **options):
    """The function on a mesh, and the function on one device."""
    graph = model_graph(MODEL, training=False)
    mesh = sharding.make_mesh(jax.devices()[: int(np.prod(list(axes.values())))], axes)
    whole, split = sharding.replicated(mesh), sharding.photographs_sharded(mesh)
    over = jax.jit(
        function(graph, mesh=mesh, **options),
        static_argnums=3,
        in_shardings=(whole, whole, split),
        out_shardings=split,
    )
    return over, jax.jit(function(graph, **options), static_argnums=3)


def test_scores(weights):
    over, one = jitted(score_function, {"spatial": 4}, strip_rows=24)
    images = photographs(1, 300, 250)
    size = (333, 222)
    a, b = over(*weights, images, size), one(*weights, images, size)
    assert np.ptp(b) > 0.1
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
