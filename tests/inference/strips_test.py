"""Tests of inference in strips of rows: equal answers for all heights, and less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from massformer_jax.inference import network
from massformer_jax.inference.network import network_labels, network_scores
from massformer_jax.models import attention
from massformer_jax.models.build import abstract_weights, model_graph
from massformer_jax.models.massformer import normalize
from massformer_jax.ops.rows import Rows, around, in_strips
from tests.helpers import release
from tests.helpers.tiny_weights import TINY as MODEL
from tests.helpers.tiny_weights import tiny_weights


@pytest.fixture(scope="module")
def weights():
    return tiny_weights()


@functools.cache
def photograph(height, width):
    coarse = np.random.default_rng(1).integers(0, 255, (height // 16 + 1, width // 16 + 1, 3))
    return np.kron(coarse, np.ones((16, 16, 1)))[None, :height, :width].astype(np.uint8)


@pytest.fixture(scope="module")
def whole(weights):
    """Returns scores from the training path and from whole maps of all queries."""

    @jax.jit
    def run(params, stats, images):
        model = nnx.merge(model_graph(MODEL, training=False), params, stats, copy=True)
        return release.class_scores(model(normalize(images)))

    return run(*weights, photograph(512, 256))


@pytest.mark.parametrize("rows", [pytest.param(37, marks=pytest.mark.slow), 256])
def test_scores_equal_those_of_whole_maps(weights, whole, rows, monkeypatch):
    monkeypatch.setattr(attention, "KEYS", 512)
    graph = model_graph(MODEL, training=False)
    run = jax.jit(network_scores(graph, strip_rows=rows), static_argnums=3)
    scores = run(*weights, photograph(512, 256), (512, 256))
    assert np.ptp(np.asarray(whole)) > 0.1
    np.testing.assert_allclose(scores, whole, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(300, 250), (333, 222), (711, 301)])
def test_labels_at_any_size_are_those_of_the_scores(weights, size):
    """They are cropped, shrunk and enlarged; strips of 20 rows give the same as one strip."""
    graph = model_graph(MODEL, training=False)
    images = photograph(300, 250)
    one = jax.jit(network_scores(graph, strip_rows=1000), static_argnums=3)
    many = jax.jit(network_labels(graph, strip_rows=20), static_argnums=3)
    scores = one(*weights, images, size)
    labels = many(*weights, images, size)
    assert labels.shape == (1, *size)
    np.testing.assert_array_equal(labels, np.asarray(scores).argmax(-1))


def test_photographs_of_one_padded_size_share_programs(monkeypatch):
    """They are shown as they are, or resized; then only the network is shared, not the resizing."""
    traced = []
    monkeypatch.setattr(network, "announce", lambda program: traced.append(program))
    labels = network_labels(model_graph(MODEL, training=False))

    def answer(shown, size):
        image = jax.ShapeDtypeStruct((1, *shown, 3), jnp.uint8)
        find = functools.partial(labels, size=size)
        assert jax.eval_shape(find, *abstract_weights(MODEL), image).shape == (1, *size)

    for size in ((512, 500), (300, 400), (257, 512), (512, 512)):
        answer(size, size)
    assert traced == ["the network for up to 512x512 pixels"]
    for shown, size in (((512, 500), (600, 700)), ((400, 300), (150, 200))):
        answer(shown, size)
    assert traced == ["the network for up to 512x512 pixels"] * 2
    answer((500, 600), (500, 600))
    assert traced[2:] == ["the network for up to 768x512 pixels"]


def test_a_window_stays_inside_the_map():
    for start in range(0, 61):
        window = around(Rows(start, 3), 4, 64)
        begin = int(window.start)
        assert begin % 2 == 0 and window.count % 2 == 0
        assert begin >= 0 and begin + window.count <= 64
        assert begin == 0 or begin <= start - 4
        assert begin + window.count == 64 or begin + window.count >= start + 3 + 4


def test_strips_cover_every_row_once_written():
    x = jnp.arange(21.0).reshape(1, 7, 3, 1)
    read = lambda rows: jax.lax.dynamic_slice_in_dim(x, rows.start, rows.count, 1)  # noqa: E731
    for count in (1, 2, 3, 7, 9):
        np.testing.assert_array_equal(in_strips(read, Rows(0, 7), count, after=x), x)


def temporaries(variant, size, dtype="float32"):
    """Returns the temporaries in bytes of a released model's label function for one image."""
    model = release.model_kwargs(variant)
    function = network_labels(model_graph(model, training=False), dtype=dtype)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    lowered = jax.jit(function, static_argnums=3).lower(*abstract_weights(model), image, size)
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_twelve_megapixels_take_five_gigabytes():
    assert temporaries("r50", (4096, 3072)) < 5e9


@pytest.mark.slow
def test_sixty_four_megapixels_fit_into_twenty_four_gigabytes():
    assert temporaries("r50", (8192, 8192)) < 24e9
