"""Every way to ask gives, where it asks, the answer that asking every pixel gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from massformer_jax.inference import asking
from massformer_jax.inference.coordinate_network import logits_function, memory_function
from massformer_jax.inference.coordinates import ask_grid, grown, highest, probabilities
from massformer_jax.inference.ways_to_ask import by_entropy, by_sefi, by_stride, every_pixel
from massformer_jax.models.coordformer import CoordFormer
from tests.helpers.random_network import random_network
from tests.inference.asking_test import scene

BUCKET = 64


def by_brightness(patches, places):
    """Returns logits of three classes by the first pixel; they also depend on the place."""
    assert patches.shape == (BUCKET, 8, 8, 3)
    brightness = patches[:, 0, 0].astype(np.float32).mean(-1) / 255
    levels = np.array([0.2, 0.4, 0.7], np.float32)
    return -50 * np.square(brightness[:, None] - levels) + 0.1 * places[:, :1]


def expected_labels(photograph):
    height, width = photograph.shape[:2]
    labels = np.empty((height, width), np.uint8)
    for y, x in np.ndindex(height, width):
        patch = np.broadcast_to(photograph[y, x], (BUCKET, 8, 8, 3))
        labels[y, x] = by_brightness(patch, np.zeros((BUCKET, 2), np.float32))[0].argmax()
    return labels


PHOTOGRAPH = scene(1)
LABELS = expected_labels(PHOTOGRAPH)


def test_every_pixel():
    found = every_pixel(by_brightness, PHOTOGRAPH, bucket=BUCKET)
    assert found.asked.all()
    np.testing.assert_array_equal(found.answers, LABELS)


def test_sefi_asks_what_its_rule_names():
    found = by_sefi(by_brightness, PHOTOGRAPH, stride=4, dilation=1, bucket=BUCKET)
    assert 0.1 < found.asked.mean() < 0.8
    rule = asking.sefi(LABELS[::4, ::4], PHOTOGRAPH, stride=4, dilation=1)
    rule[::4, ::4] = True
    np.testing.assert_array_equal(found.asked, rule)
    np.testing.assert_array_equal(found.answers[found.asked], LABELS[found.asked])


@pytest.mark.parametrize("finish", [highest, probabilities])
def test_by_entropy_what_is_asked_is_exact_and_the_rest_lies_between(finish):
    every = every_pixel(by_brightness, PHOTOGRAPH, finish=finish, bucket=BUCKET).answers
    ways = {"stride": 4, "finish": finish, "bucket": BUCKET}
    found = by_entropy(by_brightness, PHOTOGRAPH, share=0.3, **ways)
    # The first ones, and at most as many as were allowed.
    first = -(-PHOTOGRAPH.shape[0] // 4) * -(-PHOTOGRAPH.shape[1] // 4)
    assert first < found.asked.sum() <= first + 0.3 * LABELS.size
    assert found.asked[::4, ::4].all()
    np.testing.assert_array_equal(found.answers[found.asked], every[found.asked])
    none = by_entropy(by_brightness, PHOTOGRAPH, share=0.0, **ways)
    assert none.asked.sum() == first
    if finish is probabilities:
        corners = every[8:16:4, 8:16:4]
        np.testing.assert_allclose(none.answers[10, 10], corners.mean((0, 1)), atol=1e-6)
        between = 0.75 * corners[0, 0] + 0.25 * corners[0, 1]
        np.testing.assert_allclose(none.answers[8, 9], between, atol=1e-6)
        coarse = by_stride(by_brightness, PHOTOGRAPH, **ways)
        np.testing.assert_allclose(coarse.answers, none.answers, atol=1e-6)
        np.testing.assert_array_equal(coarse.asked, none.asked)


def test_entropy_needs_fewer_questions_than_there_are_on_a_boundary():
    """A slanted boundary: a tenth of the pixels are enough to have every label right."""
    y, x = np.mgrid[:97, :129]
    photograph = np.where((x + y // 3 > 70)[..., None], np.uint8(220), np.uint8(30)).repeat(3, -1)
    expected = every_pixel(by_brightness, photograph, bucket=BUCKET).answers
    found = by_entropy(by_brightness, photograph, stride=8, share=0.1, bucket=BUCKET)
    np.testing.assert_array_equal(found.answers, expected)
    assert found.asked.mean() < 0.12


def test_of_two_boundaries_entropy_asks_first_the_one_that_is_an_edge_of_the_photograph():
    """The answers are the same at both. Magenta is as bright as this grey, and green is not."""
    photograph = np.full((64, 64, 3), 102, np.uint8)
    photograph[:, 21:] = 255, 0, 255
    photograph[:, 43:] = 0, 255, 51
    found = by_entropy(by_brightness, photograph, stride=8, share=0.02, bucket=BUCKET)
    asked = found.asked.copy()
    asked[::8, ::8] = False
    assert asked[:, 40:47].sum() > 2 * asked[:, 18:25].sum()


def test_a_stride_of_1_asks_every_pixel():
    found = by_entropy(by_brightness, PHOTOGRAPH, stride=1, bucket=BUCKET)
    assert found.asked.all()
    np.testing.assert_array_equal(found.answers, LABELS)


def test_a_region_and_places_between_pixels():
    region = ask_grid(by_brightness, PHOTOGRAPH, np.arange(5, 16), np.arange(20, 53), bucket=BUCKET)
    np.testing.assert_array_equal(region, LABELS[5:16, 20:53])
    # Twice as fine: the places between pixels see interpolated surroundings.
    rows, columns = (np.arange(0, 4, 0.5) for _ in range(2))
    fine = ask_grid(by_brightness, PHOTOGRAPH, rows, columns, bucket=BUCKET)
    np.testing.assert_array_equal(fine[::2, ::2], LABELS[:4, :4])


@pytest.mark.parametrize(("x", "y"), [(0, 0), (30, 20), (52, 36)])
def test_a_click_grows_to_all_that_is_connected(x, y):
    expected = np.zeros(LABELS.shape, bool)
    waiting = [(y, x)]
    while waiting:
        i, j = waiting.pop()
        inside = 0 <= i < LABELS.shape[0] and 0 <= j < LABELS.shape[1]
        if inside and not expected[i, j] and LABELS[i, j] == LABELS[y, x]:
            expected[i, j] = True
            waiting += [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
    found = grown(by_brightness, PHOTOGRAPH, x, y, tile=7, bucket=BUCKET)
    np.testing.assert_array_equal(found, expected)


def test_a_click_asks_only_the_squares_that_its_region_touches():
    photograph = np.zeros((40, 40, 3), np.uint8)
    photograph[10:15, 10:15] = 255
    asked = []

    def answer(patches, places):
        asked.append(len(patches))
        return by_brightness(patches, places)

    assert grown(answer, photograph, 12, 12, tile=8, bucket=BUCKET).sum() == 25
    assert len(asked) == 2  # the pixel, and the square [8, 16) that the region lies inside


def test_a_photograph_smaller_than_a_bucket():
    small = PHOTOGRAPH[:3, :5]
    np.testing.assert_array_equal(
        every_pixel(by_brightness, small, bucket=BUCKET).answers, LABELS[:3, :5]
    )


def tiny():
    """Returns the structure and the weights of a tiny network, for inference."""
    encoder = {"patch": 16, "features": 8, "blocks": 4, "heads": 2, "hidden": 8, "gated": False}
    settings = {"decoder_width": 8, "heads": 2, "head_width": 4, "classes": 3}
    network = random_network(
        lambda: CoordFormer(encoder={**encoder, "grid": 3}, **settings, rngs=nnx.Rngs(0))
    )
    graph, params, batch_stats = nnx.split(
        nnx.view(network, use_running_average=True), nnx.Param, nnx.BatchStat
    )
    return graph, (nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats))


def test_bfloat16_goes_through_the_network_and_logits_are_float32():
    graph, weights = tiny()
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    # flax itself promotes where it normalises bfloat16 by float32.
    with jax.numpy_dtype_promotion("standard"):
        memory = jax.eval_shape(memory_function(graph, dtype="bfloat16"), *weights, image)
    assert {x.dtype for x in memory} == {jnp.dtype(jnp.bfloat16)}
    patches = jax.ShapeDtypeStruct((BUCKET, 8, 8, 3), jnp.float32)  # of places between pixels
    places = jax.ShapeDtypeStruct((BUCKET, 2), jnp.float32)
    run = logits_function(graph, dtype="bfloat16")
    with jax.numpy_dtype_promotion("standard"):
        logits = jax.eval_shape(run, *weights, memory, patches, places)
    assert logits.shape == (BUCKET, 3) and logits.dtype == jnp.float32


def test_one_program_answers_for_photographs_of_all_sizes():
    """With a tiny network; its answers do not depend on the bucket."""
    graph, weights = tiny()
    memory = memory_function(graph)(*weights, jnp.zeros((1, 32, 32, 3), jnp.uint8))
    run = logits_function(graph)

    def answer(patches, places):
        return run(*weights, memory, patches, places)

    labels = [
        every_pixel(answer, photograph, bucket=BUCKET).answers
        for photograph in (PHOTOGRAPH[:9], PHOTOGRAPH[:9, :20])
    ]
    by_sefi(answer, PHOTOGRAPH[:20], stride=8, bucket=BUCKET)
    assert run._cache_size() == 1
    assert all(x.shape == y for x, y in zip(labels, ((9, 53), (9, 20)), strict=True))
    logits = [
        ask_grid(answer, PHOTOGRAPH, np.arange(3), np.arange(7), finish=lambda x: x, bucket=bucket)
        for bucket in (BUCKET, 5)
    ]
    np.testing.assert_allclose(*logits, atol=1e-5)
