"""Soft edges of photographs whose true coverage is known."""

import cv2
import numpy as np
import pytest

from massformer_jax.errors import InputError
from massformer_jax.inference.alpha import coverage, foreground

FRONT, BEHIND = np.array([30.0, 60.0, 20.0]), np.array([120.0, 160.0, 230.0])


def scene(h=300, w=340):
    """Twigs and a trunk before a sky: the true coverage, the photograph, and blurred scores."""
    large = np.zeros((8 * h, 8 * w), np.uint8)
    for x, thick in ((60, 2), (120, 5), (180, 12), (260, 40)):
        cv2.line(large, (8 * x, 0), (8 * (x + 40), 8 * h), 1, 8 * thick, cv2.LINE_4)
    truth = cv2.resize(large.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
    share = truth[..., None]
    linear = share * (FRONT / 255) ** 2.2 + (1 - share) * (BEHIND / 255) ** 2.2
    image = (255 * linear ** (1 / 2.2) + 0.5).astype(np.uint8)
    blurred = np.roll(cv2.GaussianBlur(truth, (0, 0), 2), 1, 1)
    return truth, image, np.stack([1 - blurred, blurred], -1)


def test_soft_edges_are_nearer_to_the_truth_than_hard_and_blurred_ones():
    truth, image, probabilities = scene()
    found = coverage(probabilities, image, [1])
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    hard = (probabilities[..., 1] > 0.5).astype(np.float32)

    def error(alpha):
        return np.mean((alpha - truth) ** 2)

    best = min(error(cv2.GaussianBlur(hard, (0, 0), sigma)) for sigma in (0.5, 1, 1.5, 2, 3))
    assert error(found) < 0.5 * min(best, error(hard), error(probabilities[..., 1]))
    # Far from edges nothing is uncertain.
    inside = cv2.erode(truth, np.ones((25, 25))) == 1
    outside = cv2.dilate(truth, np.ones((25, 25))) == 0
    assert inside.any() and outside.any()
    assert (found[inside] == 1).all() and (found[outside] == 0).all()


def test_a_union_and_the_rest_add_up():
    _, image, two = scene()
    probabilities = np.concatenate([two[..., :1], 0.7 * two[..., 1:], 0.3 * two[..., 1:]], -1)
    members, rest = (coverage(probabilities, image, x) for x in ([1, 2], [0]))
    np.testing.assert_allclose(members + rest, 1, rtol=0, atol=1e-5)


def test_thin_twigs_that_the_scores_lost_are_found_near_those_that_they_have():
    truth, image, probabilities = scene()
    found = coverage(probabilities, image, [1])
    lost = (truth == 1) & (probabilities[..., 1] < 0.5)
    assert lost.sum() > 200 and found[lost].mean() > 0.9


def test_what_looks_alike_far_from_the_scores_edges_stays():
    """A patch of the colour behind, inside of what is in front: 80 pixels from the edge."""
    image = np.full((256, 256, 3), BEHIND, np.uint8)
    image[:, 100:] = FRONT
    image[100:140, 185:225] = BEHIND
    noise = np.random.default_rng(0).normal(0, 2, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    front = np.zeros((256, 256), np.float32)
    front[:, 100:] = 1
    front = cv2.GaussianBlur(front, (0, 0), 3)
    found = coverage(np.stack([1 - front, front], -1), image, [1])
    assert found[100:140, 185:225].min() == 1


def test_where_scores_waver_within_a_large_region_there_are_no_holes():
    """Windows show the sky, and the scores of the wall between fall to 0.9 at their sills."""
    image = np.full((256, 640, 3), BEHIND, np.uint8)
    image[:, 200:] = FRONT
    front = np.zeros((256, 640), np.float32)
    front[:, 200:] = 1
    front = cv2.GaussianBlur(front, (0, 0), 3)
    for x in range(400, 600, 40):
        image[100:140, x : x + 20] = BEHIND
        front[130:150, x + 5 : x + 15] = 0.9
    noise = np.random.default_rng(0).normal(0, 2, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    found = coverage(np.stack([1 - front, front], -1), image, [1])
    assert found[:, 400:].min() == 1


@pytest.mark.parametrize("label, value", [(0, 1), (1, 0)])
def test_one_class_everywhere(label, value):
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    probabilities = np.broadcast_to(np.float32([0.9, 0.1]), (40, 50, 2))
    np.testing.assert_array_equal(coverage(probabilities, image, [label]), np.full((40, 50), value))


def test_colours_in_front_have_no_fringe():
    truth, image, _ = scene()
    found = foreground(image, truth)
    assert found.shape == image.shape and found.dtype == np.uint8
    edge = (truth > 0.2) & (truth < 0.8)
    wrong = np.abs(found[edge] - FRONT).mean()
    assert wrong < 0.25 * np.abs(image[edge] - FRONT).mean()
    whole = truth == 1
    np.testing.assert_array_equal(found[whole], image[whole])


def test_what_does_not_fit_is_refused():
    _, image, probabilities = scene()
    with pytest.raises(InputError, match="there is no class 2; labels are 0 to 1"):
        coverage(probabilities, image, [2])
