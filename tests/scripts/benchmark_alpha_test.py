"""Scenes of known coverage, and the comparison that is made on them."""

import numpy as np
import pytest

from massformer_jax.inference.alpha import coverage
from massformer_jax.metrics.matting import errors
from scripts.benchmark.alpha import blurred, composites, guided_filter
from scripts.benchmark.alpha_scenes import SCENES, coverage_of, render


def test_coverage_of_shapes_by_hand():
    # From 1.25 to 2.5 along x and from 1 to 3 along y, and another shape inside of it.
    shape = np.array([(1.25, 1), (2.5, 1), (2.5, 3), (1.25, 3)])
    found = coverage_of([shape, shape], 4, 5)
    expected = np.zeros((4, 5))
    expected[1:3, 1], expected[1:3, 2] = 0.75, 0.5
    # OpenCV's polygons hold the samples on their borders: an eighth of a pixel along each side.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.2)
    assert found[1, 1] == pytest.approx(0.75, abs=0.13) and found[0, 4] == 0


def test_strips_have_no_seams():
    shape = np.array([(10, 3), (40, 120.3), (12, 260)])
    found = coverage_of([shape], 270, 50)
    moved = coverage_of([shape + np.array([0, 5])], 275, 50)
    # OpenCV rounds where it clips an edge to a strip: by a few samples of a pixel's 64.
    np.testing.assert_allclose(moved[5:], found, rtol=0, atol=0.2)
    assert np.abs(moved[5:] - found).mean() < 2e-3


@pytest.mark.parametrize("name", SCENES)
def test_scenes_are_functions_of_their_seed(name):
    scene, again, other = (render(name, 192, 256, seed) for seed in (1, 1, 2))
    for x, y in zip(scene, again, strict=True):
        np.testing.assert_array_equal(x, y)
    assert (scene.image != other.image).any()
    assert scene.truth.min() >= 0 and scene.truth.max() <= 1
    assert 0.02 < scene.truth.mean() < 0.98 and ((scene.truth > 0) & (scene.truth < 1)).any()
    np.testing.assert_allclose(scene.probabilities.sum(-1), 1, rtol=1e-6)


@pytest.mark.slow
def test_ours_is_better_than_blurred_masks():
    scene = render("hair", 768, 1024, 3)
    ours = errors(coverage(scene.probabilities, scene.image, [1]), scene.truth)
    for compute in blurred(scene):
        others = errors(compute(), scene.truth)
        assert all(mine < 0.6 * other for mine, other in zip(ours, others, strict=True))
    found = composites(scene)
    assert found.estimated < found.photograph and found.with_truth < found.estimated


def test_guided_filter_keeps_what_is_linear_in_the_colours():
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    scores = image[..., 1].astype(np.float32) / 255
    np.testing.assert_allclose(guided_filter(image, scores, 4, 1e-6), scores, rtol=0, atol=1e-3)
