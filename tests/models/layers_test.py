"""Tests of layers against formulas: batch norm, attention, the transposed convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from massformer_jax.models import attention
from massformer_jax.models.attention import Attention, MaskedAttention
from massformer_jax.models.layers import BatchNorm, UpsamplingDeformLayer
from massformer_jax.models.pixel_modules import _channel_max


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def test_batch_norm_keeps_the_unbiased_variance():
    norm = BatchNorm(3, rngs=nnx.Rngs(0))
    norm.scale[...] = jnp.array([1.0, 2.0, 3.0])
    norm.bias[...] = jnp.array([0.1, 0.2, 0.3])
    x = np.asarray(normal(2, 4, 5, 3)) * 3 + 1
    got = norm(jnp.asarray(x))
    mean, var = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
    expected = (x - mean) / np.sqrt(var + 1e-5) * np.array([1, 2, 3]) + np.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * var * 40 / 39, rtol=1e-5)


def test_batch_norm_at_inference_uses_and_keeps_the_running_statistics():
    norm = nnx.view(BatchNorm(3, rngs=nnx.Rngs(0)), use_running_average=True)
    norm.mean[...] = jnp.array([1.0, 2.0, 3.0])
    norm.var[...] = jnp.array([4.0, 9.0, 16.0])
    x = normal(1, 1, 1, 3)
    expected = (np.asarray(x) - np.array([1, 2, 3])) / np.sqrt(np.array([4, 9, 16]) + 1e-5)
    np.testing.assert_allclose(norm(x), expected, atol=1e-6)
    np.testing.assert_array_equal(norm.mean[...], [1, 2, 3])


def test_batch_norm_refuses_a_single_value():
    with pytest.raises(ValueError, match="global batch of 1"):
        BatchNorm(3, rngs=nnx.Rngs(0))(normal(1, 1, 1, 3))


@pytest.mark.parametrize("keys_at_a_time", [5, 1])
def test_attention_by_the_formula(keys_at_a_time, monkeypatch):
    """There are two heads, keys and values differ, and a blocked key gets no weight."""
    monkeypatch.setattr(attention, "KEYS", keys_at_a_time)
    init = jax.nn.initializers.normal(0.5)
    layer = MaskedAttention(4, 2, kernel_init=init, rngs=nnx.Rngs(0))
    queries, keys, values, residual = (normal(1, n, 4, seed=n) for n in (3, 5, 5, 3))
    values, residual = values + 1, residual - 1
    blocked = np.zeros((1, 3, 5), bool)
    blocked[0, 1, 2] = blocked[0, 2, :4] = True

    kernel, bias = np.asarray(layer.in_proj.kernel[...]), np.asarray(layer.in_proj.bias[...])
    q, k, v = (
        np.asarray(x[0]) @ kernel[:, 4 * i : 4 * i + 4] + bias[4 * i : 4 * i + 4]
        for i, x in enumerate((queries, keys, values))
    )
    heads = []
    for s in (slice(0, 2), slice(2, 4)):
        logits = np.where(blocked[0], -np.inf, q[:, s] @ k[:, s].T / np.sqrt(2))
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        heads.append(weights @ v[:, s])
    out = np.concatenate(heads, -1) @ np.asarray(layer.out_proj.kernel[...])
    got = layer(queries, keys, values, residual=residual, blocked=jnp.asarray(blocked))
    np.testing.assert_allclose(got[0], np.asarray(residual[0]) + out, atol=1e-5)


def test_attention_is_masked_attention_with_nothing_blocked():
    init = jax.nn.initializers.normal(0.5)
    plain, masked = (
        kind(4, 2, kernel_init=init, rngs=nnx.Rngs(0)) for kind in (Attention, MaskedAttention)
    )
    queries, keys, values, residual = (normal(1, n, 4, seed=n) for n in (3, 5, 6, 7))
    values, residual = values[:, :5], residual[:, :3]
    nothing = jnp.zeros((1, 3, 5), bool)
    expected = masked(queries, keys, values, residual=residual, blocked=nothing)
    np.testing.assert_array_equal(plain(queries, keys, values, residual=residual), expected)


def test_blocks_of_keys_have_the_gradient_of_all_at_once(monkeypatch):
    """This holds also for a query whose keys in the first blocks are all blocked."""
    layer = MaskedAttention(8, 2, kernel_init=jax.nn.initializers.normal(0.5), rngs=nnx.Rngs(0))
    inputs = tuple(normal(2, n, 8, seed=i) for i, n in enumerate((3, 12, 12)))
    blocked = np.random.default_rng(0).random((2, 3, 12)) < 0.3
    blocked[:, 1, :8] = True

    def gradients():
        def loss(queries, keys, values):
            out = layer(queries, keys, values, residual=queries, blocked=jnp.asarray(blocked))
            return jnp.square(out).sum()

        return jax.grad(loss, argnums=(0, 1, 2))(*inputs)

    at_once = gradients()
    monkeypatch.setattr(attention, "KEYS", 4)
    for ours, expected in zip(gradients(), at_once, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_upsampling_is_torch_s_transposed_convolution():
    """It is out[2i + a - 1, 2j + b - 1] += x[i, j] · weight[a, b]; our kernel is flipped."""
    layer = UpsamplingDeformLayer(2, 3, 3, rngs=nnx.Rngs(0)).up_sample
    x = normal(1, 4, 5, 3)
    weight = np.asarray(layer.kernel[...])[::-1, ::-1]
    expected = np.zeros((10, 12, 3))
    for i, j, a, b in np.ndindex(4, 5, 4, 4):
        expected[2 * i + a, 2 * j + b] += np.asarray(x[0, i, j]) @ weight[a, b]
    np.testing.assert_allclose(layer(x)[0], expected[1:-1, 1:-1], atol=1e-5)


def test_the_gradient_of_the_largest_channel_goes_to_one_channel():
    """Also where rounding, or two equal channels, leave none or several that equal the maximum."""
    x = jnp.asarray([[[[1.0, 3.0, 3.0, 2.0]], [[0.0, 0.0, 0.0, 0.0]]]])
    maximum, pullback = jax.vjp(_channel_max, x)
    np.testing.assert_array_equal(maximum, [[[3.0], [0.0]]])
    (gradient,) = pullback(jnp.asarray([[[5.0], [7.0]]]))
    np.testing.assert_array_equal(gradient, [[[[0, 5, 0, 0]], [[7, 0, 0, 0]]]])
