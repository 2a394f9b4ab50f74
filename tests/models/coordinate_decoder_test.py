"""The coordinate decoder equals a plain version in NumPy, and has the published size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from massformer_jax.models.build import abstract_vit
from massformer_jax.models.coordinate_decoder import CoordinateDecoder
from massformer_jax.models.vit import ENCODERS
from tests.helpers.random_network import random_network

TINY = {"maps": (6, 10), "features": 16, "heads": 2, "hidden": 5, "classes": 3}


def sized(encoder, hidden):
    width, heads = ENCODERS[encoder]["features"], ENCODERS[encoder]["heads"]
    return nnx.eval_shape(
        lambda: CoordinateDecoder(
            [width] * 4, features=width, heads=heads, hidden=hidden, classes=7, rngs=nnx.Rngs(0)
        )
    )


@pytest.mark.parametrize(
    ("encoder", "hidden", "millions"), [("dinov3_splus16", 256, 29.92), ("dinov3_b16", 512, 90.38)]
)
def test_published_numbers_of_parameters(encoder, hidden, millions):
    parameters = nnx.state(sized(encoder, hidden), nnx.Param)
    leaves = jax.tree.leaves(parameters) + jax.tree.leaves(abstract_vit(ENCODERS[encoder]))
    assert round(sum(leaf.size for leaf in leaves) / 1e6, 2) == millions


def inputs(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    maps = [rng.standard_normal((2, 3, 4, width)).astype(dtype) for width in TINY["maps"]]
    patches = rng.standard_normal((2, 5, 8, 8, 3)).astype(dtype)
    places = rng.random((2, 5, 2)).astype(dtype)
    places[0, 0], places[0, 1] = (0.001, 0.999), (0.5, 0.5)  # at a border; between tokens
    return jax.tree.map(jnp.asarray, (maps, patches, places))


def decoder(dtype=np.float32):
    """Returns a decoder for inference, with random numbers in all of its arrays."""
    network = random_network(lambda: CoordinateDecoder(**TINY, rngs=nnx.Rngs(0)), dtype=dtype)
    return nnx.view(network, use_running_average=True)


def plain(network, maps, patches, places):
    """Returns the logits of one image's coordinates, computed one coordinate after the other."""

    def linear(layer, x):
        return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    def norm(layer, x):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        scale, bias = np.asarray(layer.scale[...]), np.asarray(layer.bias[...])
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    tokens = [linear(layer, x) for layer, x in zip(network.token_proj, maps, strict=True)]
    tokens = norm(network.token_norm, np.concatenate(tokens, -1))
    h, w, c = tokens.shape

    def sample(x, y):
        """Reads the map where token (i, j) has its centre at (j, i); its border is repeated."""
        x, y = np.clip(x, 0, w - 1), np.clip(y, 0, h - 1)
        i, j = int(y), int(x)
        k, m = min(i + 1, h - 1), min(j + 1, w - 1)
        upper = tokens[i, j] * (1 - x % 1) + tokens[i, m] * (x % 1)
        lower = tokens[k, j] * (1 - x % 1) + tokens[k, m] * (x % 1)
        return upper * (1 - y % 1) + lower * (y % 1)

    logits = []
    for patch, (x, y) in zip(patches, places, strict=True):
        angles = [2.0**i * np.pi * value for value in (x, y) for i in range(10)]
        where = np.concatenate([np.sin(angles), np.cos(angles)])
        query = np.concatenate([linear(network.patch_embed, patch.reshape(-1)), where])
        for layer in network.query_proj:
            query = np.maximum(linear(layer, query), 0)
        four = [
            sample(x * w - 0.5 + dx, y * h - 0.5 + dy) for dy in (-0.5, 0.5) for dx in (-0.5, 0.5)
        ]
        q = linear(network.q_proj, norm(network.query_norm, query)).reshape(2, c // 2)
        k = linear(network.k_proj, np.stack(four)).reshape(4, 2, c // 2)
        v = linear(network.v_proj, np.stack(four)).reshape(4, 2, c // 2)
        weights = np.exp(np.einsum("ne,sne->ns", q, k) / np.sqrt(c // 2))
        weights = weights / weights.sum(1, keepdims=True)
        found = np.einsum("ns,sne->ne", weights, v).reshape(c)
        out = norm(network.head_norm, query + linear(network.o_proj, found))
        hidden = linear(network.hidden, out)
        bn = network.bn
        mean, var, scale, bias = (
            np.asarray(part[...]) for part in (bn.mean, bn.var, bn.scale, bn.bias)
        )
        hidden = (hidden - mean) / np.sqrt(var + 1e-5) * scale + bias
        logits.append(linear(network.classify, np.maximum(hidden, 0)))
    return np.stack(logits)


def test_it_equals_a_plain_version():
    network = decoder()
    maps, patches, places = inputs()
    got = jax.jit(lambda *inputs: network(network.memory(inputs[0]), *inputs[1:]))(
        maps, patches, places
    )
    for image in range(2):
        numpy = [np.asarray(x[image]) for x in (*maps, patches, places)]
        expected = plain(network, numpy[:2], *numpy[2:])
        np.testing.assert_allclose(got[image], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences():
    """Of every input and parameter, along a random direction, in float64."""
    # flax itself promotes where it sees float64.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        network = decoder(np.float64)
        graph, state = nnx.split(network)
        maps, patches, places = inputs(dtype=np.float64)
        # Not where a sample passes the centre of a token: there the answer has a kink.
        places = 0.05 + 0.87 * places

        def loss(state, maps, patches, places):
            network = nnx.merge(graph, state)
            return jnp.square(network(network.memory(maps), patches, places)).sum()

        where = (state, maps, patches, places)
        rng = np.random.default_rng(2)
        directions = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), where)
        run = jax.jit(loss)
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*where)

        def moved(i, step):
            there = jax.tree.map(lambda x, d: x + step * d, where[i], directions[i])
            return run(*where[:i], there, *where[i + 1 :])

        # The highest frequency turns fast: along places a step must be shorter.
        for i, step in enumerate((1e-6, 1e-6, 1e-6, 1e-7)):
            ahead, behind = moved(i, step), moved(i, -step)
            along = sum(
                (g * d).sum()
                for g, d in zip(
                    jax.tree.leaves(gradients[i]), jax.tree.leaves(directions[i]), strict=True
                )
            )
            np.testing.assert_allclose((ahead - behind) / (2 * step), along, rtol=1e-5)


def test_training_normalises_by_the_batch():
    network = random_network(lambda: CoordinateDecoder(**TINY, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(network)
    maps, patches, places = inputs()

    @jax.jit
    def mean_after(state):
        network = nnx.merge(graph, state)
        network(network.memory(maps), patches, places)
        return network.bn.mean[...]

    assert (np.abs(mean_after(state) - network.bn.mean[...]) > 1e-3).all()


def test_widths_must_divide():
    with pytest.raises(ValueError, match="15 features do not divide into 2 maps and 5 heads"):
        CoordinateDecoder((6, 6), features=15, heads=5, hidden=4, classes=2, rngs=nnx.Rngs(0))
