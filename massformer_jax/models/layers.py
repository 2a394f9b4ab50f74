"""Layers that several parts of the network share: convolutions and batch normalisation.

Layers compute in the dtype of their inputs and kernels, bfloat16 if those are, but normalise and
predict coordinates in float32.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from massformer_jax.models.recomputation import kept
from massformer_jax.ops.deform_conv import SampledMap, deform_conv, deform_conv_rows
from massformer_jax.ops.planes_conv import planes_conv
from massformer_jax.ops.precision import widened
from massformer_jax.ops.rows import Rows, all_rows
from massformer_jax.parallel import spatial

# torch's default for weights: uniform within ±1/sqrt(fan_in).
torch_uniform = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# torch's kaiming_normal_(a=1): the released ConvBNReLU.
kaiming_gain_1 = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
# torch's kaiming_normal_(mode="fan_out"): the encoder without ImageNet weights, and DCN kernels.
kaiming_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nnx.Module):
    """A convolution padded by size // 2 on every side. At stride 2 'SAME' would pad otherwise."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        size: int,
        *,
        stride: int = 1,
        bias: bool = False,
        kernel_init: nnx.Initializer = torch_uniform,
        rngs: nnx.Rngs,
    ):
        self.size, self.stride = size, stride
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, size, features_in, features_out)))
        bound = (features_in * size * size) ** -0.5
        uniform = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
        self.bias = nnx.Param(uniform(rngs.params(), (features_out,))) if bias else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        kernel = self.kernel[...]
        if self.size == 1:
            # A matrix product: its gradient is one too, which CPUs compute several times faster
            # than that of a convolution.
            if self.stride > 1:
                # The barrier keeps the slice out of the product's fusion: there it aborts XLA's
                # compiler for GPUs where x is used again (openxla/xla#47381).
                x = jax.lax.slice(x, (0,) * 4, x.shape, (1, self.stride, self.stride, 1))
                x = jax.lax.optimization_barrier(x)
            y = jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0])
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                [(self.size // 2, self.size // 2)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return y if self.bias is None else y + self.bias[...].reshape(1, 1, 1, -1)


class UpsamplingConv(nnx.Module):
    """torch's ConvTranspose2d(kernel 4, stride 2, padding 1), without bias: doubles the size.

    out[2i + a] reads x[i + a - 1] and x[i + a] with every other tap of the kernel: four plain
    convolutions of 2x2, one for each parity of row and column, instead of one of 4x4 on a map that
    is three quarters zeros.
    """

    def __init__(self, features_in: int, features_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(torch_uniform(rngs.params(), (4, 4, features_in, features_out)))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w d"]:
        kernel = self.kernel[...]
        b, h, w, _ = x.shape

        def phase(row, column):
            return jax.lax.conv_general_dilated(
                x,
                kernel[row::2, column::2],
                (1, 1),
                [(1 - row, row), (1 - column, column)],
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )

        rows = [jnp.stack([phase(row, i) for i in (0, 1)], 3) for row in (0, 1)]
        return jnp.stack(rows, 2).reshape(b, 2 * h, 2 * w, -1)


@jax.custom_vjp
def batch_normalize(
    x: Float[Array, "b h w c"], scale: Float[Array, " c"], bias: Float[Array, " c"]
) -> tuple[Float[Array, "b h w c"], Float[Array, " c"], Float[Array, " c"]]:
    """Normalises by the batch's own statistics; also returns mean and (biased) variance.

    Statistics are in float32 or wider and have no gradient of their own. Kept for the backward pass
    is `x` alone, in its dtype.
    """
    y, mean, var, _ = _batch_normalize(x, scale, bias)
    return y, mean, var


def _batch_normalize(x, scale, bias):
    wide = x.astype(widened(x.dtype))
    mean = wide.mean((0, 1, 2))
    var = jnp.square(wide - mean.reshape(1, 1, 1, -1)).mean((0, 1, 2))
    inverse = jax.lax.rsqrt(var + 1e-5)
    return _affine(x, scale * inverse, bias - mean * scale * inverse), mean, var, inverse


def _affine(x: Array, factor: Array, shift: Array) -> Array:
    wide = x.astype(widened(x.dtype))
    return (wide * factor.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1)).astype(x.dtype)


def _batch_normalize_forward(x, scale, bias):
    y, mean, var, inverse = _batch_normalize(x, scale, bias)
    return (y, mean, var), (x, scale, mean, inverse)


def _batch_normalize_backward(kept, gradients):
    x, scale, mean, inverse = kept
    gradient = gradients[0].astype(mean.dtype)
    n = x.size // x.shape[-1]
    normalized = _affine(x.astype(mean.dtype), inverse, -mean * inverse)
    to_bias = gradient.sum((0, 1, 2))
    to_scale = (gradient * normalized).sum((0, 1, 2))
    # Through mean and variance: what every value of a channel shares is taken out.
    shared = to_bias.reshape(1, 1, 1, -1) + normalized * to_scale.reshape(1, 1, 1, -1)
    to_x = (gradient - shared / n) * (scale * inverse).reshape(1, 1, 1, -1)
    return to_x.astype(x.dtype), to_scale, to_bias


batch_normalize.defvjp(_batch_normalize_forward, _batch_normalize_backward)


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
        """Takes what `nnx.view` is called with."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalises by the running statistics, or in training mode by the batch's own.

        Raises:
            ValueError: in training mode there is a single value per channel.
        """
        if self.use_running_average:
            factor = self.scale[...] * jax.lax.rsqrt(self.var[...] + 1e-5)
            return _affine(x, factor, self.bias[...] - self.mean[...] * factor)
        n = x.size // x.shape[-1]
        if n == 1:
            raise ValueError(
                "batch normalisation over a single value: a global batch of 1 cannot train, "
                "because the global context is normalised over the batch alone; use 2 or more"
            )
        y, mean, var = batch_normalize(x, self.scale[...], self.bias[...])
        self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean
        self.var[...] = 0.9 * self.var[...] + 0.1 * (n / (n - 1)) * var
        return y


class ConvBNReLU(nnx.Module):
    """A 1x1 convolution, batch normalisation, ReLU."""

    def __init__(self, features_in: int, features_out: int, *, rngs: nnx.Rngs):
        self.conv = Conv(features_in, features_out, 1, kernel_init=kaiming_gain_1, rngs=rngs)
        self.bn = BatchNorm(features_out, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        return jax.nn.relu(self.bn(self.conv(x)))


class DeformKernel(nnx.Module):
    """The weights of a deformable convolution, without bias."""

    def __init__(self, features_in: int, features_out: int, size: int, *, rngs: nnx.Rngs):
        shape = (size, size, features_in, features_out)
        self.kernel = nnx.Param(kaiming_fan_out(rngs.params(), shape))


class DeformLayer(nnx.Module):
    """A modulated deformable convolution, batch normalisation, ReLU.

    One plain convolution of the same size predicts 3k² channels: 2k² offsets, (dy, dx) interleaved
    per tap, and k² modulations behind a sigmoid. It starts at zero, so the layer starts as a plain
    convolution at half strength.

    Source: the released `DeformLayer` (mass_decoder.py).
    """

    def __init__(self, features_in: int, features_out: int, size: int, *, rngs: nnx.Rngs):
        self.size = size
        self.dcn_offset = Conv(
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

    def __call__(self, x: SampledMap, rows: Rows | None = None) -> Float[Array, "b r w d"]:
        """Returns all rows of the output, or some.

        At a border of `rows` inside the map the outermost `size // 2` rows are not what the whole
        map would give there.

        Args:
            x: the map; if it is prepared, there is no gradient.
            rows: which rows; by default all.
        """
        rows = all_rows(x.pixels) if rows is None else rows
        # A map may have more channels than the layer, of zeros.
        margin = [(0, 0)] * 2 + [(0, x.pixels.shape[-1] - self.dcn.kernel[...].shape[2]), (0, 0)]
        predictor, kernel = (
            jnp.pad(kernel[...], margin) for kernel in (self.dcn_offset.kernel, self.dcn.kernel)
        )
        # Coordinates in float32: in bfloat16 a sample 20 pixels away would be off by 1/16.
        predicted = planes_conv(x.pixels, predictor, self.dcn_offset.bias[...], rows)
        offsets, modulation = jnp.split(predicted, [2 * self.size * self.size], 1)
        inputs = offsets, jax.nn.sigmoid(modulation), kernel
        if x.packed is not None:
            sampled = deform_conv_rows(x, *inputs, first_row=rows.start)
        elif spatial.parts() == 1:
            sampled = deform_conv(x.pixels, *inputs, first_row=rows.start, parts=x.begins)
        else:
            sampled = _deform_conv_by_rows(x.pixels, *inputs)
        return jax.nn.relu(self.dcn_bn(kept(sampled)))


def _deform_conv_by_rows(x: Array, offsets: Array, modulation: Array, kernel: Array) -> Array:
    """Does what `deform_conv` does; each device computes its rows and samples from all rows."""
    height, parts = x.shape[1], spatial.parts()

    def own(*inputs):
        return deform_conv(*inputs, first_row=spatial.own_rows(height, parts).start)

    return spatial.each_part(
        own,
        *(x, offsets, modulation, kernel),
        in_specs=(spatial.ALL_ROWS, spatial.PLANES, spatial.PLANES, PartitionSpec()),
        out_specs=spatial.ROWS,
    )


class UpsamplingDeformLayer(DeformLayer):
    """A DeformLayer followed by a transposed convolution 4x4, stride 2, with norm and ReLU."""

    def __init__(self, features_in: int, features_out: int, size: int, *, rngs: nnx.Rngs):
        super().__init__(features_in, features_out, size, rngs=rngs)
        self.up_sample = UpsamplingConv(features_out, features_out, rngs=rngs)
        self.up_bn = BatchNorm(features_out, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b 2*h 2*w d"]]:
        """Returns the map of the deformable layer and its upsampled successor."""
        x = super().__call__(SampledMap((x,)))
        return x, jax.nn.relu(self.up_bn(self.up_sample(x)))
