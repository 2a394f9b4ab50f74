"""Layers that several parts of the network share: convolutions and batch normalisation.

Layers compute in the dtype of their inputs and kernels, bfloat16 if those are, but normalise and
predict coordinates in float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from massformer_jax.ops.deform_conv import deform_conv
from massformer_jax.ops.points import widened
from massformer_jax.ops.rows import Rows, all_rows, take_rows

# Name of what training keeps for the backward pass: outputs of convolutions. Everything between
# them is computed again (see `massformer_jax.step`).
KEPT = "convolved"

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
        dtype = x.dtype
        x = checkpoint_name(x, KEPT).astype(widened(dtype))
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
        return (x * factor.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1)).astype(dtype)


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

    def __call__(
        self, x: Float[Array, "b h w c"], rows: Rows | None = None
    ) -> Float[Array, "b r w d"]:
        """All rows of the output, or some. At a border of `rows` inside the map the outermost
        `size // 2` rows are not what the whole map would give there."""
        rows = all_rows(x) if rows is None else rows
        # Coordinates in float32: in bfloat16 a sample 20 pixels away would be off by 1/16.
        near = take_rows(x, rows).astype(widened(x.dtype))
        predicted = checkpoint_name(self.dcn_offset(near), KEPT)
        offsets, modulation = jnp.split(predicted, [2 * self.size * self.size], -1)
        sampled = deform_conv(
            x, offsets, jax.nn.sigmoid(modulation), self.dcn.kernel[...], first_row=rows.start
        )
        return jax.nn.relu(self.dcn_bn(sampled))


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
