"""Layers that several parts of the network share: convolutions, norm, attention, feed-forward."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from massformer_jax.ops.deform_conv import deform_conv

# torch's default for weights: uniform within ±1/sqrt(fan_in).
torch_uniform = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# torch's kaiming_normal_(a=1): the released ConvBNReLU.
kaiming_gain_1 = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
# torch's kaiming_normal_(mode="fan_out"): the encoder without ImageNet weights, and DCN kernels.
kaiming_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    features_in: int,
    features_out: int,
    size: int,
    *,
    stride: int = 1,
    bias: bool = False,
    kernel_init: nnx.Initializer = torch_uniform,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution padded by size // 2 on every side. At stride 2 'SAME' would pad otherwise."""
    bound = (features_in * size * size) ** -0.5
    return nnx.Conv(
        features_in,
        features_out,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=bias,
        kernel_init=kernel_init,
        bias_init=lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound),
        rngs=rngs,
    )


class BatchNorm(nnx.Module):
    """Batch normalisation as torch computes it: eps 1e-5, running statistics move by 0.1.

    Unlike `nnx.BatchNorm` the running variance is the unbiased one, n / (n - 1). In training mode
    (`use_running_average=False`, set by `nnx.view`) statistics are those of the whole batch; under
    `jax.jit` with a batch-sharded input that is the global batch, over all devices.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        del rngs  # nothing here is random
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.use_running_average = False

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Called by `nnx.view`."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Raises ValueError in training mode if there is one value a channel."""
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            n = x.size // x.shape[-1]
            if n == 1:
                raise ValueError(
                    "batch normalisation over a single value: a global batch of 1 cannot train, "
                    "because the global context is normalised over the batch alone; use 2 or more"
                )
            mean = x.mean((0, 1, 2))
            var = jnp.square(x - mean.reshape(1, 1, 1, -1)).mean((0, 1, 2))
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean
            self.var[...] = 0.9 * self.var[...] + 0.1 * (n / (n - 1)) * var
        factor = self.scale[...] * jax.lax.rsqrt(var + 1e-5)
        shift = self.bias[...] - mean * factor
        return x * factor.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1)


class ConvBNReLU(nnx.Module):
    """1x1 convolution, batch normalisation, ReLU."""

    def __init__(self, features_in: int, features_out: int, *, rngs: nnx.Rngs):
        self.conv = conv(features_in, features_out, 1, kernel_init=kaiming_gain_1, rngs=rngs)
        self.bn = BatchNorm(features_out, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        return jax.nn.relu(self.bn(self.conv(x)))


class DeformKernel(nnx.Module):
    """The weights of a deformable convolution, without bias."""

    def __init__(self, features_in: int, features_out: int, size: int, *, rngs: nnx.Rngs):
        shape = (size, size, features_in, features_out)
        self.kernel = nnx.Param(kaiming_fan_out(rngs.params(), shape))

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        offsets: Float[Array, "b h w o"],
        modulation: Float[Array, "b h w m"],
    ) -> Float[Array, "b h w d"]:
        return deform_conv(x, offsets, modulation, self.kernel[...])


class DeformLayer(nnx.Module):
    """Modulated deformable convolution, batch normalisation, ReLU.

    One plain convolution of the same size predicts 3k² channels: 2k² offsets, (dy, dx) interleaved
    per tap, and k² modulations behind a sigmoid. It starts at zero, so the layer starts as a plain
    convolution at half strength.

    Source: the released `DeformLayer` (mass_decoder.py).
    """

    def __init__(self, features_in: int, features_out: int, size: int, *, rngs: nnx.Rngs):
        self.size = size
        self.dcn_offset = conv(
            features_in,
            3 * size * size,
            size,
            bias=True,
            kernel_init=jax.nn.initializers.zeros,
            rngs=rngs,
        )
        self.dcn_offset.bias[...] = jnp.zeros_like(self.dcn_offset.bias[...])
        self.dcn = DeformKernel(features_in, features_out, size, rngs=rngs)
        self.dcn_bn = BatchNorm(features_out, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        predicted = self.dcn_offset(x)
        offsets, modulation = jnp.split(predicted, [2 * self.size * self.size], -1)
        return jax.nn.relu(self.dcn_bn(self.dcn(x, offsets, jax.nn.sigmoid(modulation))))


class UpsamplingDeformLayer(DeformLayer):
    """A DeformLayer followed by a transposed convolution 4x4, stride 2, with norm and ReLU."""

    def __init__(self, features_in: int, features_out: int, size: int, *, rngs: nnx.Rngs):
        super().__init__(features_in, features_out, size, rngs=rngs)
        # torch's padding 1 leaves 4 - 1 - 1 = 2 rows of zeros around the dilated input.
        self.up_sample = nnx.ConvTranspose(
            features_out,
            features_out,
            (4, 4),
            strides=2,
            padding=((2, 2), (2, 2)),
            use_bias=False,
            kernel_init=torch_uniform,
            rngs=rngs,
        )
        self.up_bn = BatchNorm(features_out, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b 2*h 2*w d"]]:
        """Returns the map of the deformable layer and its upsampled successor."""
        x = super().__call__(x)
        return x, jax.nn.relu(self.up_bn(self.up_sample(x)))


class Attention(nnx.Module):
    """Multi-head attention with residual: query + out(attend(...)).

    Positions are added to the inputs of queries and keys, never to values or to the residual. The
    three input projections are one matrix, as in torch's `MultiheadAttention`.
    """

    def __init__(self, features: int, heads: int, *, kernel_init: nnx.Initializer, rngs: nnx.Rngs):
        if features % heads:
            raise ValueError(f"{features} features do not divide into {heads} heads")
        self.heads = heads
        self.in_proj = nnx.Linear(features, 3 * features, kernel_init=kernel_init, rngs=rngs)
        self.out_proj = nnx.Linear(features, features, kernel_init=kernel_init, rngs=rngs)

    def __call__(
        self,
        query: Float[Array, "*b q d"],
        memory: Float[Array, "*b n d"],
        *,
        query_positions: Float[Array, "*#b q d"],
        key_positions: Float[Array, "*#b n d"],
        closed: Bool[Array, "*#b q n"] | None = None,
    ) -> Float[Array, "*b q d"]:
        """`closed` marks the keys that a query must not see; it may not be all of them."""
        kernels = jnp.split(self.in_proj.kernel[...], 3, -1)
        biases = jnp.split(self.in_proj.bias[...], 3)
        inputs = (query + query_positions, memory + key_positions, memory)
        q, k, v = (
            (x @ kernel + bias.reshape((1,) * (x.ndim - 1) + (-1,))).reshape(
                *x.shape[:-1], self.heads, -1
            )
            for x, kernel, bias in zip(inputs, kernels, biases, strict=True)
        )
        logits = jnp.einsum("...qhd,...nhd->...hqn", q * q.shape[-1] ** -0.5, k)
        if closed is not None:
            logits = jnp.where(closed[..., None, :, :], -jnp.inf, logits)
        attended = jnp.einsum("...hqn,...nhd->...qhd", jax.nn.softmax(logits, -1), v)
        return query + self.out_proj(attended.reshape(query.shape))


class FFN(nnx.Module):
    """Two linear layers with residual: x + linear2(activation(linear1(x)))."""

    def __init__(
        self,
        features: int,
        hidden: int,
        activation,
        *,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.linear1 = nnx.Linear(features, hidden, kernel_init=kernel_init, rngs=rngs)
        self.linear2 = nnx.Linear(hidden, features, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, x: Float[Array, "*b n d"]) -> Float[Array, "*b n d"]:
        return x + self.linear2(self.activation(self.linear1(x)))
