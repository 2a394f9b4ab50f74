"""Coverage from colours, against NumPy's linear algebra and a literal blur."""

import jax.numpy as jnp
import numpy as np

from massformer_jax.ops import matting


def test_sums_tell_mean_and_covariance_of_a_block():
    light = np.random.default_rng(0).random((8, 8, 3), np.float32)
    share = np.random.default_rng(1).random((8, 8), np.float32)
    sums = matting.sums_of_both(*map(jnp.asarray, (light, share, np.ones_like(share))), 2)
    assert sums.shape == (1, 1, 20)
    for part, weight in ((sums[..., :10], share**2), (sums[..., 10:], (1 - share) ** 2)):
        found = matting.colours_of(part)
        pixels, weights = light.reshape(-1, 3).astype(float), weight.ravel().astype(float)
        mean = np.average(pixels, 0, weights)
        expected = np.cov(pixels.T, aweights=weights, ddof=0)
        np.testing.assert_allclose(found.mean[0, 0], mean, rtol=1e-5)
        found, expected = found.covariance[0, 0], expected[np.triu_indices(3)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_unmixing_is_the_best_linear_estimate():
    rng = np.random.default_rng(0)
    halves = [0.2 * rng.standard_normal((2, 3, 3, 3), np.float32) for _ in range(2)]
    spread = [half @ half.swapaxes(-1, -2) for half in halves]
    means = [rng.random((2, 3, 3), np.float32) for _ in range(2)]
    row, column = np.triu_indices(3)
    front, behind = (
        matting.Colours(jnp.asarray(mean), jnp.asarray(cov[..., row, column]))
        for mean, cov in zip(means, spread, strict=True)
    )
    told = matting.unmixing(front, behind, correlated=True)
    difference = (means[0] - means[1]).astype(float)
    covariance = spread[0] + spread[1] + 1e-3 * np.eye(3)
    slope = np.linalg.solve(covariance, difference[..., None])[..., 0]
    np.testing.assert_allclose(told[..., :3], slope, rtol=2e-3, atol=1e-3)
    # Light in front gives the weight, light behind 0.
    for mean, expected in ((front.mean, told[..., 4]), (behind.mean, 0 * told[..., 4])):
        seen = (told[..., :3] * mean).sum(-1) + told[..., 3]
        np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-3)
    alike = matting.unmixing(front, behind, correlated=False)
    variance = np.trace(spread[0] + spread[1], axis1=-2, axis2=-1)[..., None] / 3 + 1e-3
    np.testing.assert_allclose(alike[..., :3], difference / variance, rtol=1e-4)


def test_the_light_decides_where_it_may_and_tells_something():
    light = jnp.full((1, 4, 3), 0.5)
    prior = jnp.array([[0.1, 0.1, 0.1, 0.9]])
    told = jnp.broadcast_to(jnp.array([2000.0, 0, 0, 0, 2000]), (1, 4, 5))
    told = told.at[0, 1].set(0)
    open_to = jnp.array([[1.0, 1, 0, 0]])
    found = matting.unmixed(light, prior, told, open_to, settled=False)[0]
    # The coverage of the light is 0.5; where it tells nothing, or may not, it is the prior's.
    np.testing.assert_allclose(found, [0.5, 0.1, 0, 1], rtol=0, atol=1e-3)


def test_spread_is_a_blur_whose_coarser_levels_hardly_count():
    sums = np.zeros((16, 16, 1), np.float32)
    sums[8, 8] = 1
    found = matting.spread(jnp.asarray(sums))[..., 0]
    taps = np.exp(-0.5 * np.arange(-3, 4.0) ** 2)
    taps /= taps.sum()
    expected = np.outer(taps, taps)
    np.testing.assert_allclose(found[5:12, 5:12], expected, rtol=0, atol=0.01 * expected.max())
    assert found.min() > 0 and found[0, 0] < 1e-4 * found.max()
