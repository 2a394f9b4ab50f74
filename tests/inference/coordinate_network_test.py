"""Photographs through a network that answers at coordinates, as labels and as scores."""

import jax
import numpy as np
import pytest

from massformer_jax.errors import InputError
from massformer_jax.evaluation.evaluate import evaluation_function
from massformer_jax.inference import coordinate_network, views
from massformer_jax.inference.coordinate_network import (
    answers_function,
    coordinate_labels,
    coordinate_scores,
)
from massformer_jax.inference.protocol import Protocol
from massformer_jax.inference.ways_to_ask import by_entropy, by_sefi, every_pixel
from massformer_jax.models.build import answers_at_coordinates, model_graph
from massformer_jax.parallel import sharding
from tests.helpers import stand_in
from tests.helpers.tiny_coordformer import TINY, tiny_weights
from tests.inference.asking_test import scene

BUCKET = 256
GRAPH = model_graph(TINY, training=False)
WEIGHTS = tiny_weights()
NETWORK = WEIGHTS.params, WEIGHTS.batch_stats
PHOTOGRAPHS = np.stack([scene(1), scene(2)])
SIZE = PHOTOGRAPHS.shape[1:3]


@pytest.fixture(scope="module")
def answers():
    function = answers_function(GRAPH)
    return [pair for image in PHOTOGRAPHS for pair in function(*NETWORK, image[None])]


@pytest.fixture(scope="module")
def labels(answers):
    """What asking every pixel gives."""
    return np.stack([every_pixel(*each, bucket=BUCKET).answers for each in answers])


def test_the_answers_differ_enough_to_be_compared(labels):
    assert np.bincount(labels.reshape(-1)).min() > 0.03 * labels.size
    assert (labels[0] != labels[1]).mean() > 0.05


@pytest.mark.parametrize(
    ("ask", "way", "settings"),
    [
        ("every", every_pixel, {}),
        (
            "sefi,stride=4,dilation=1,threshold=0.03",
            by_sefi,
            {"stride": 4, "dilation": 1, "threshold": 0.03},
        ),
        ("entropy,stride=4,share=0.4", by_entropy, {"stride": 4, "share": 0.4}),
    ],
)
def test_protocols_equal_every_pixel_where_they_ask(ask, way, settings, answers, labels):
    protocol = Protocol(ask=ask)
    function = coordinate_labels(GRAPH, protocol, bucket=BUCKET)
    for image, all_asked, one in zip(PHOTOGRAPHS, labels, answers, strict=True):
        (own,) = function(*NETWORK, image[None], SIZE)
        asked = way(*one, **settings, bucket=BUCKET).asked
        assert asked.mean() > 0.1 and (asked.mean() < 0.9 or ask == "every")
        np.testing.assert_array_equal(own[asked], all_asked[asked])


def test_every_nth_pixel(labels):
    function = coordinate_labels(GRAPH, Protocol(ask="stride=5"), bucket=BUCKET)
    (found,) = function(*NETWORK, PHOTOGRAPHS[1:], SIZE)
    np.testing.assert_array_equal(found[::5, ::5], labels[1, ::5, ::5])


@pytest.mark.parametrize("ask", ["every", "sefi,stride=4", "entropy,stride=4", "stride=4"])
def test_scores_are_probabilities_of_the_labels(ask):
    arguments = *NETWORK, PHOTOGRAPHS[:1], SIZE
    labels, scores = (
        function(GRAPH, Protocol(ask=ask), bucket=BUCKET)(*arguments)
        for function in (coordinate_labels, coordinate_scores)
    )
    assert scores.dtype == np.float32 and scores.min() >= 0
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(scores.argmax(-1), labels)


def test_photographs_of_all_sizes_have_two_programs():
    """Whatever is asked, and whether labels or scores are."""
    for function in (coordinate_labels, coordinate_scores):
        for ask in ("every", "sefi", "stride=3"):
            run = function(GRAPH, Protocol(ask=ask), bucket=BUCKET)
            for height, width in ((37, 53), (9, 20), (70, 16)):
                image = np.resize(PHOTOGRAPHS[0], (1, height, width, 3))
                assert run(*NETWORK, image, (height, width)).shape[:3] == (1, height, width)
    programs = coordinate_network._programs(GRAPH, "float32", None)
    assert [program._cache_size() for program in programs] == [1, 1]


def test_devices_share_photographs_and_coordinates(labels):
    """As an evaluation has it; three devices would not divide the bucket."""
    mesh = sharding.make_mesh(jax.devices()[:2])
    weights = jax.device_put(NETWORK, sharding.replicated(mesh))
    evaluate = evaluation_function(TINY, mesh, protocol=Protocol(ask="every"))
    found, counts = evaluate(*weights, views.show(Protocol(), list(PHOTOGRAPHS)), labels)
    assert (found == labels).mean() > 0.999
    assert counts.intersect.shape[0] == 2 and np.asarray(counts.intersect).sum() > 0
    assert coordinate_network.bucket_on(sharding.make_mesh(jax.devices()[:3])) % 3 == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"window": "512"}, "window is '512'"),
        ({"resolution": "release"}, "resolution is 'release'"),
        ({"scales": (0.5, 1.0)}, r"scales is \(0.5, 1.0\)"),
        ({"flip": True, "ask": "sefi"}, "flip is True"),
    ],
)
def test_what_means_nothing_for_this_network_is_refused(settings, named):
    assert answers_at_coordinates(GRAPH)
    for function in (views.label_function, views.score_function):
        with pytest.raises(InputError, match=f"^{named}, and the network is a CoordFormer.*out$"):
            function(GRAPH, Protocol(**settings))


def test_asking_is_refused_for_other_networks():
    with pytest.raises(InputError, match=r"^ask is 'sefi', and the network is a MaSSFormer"):
        views.label_function(stand_in.GRAPH, Protocol(ask="sefi"))


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        ("every", ("every", {})),
        ("stride=16", ("stride", {"stride": 16})),
        ("sefi", ("sefi", {})),
        (
            "sefi,stride=32,dilation=15,threshold=0.2",
            ("sefi", {"stride": 32, "dilation": 15, "threshold": 0.2}),
        ),
        ("entropy,share=0.3", ("entropy", {"share": 0.3})),
    ],
)
def test_what_can_be_asked(ask, expected):
    assert Protocol(ask=ask).asking == expected


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ("", "use every, sefi, entropy, or stride=8"),
        ("Sefi", "use every, sefi, entropy, or stride=8"),
        ("stride", "use every, sefi, entropy, or stride=8"),
        ("sefi=3", "use every, sefi, entropy, or stride=8"),
        ("every,stride=8", "every has no setting 'stride'; it has none"),
        ("sefi,share=0.1", "sefi has no setting 'share'; it has stride, dilation, threshold"),
        ("stride=0", "stride is '0'; it must be a whole number, 1 to 4096"),
        ("stride=2.5", "stride is '2.5'; it must be a whole number, 1 to 4096"),
        ("entropy,stride=12", "stride is 12, which entropy halves down to 1; use 4, 8, 16, …"),
        ("entropy,share=nan", "share is 'nan'; it must be a number, 0 to 1"),
        ("entropy,share", "share is ''; it must be a number, 0 to 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(ask, said):
    with pytest.raises(InputError) as caught:
        Protocol(ask=ask)
    assert str(caught.value).startswith(f"ask is {ask!r}") and str(caught.value).endswith(said)
