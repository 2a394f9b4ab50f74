"""Tests of windows and views against the released answers and against the definition."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from massformer_jax.classes import CLASSES
from massformer_jax.data.resampling import resize_image
from massformer_jax.errors import InputError
from massformer_jax.inference import network, protocol, segmenter, views
from massformer_jax.inference.protocol import Protocol
from massformer_jax.models.build import model_graph
from massformer_jax.models.weights import Weights
from massformer_jax.ops.resize import resize_bilinear
from massformer_jax.parallel import sharding
from tests.helpers import release, stand_in
from tests.helpers.tiny_weights import TINY, tiny_weights

PARITY = release.PARITY / "protocols_lite"


@pytest.fixture
def no_network(monkeypatch):
    stand_in.replace_network(monkeypatch)


def plain(image, size=None):
    """Returns the scores of the stand-in alone, from [h, w, 3] to [*size, k]."""
    return np.asarray(
        stand_in.network_scores(None)(None, None, image[None], size or image.shape[:2])[0]
    )


def answers(image, **settings):
    """Returns scores [h, w, k] and labels [h, w] by the protocol with these settings."""
    protocol = Protocol(**settings)
    shown = jax.device_put(views.show(protocol, [image]))
    return tuple(
        np.asarray(function(stand_in.GRAPH, protocol)(None, None, shown, image.shape[:2])[0])
        for function in (views.score_function, views.label_function)
    )


def assert_highest(labels, scores):
    """Asserts that the labels have the highest scores, except for ties."""
    chosen = np.take_along_axis(scores, labels[..., None], -1)[..., 0]
    assert_close(chosen, scores.max(-1))


def noise(*size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def assert_close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


# What the release computes.


@pytest.fixture(scope="module")
def released():
    _, params, stats = release.released_weights("r18_lite", 3, training=False)
    weights = Weights(0, release.model_kwargs("r18_lite"), CLASSES, params, stats)
    return functools.partial(segmenter.Segmenter, weights)


def assert_released(segmenter, kind):
    with np.load(PARITY / "protocols.npz") as archive:
        expected = archive[f"{kind}_scores"]
    scores = segmenter.scores(release.read_rgb(PARITY / f"{kind}_image.png"))
    errors = np.abs(release.probe(np.moveaxis(scores, -1, 0), 16384) - expected)
    assert errors.max() < 1e-4
    labels = release.read_labels(PARITY / f"{kind}_prediction.png")
    assert (scores.argmax(-1) == labels).mean() >= 0.999


@pytest.mark.slow
def test_windows_equal_the_release(released):
    assert_released(released(window="256x512", stride="171x341"), "slide")


@pytest.mark.slow
def test_views_equal_the_release(released):
    assert_released(released(scales=(0.5, 1.0, 1.5), flip=True), "tta")


def test_released_scales():
    """The sizes are those that the released resizing gives a photograph at each scale."""
    first, *sizes = protocol.view_sizes(Protocol(scales=protocol.RELEASE_SCALES), 2736, 3648)
    assert first == (1368, 1824)
    assert sizes == [(2052, 2736), (2736, 3648), (3420, 4560), (4104, 5472), (4788, 6384)]
    # 101.5 and 150.5 become 102 and 151; 151/301 is the smaller factor, and 101.8 rounds to 102.
    assert protocol.view_sizes(Protocol(scales=(0.5,)), 203, 301) == [(102, 151)]


# Windows.


@given(length=st.integers(1, 60), window=st.integers(1, 40), data=st.data(), smooth=st.booleans())
def test_windows_cover_a_side(length, window, data, smooth):
    """Windows lie as in the release, and the weights of every pixel add up to one."""
    stride = data.draw(st.integers(1, window))
    starts, weights = protocol.windows_along(
        length, window, stride, "smooth" if smooth else "average"
    )
    shown = min(window, length)
    expected = []
    for i in range(max(length - window + stride - 1, 0) // stride + 1):
        end = min(i * stride + window, length)
        expected.append(max(end - window, 0))
    assert starts.tolist() == expected and weights.shape == (len(starts), shown)
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        assert (weight > 0).all()
        total[start : start + shown] += weight
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)


def test_smooth_windows_fade():
    """With an overlap of one half each weight is a raised cosine; averages jump from 1 to 1/2."""
    _, (first, second) = protocol.windows_along(12, 8, 4, "smooth")
    np.testing.assert_allclose(first[:4], 1)
    np.testing.assert_allclose(first[4:], np.cos(np.pi * (np.arange(4) + 0.5) / 8) ** 2, rtol=1e-6)
    np.testing.assert_allclose(second, first[::-1])
    _, (first, _) = protocol.windows_along(12, 8, 4, "average")
    np.testing.assert_array_equal(first, [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.slow  # compiles for some twenty seconds
def test_a_window_larger_than_the_image_is_plain_inference():
    """This uses the network itself, with random weights."""
    weights = tiny_weights()
    graph, image = model_graph(TINY, training=False), jnp.asarray(noise(90, 130)[None])
    whole = jax.jit(network.network_scores(graph), static_argnums=3)
    windows = views.score_function(graph, Protocol(window="200x130"))
    expected = np.asarray(whole(*weights, image, (90, 130)))
    assert len(np.unique(expected.argmax(-1))) > 1
    np.testing.assert_array_equal(windows(*weights, image, (90, 130)), expected)


@pytest.mark.parametrize(
    "settings",
    [{"window": "130"}, {"window": "99x130", "blend": "smooth", "stride": "9"}, {"scales": (1.0,)}],
)
def test_one_window_and_one_view_are_plain_inference(no_network, settings):
    image = noise(90, 130)
    scores, labels = answers(image, **settings)
    assert_close(scores, plain(image))
    assert_highest(labels, scores)


@pytest.mark.parametrize("blend", protocol.BLENDS)
def test_windows_equal_crops_put_together_by_hand(no_network, blend):
    """Each crop is computed by itself, then come weighted means; the last ones are moved back."""
    image = noise(90, 150)
    tops, lefts = (0, 20, 26), (0, 40, 54)
    total, weights = np.zeros((90, 150, 7)), np.zeros((90, 150, 1))
    bell = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (64, 96)]
    weight = np.outer(*bell)[..., None] if blend == "smooth" else np.ones((64, 96, 1))
    for y, x in itertools.product(tops, lefts):
        place = np.s_[y : y + 64, x : x + 96]
        total[place] += weight * plain(image[place])
        weights[place] += weight
    scores, labels = answers(image, window="64x96", stride="20x40", blend=blend)
    assert_close(scores, total / weights)
    assert_highest(labels, scores)


def test_the_stride_is_two_thirds_of_the_window_unless_given(no_network):
    image = noise(90, 130)
    default, _ = answers(image, window="29x96")
    given, _ = answers(image, window="29x96", stride="20x64")
    other, _ = answers(image, window="29x96", stride="19x64")
    np.testing.assert_array_equal(default, given)
    assert np.abs(default - other).max() > 1e-4


def test_windows_are_of_the_resized_photograph(no_network):
    """They are shown smaller, put together, and enlarged again, for labels in strips."""
    image = noise(180, 260)
    shown = resize_image(image, (90, 130))
    small = answers(shown, window="64x96")[0]
    expected = np.asarray(resize_bilinear(jnp.asarray(small), (180, 260)))
    scores, labels = answers(image, resolution="90x130", window="64x96")
    assert_close(scores, expected)
    assert_highest(labels, expected)


@pytest.mark.parametrize("size", [(90, 150), (37, 61), (5, 1)])
def test_labels_of_resized_scores(size, monkeypatch):
    """Strips have several rows, and the last one is moved back."""
    monkeypatch.setattr(views, "STRIP", 7 * size[1])
    scores = jnp.asarray(np.random.default_rng(0).random((2, 50, 80, 7), np.float32))
    expected = np.asarray(resize_bilinear(scores, size)).argmax(-1)
    got = jax.jit(views._resized_labels.__wrapped__, static_argnums=1)(scores, size)
    np.testing.assert_array_equal(got, expected)


def test_one_program_for_the_windows_of_all_photographs(monkeypatch):
    """The network takes long to compile, and is not compiled again for another size."""
    traced = []

    def counting(graph, *, dtype, mesh):
        scores = stand_in.network_scores(graph)
        return lambda *arguments: traced.append(arguments[-1]) or scores(*arguments)

    monkeypatch.setattr(network, "network_scores", counting)
    protocol = Protocol(window="64", flip=True)
    scores = views.score_function(stand_in.GRAPH, protocol)
    for size in ((90, 150), (64, 64), (100, 70)):
        scores(None, None, jax.device_put(views.show(protocol, [noise(*size)])), size)
    assert traced == [(64, 64)]


# Views.


def test_equal_views_are_plain_inference(no_network):
    """The average of equal views is softmax(scores), whose labels are those of the scores."""
    image = noise(90, 130)
    scores, labels = answers(image, scales=(1.0, 1.0))
    assert_close(scores, np.asarray(jax.nn.softmax(plain(image), -1)))
    assert_highest(labels, plain(image))


@pytest.mark.parametrize("window", ["", "64x96"])
def test_views_put_together_by_hand(no_network, window):
    """Each view is resized as bytes, mirrored and resized back; softmax comes before the mean."""
    image = noise(90, 130)
    total = 0
    for size in ((45, 65), (90, 130)):
        view = resize_image(image, size)
        for step in (1, -1):
            if window:
                scores = answers(np.ascontiguousarray(view[:, ::step]), window=window)[0]
                scores = np.asarray(resize_bilinear(jnp.asarray(scores), (90, 130)))
            else:
                scores = plain(view[:, ::step], (90, 130))
            exp = np.exp(scores[:, ::step])
            total = total + exp / exp.sum(-1, keepdims=True)
    scores, labels = answers(image, window=window, scales=(0.5, 1.0), flip=True)
    assert_close(scores, total / 4)
    assert_highest(labels, scores)


def test_a_scale_alone_is_that_resolution(no_network):
    image = noise(90, 130)
    expected, _ = answers(image, resolution="45x65")
    np.testing.assert_array_equal(answers(image, scales=(0.5,))[0], expected)


# Any size, any number of devices, wrong values.


@pytest.mark.parametrize("size", [(1, 1), (3, 67)])
def test_any_size(no_network, size):
    scores, labels = answers(
        noise(*size), window="64", blend="smooth", scales=(0.5, 1.0), flip=True
    )
    assert scores.shape == (*size, 7) and labels.shape == size
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)


def test_photographs_lie_on_their_devices(no_network):
    """So do their sums. No device holds another's photograph, and the answers are the same."""
    protocol = Protocol(window="64x96", flip=True)
    images = [noise(90, 130, seed=seed) for seed in range(4)]
    split = sharding.batch_sharded(sharding.make_mesh(jax.devices()[:4]))
    scores = views.score_function(stand_in.GRAPH, protocol)
    shown = jax.device_put(views.show(protocol, images), split)
    begin = views._zeros((4, 90, 130, 7), jnp.float32, shown)
    many = scores(None, None, shown, (90, 130))
    for sums in (begin, many):
        assert sums.sharding.is_equivalent_to(split, 4)
    for image, got in zip(images, many, strict=True):
        assert_close(np.asarray(got), answers(image, window="64x96", flip=True)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": "big"}, "resolution is 'big'"),
        ({"window": "12by12"}, "window is '12by12'"),
        ({"window": "0"}, "window is '0'"),
        ({"window": "64", "stride": "x"}, "stride is 'x'"),
        ({"window": "64x96", "stride": "70"}, "stride is 70, more than window, 64x96"),
        ({"stride": "64"}, "give window"),
        ({"blend": "smooth"}, "give window"),
        ({"window": "64", "blend": "max"}, "blend is 'max'"),
        ({"scales": ()}, r"scales is \(\)"),
        ({"scales": (1.0, 0.0)}, "scales is"),
        ({"scales": (float("nan"),)}, "scales is"),
    ],
)
def test_wrong_values(settings, message):
    with pytest.raises(InputError, match=message) as error:
        Protocol(**settings)
    assert "\n" not in str(error.value)
