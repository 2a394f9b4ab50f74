"""Modulated deformable convolution (DCNv2) without a column buffer, forward and backward.

Every framework gathers k² shifted copies of the input (im2col) and multiplies once. Here one tap of
one chunk of positions is sampled at a time, so that what is gathered stays in the cache:

    out[p] = Σ_taps m_t(p) · sample(x, p + t + Δ_t(p)) · W_t

Where the layer narrows, W_t goes first, sampling being linear in the channels: the output channels
are gathered then. The backward pass samples again instead of keeping samples. docs/deform_conv.md
has the measurements.

NVIDIA GPUs from Ampere on run it as a kernel of its own, `deform_conv_kernels`, and TPUs in the
form of `deform_conv_packed`. What is here runs everywhere else, and is what both are compared with.
"""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import platform_dependent
from jaxtyping import Array, Float, Int, Shaped

from massformer_jax.ops import deform_conv_kernels as kernels
from massformer_jax.ops import deform_conv_packed as packing
from massformer_jax.ops import kernel_choice, named_calls
from massformer_jax.ops.by_image import by_image
from massformer_jax.ops.open_sizes import known
from massformer_jax.ops.precision import widened
from massformer_jax.ops.sampling import bilinear, product, starts, taps, to_planes, whole_and_rest

# Positions sampled at once, in each image: what fits into a core's cache, and on a GPU enough to
# keep all of it busy between two launches.
CHUNK = 2048
GPU_CHUNK = 65536


def deform_conv(
    x: Float[Array, "b h w c"],
    offsets: Float[Array, "b offsets r w"],
    modulation: Float[Array, "b taps r w"],
    kernel: Float[Array, "k k c o"],
    *,
    first_row: int | Int[Array, ""] = 0,
    parts: tuple[int, ...] = (),
) -> Float[Array, "b r w o"]:
    """Convolves with stride 1, dilation 1, padding k // 2, no bias, one deformable group.

    Computes the `r` rows of the output that start at `first_row`: all of them when `r` is `h`, and
    in strips what the whole would give. Rows before the first and after the last row of the map
    are computed as if the map went on, in zeros.

    Accumulates in float32 (or wider) and rounds once, to the dtype of `x`; so do the gradients.
    Reverse mode only; at whole numbers the gradient of the offsets is that from above.

    Args:
        x: the input.
        offsets: in pixels, planes interleaved (dy, dx) per tap, taps in row-major order; float32
            also for a bfloat16 input, which would move a sample 20 pixels away by 1/16. Samples
            beyond the border fade to zero within one pixel, as if the map were surrounded by zeros.
        modulation: the factor of each tap, in the dtype of `offsets`.
        kernel: the weights, in the dtype of `x`.
        first_row: the row of the map, also traced, that the first row of the output lies at.
        parts: the channels of `x` at which another part of it begins. The compiler for TPUs leaves
            out the gradient of a part that nobody needs, such as that of the image.

    Source: Zhu et al., "Deformable ConvNets v2"; mmcv's `ModulatedDeformConv2d`.
    """
    convolve = named_calls.named("deform_conv", partial(_deform_conv, parts))
    return convolve(x, offsets, modulation, kernel, jnp.asarray(first_row, jnp.int32))


class SampledMap(NamedTuple):
    """A map that deformable convolutions sample from."""

    parts: tuple[Float[Array, "b h w _"], ...]  # whose channels lie behind each other
    # The form that TPUs read, if it was prepared; on other devices then zeros that nobody reads.
    packed: Shaped[Array, "b n words"] | None = None
    ready: Shaped[Array, ""] | None = None  # some number that is there when all of it is

    @property
    def pixels(self) -> Float[Array, "b h w c"]:
        """The map, joined anew for each reader, which costs nothing.

        So the gradients of several readers are added part by part. If they were added to one whole
        gradient, the compiler would compute all of it even where nobody needs that of a part.
        """
        return self.parts[0] if len(self.parts) == 1 else jnp.concatenate(self.parts, -1)

    @property
    def begins(self) -> tuple[int, ...]:
        """The channels at which another part begins."""
        return tuple(itertools.accumulate(part.shape[-1] for part in self.parts[:-1]))


def prepared(x: Float[Array, "b h w c"]) -> SampledMap:
    """Prepares a map that is sampled from strip by strip: once, and not for each strip."""
    if not known(x.shape) or named_calls.are_kept():
        return SampledMap((x,), ready=x[0, 0, 0, 0])
    shape = jax.eval_shape(_packed, x)
    packed = platform_dependent(
        x, tpu=_packed, default=lambda _: jnp.zeros(shape.shape, shape.dtype)
    )
    ready = platform_dependent(
        x, packed, tpu=lambda _, p: p[0, 0, 0].astype(x.dtype), default=lambda x, _: x[0, 0, 0, 0]
    )
    return SampledMap((x,), packed, ready)


def deform_conv_rows(
    x: SampledMap,
    offsets: Float[Array, "b offsets r w"],
    modulation: Float[Array, "b taps r w"],
    kernel: Float[Array, "k k c o"],
    *,
    first_row: int | Int[Array, ""],
) -> Float[Array, "b r w o"]:
    """Does what `deform_conv` does, for inference: it has no gradient."""
    inputs = offsets, modulation, kernel, jnp.asarray(first_row, jnp.int32)

    def on_tpu(x, *inputs):
        return _packed_forward(x.packed, x.pixels.shape[1:3], *inputs)

    def pixels_of(function):
        return lambda x, *inputs: function(x.pixels, *inputs)

    forms = _forms(_forward, _kernel_forward, x.pixels)
    forms = {platform: pixels_of(function) for platform, function in forms.items()}
    return platform_dependent(x, *inputs, **forms, tpu=on_tpu)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _deform_conv(_, *inputs):
    def on_tpu(x, *inputs):
        return _packed_forward(_packed(x), x.shape[1:3], *inputs)

    forms = _forms(_forward, _kernel_forward, inputs[0])
    if known(inputs[0].shape):
        forms["tpu"] = on_tpu
    return platform_dependent(*inputs, **forms)


def _vjp_forward(parts, *inputs):
    return _deform_conv(parts, *inputs), inputs


def _vjp_backward(parts, inputs, gradient):
    def in_parts(function):
        def divided(*arguments):
            to_x, *others = function(*arguments)
            return jnp.split(to_x, parts, -1), *others

        return divided

    forms = _forms(_backward, _kernel_backward, inputs[0])
    forms = {platform: in_parts(function) for platform, function in forms.items()}
    on_tpu = partial(_packed_backward, parts=parts)
    to_x, *gradients, to_kernel = platform_dependent(*inputs, gradient, **forms, tpu=on_tpu)
    # The parts are joined outside of all loops. Inside of one over the images the compiler would
    # not see that nobody takes a part out again.
    to_x = jnp.concatenate(to_x, -1)
    # One sum over the images at the end, so that devices that share a batch talk once.
    return to_x, *gradients, to_kernel.sum(0).astype(inputs[3].dtype), None  # first_row


_deform_conv.defvjp(_vjp_forward, _vjp_backward)


def _forms(function, kernel, x):
    """Returns what runs on each platform but TPUs."""
    on_gpu = partial(function, chunk=GPU_CHUNK)
    return {
        "cuda": kernel if kernel_choice.usable(x) else on_gpu,
        "rocm": on_gpu,
        "default": partial(function, chunk=CHUNK),
    }


def _kernel_forward(*inputs):
    (out,) = by_image(lambda *a: (kernels.forward(*a),), _BATCHED)(*inputs)
    return out


def _kernel_backward(*inputs):
    return tuple(by_image(lambda *a: kernels.backward(*a), (*_BATCHED, True))(*inputs))


_BATCHED = (True, True, True, False, False)  # x, offsets, modulation; kernel and first row


def _packed(x):
    (packed,) = by_image(lambda x: (lax.map(packing.pack, x),), (True,))(x)
    return packed


def _packed_forward(packed, size, offsets, modulation, kernel, first_row):
    def images(packed, offsets, modulation, kernel, first_row):
        def image(inputs):
            return packing.forward(inputs[0], size, *inputs[1:], kernel, first_row)

        return (lax.map(image, (packed, offsets, modulation)),)

    inputs = packed, offsets, modulation, kernel, first_row
    (out,) = by_image(images, _BATCHED)(*inputs)
    return out


def _packed_backward(*inputs, parts):
    def images(x, offsets, modulation, kernel, first_row, gradient):
        def image(inputs):
            x, offsets, modulation, gradient = inputs
            packed, size = packing.pack(x), x.shape[:2]
            inputs = offsets, modulation, kernel, first_row, gradient
            return packing.backward(packed, size, *inputs, parts=parts)

        return lax.map(image, (x, offsets, modulation, gradient))

    return tuple(by_image(images, (*_BATCHED, True))(*inputs))


def _forward(x, offsets, modulation, kernel, first_row, *, chunk):
    b, h, w, c = x.shape
    r, o = offsets.shape[2], kernel.shape[-1]
    # Projecting first multiplies h rows and gathers o channels; sampling first, r rows and c
    # channels. The whole map is projected for every tap, so then all positions are one chunk.
    narrows = 2 * h * o <= r * c
    size = r * w if narrows else _at_once(chunk, r, w)
    pixels = x.reshape(b, h * w, c)

    def sample(values, corners):
        weighted = zip(corners.indices, corners.factors, strict=True)
        return sum(_take(values, i).astype(f.dtype) * f[..., None] for i, f in weighted)

    def one_chunk(_, inputs):
        start, offsets, modulation = inputs
        position = first_row * w + start + jnp.arange(size, dtype=jnp.int32)

        def tap(total, inputs):
            kernel, tap_y, tap_x, dy, dx, factor = inputs
            corners = _corners(position, tap_y, tap_x, dy, dx, factor, (h, w), total.dtype)
            if narrows:
                projected = product("bnc,co->bno", pixels, kernel).astype(x.dtype)
                return total + sample(projected, corners), None
            sampled = sample(pixels, corners).astype(x.dtype)
            return total + product("bnc,co->bno", sampled, kernel), None

        total = jnp.zeros((b, size, o), widened(x.dtype))
        planes = offsets[0::2], offsets[1::2], modulation
        total, _ = lax.scan(tap, total, (*taps(kernel), *planes))
        return None, total.astype(x.dtype)

    inputs = starts(r * w, size), _chunked(offsets, size), _chunked(modulation, size)
    _, out = lax.scan(one_chunk, None, inputs)
    return jnp.moveaxis(out, 0, 1).reshape(b, -1, o)[:, : r * w].reshape(b, r, w, o)


def _backward(x, offsets, modulation, kernel, first_row, gradient, *, chunk):
    """Returns the gradients of x, offsets, modulation, and of the kernel for each image."""
    b, h, w, c = x.shape
    r, k, o = offsets.shape[2], kernel.shape[0], kernel.shape[-1]
    size = min(chunk, r * w)
    pixels = x.reshape(b, h * w, c)
    wide = widened(x.dtype)

    def one_chunk(totals, inputs):
        to_pixels, to_kernel = totals
        start, offsets, modulation, gradient = inputs
        gradient = jnp.moveaxis(gradient, 0, -1)
        position = first_row * w + start + jnp.arange(size, dtype=jnp.int32)

        def tap(to_pixels, inputs):
            kernel, tap_y, tap_x, to_kernel, dy, dx, factor = inputs
            corners = _corners(position, tap_y, tap_x, dy, dx, factor, (h, w), wide)
            to_sample = product("bno,co->bnc", gradient, kernel)
            values = [_take(pixels, i).astype(wide) for i in corners.indices]
            sampled = sum(v * f[..., None] for v, f in zip(values, corners.factors, strict=True))
            to_kernel += product("bnc,bno->bco", sampled.astype(x.dtype), gradient)
            for i, f in zip(corners.indices, corners.factors, strict=True):
                to_pixels = _add(to_pixels, i, to_sample * f[..., None])
            # As matrix products: a plain sum over the channels is several times slower on a CPU.
            to_factors = [
                jnp.where(inside, product("bnc,bnc->bn", v, to_sample), 0).astype(dy.dtype)
                for inside, v in zip(corners.inside, values, strict=True)
            ]
            return to_pixels, (
                to_kernel,
                *to_planes(to_factors, corners.down, corners.right, factor),
            )

        planes = offsets[0::2], offsets[1::2], modulation
        to_pixels, (to_kernel, to_dy, to_dx, to_modulation) = lax.scan(
            tap, to_pixels, (*taps(kernel), to_kernel, *planes)
        )
        to_offsets = jnp.stack([to_dy, to_dx], 1).reshape(offsets.shape)
        return (to_pixels, to_kernel), (to_offsets, to_modulation)

    zeros = jnp.zeros(pixels.shape, wide), jnp.zeros((k * k, b, c, o), wide)
    planes = (_chunked(a, size) for a in (offsets, modulation, jnp.moveaxis(gradient, -1, 1)))
    (to_pixels, to_kernel), (to_offsets, to_modulation) = lax.scan(
        one_chunk, zeros, (starts(r * w, size), *planes)
    )
    return (
        to_pixels.reshape(x.shape).astype(x.dtype),
        _unchunked(to_offsets, offsets.shape),
        _unchunked(to_modulation, modulation.shape),
        jnp.moveaxis(to_kernel, 1, 0).reshape(b, *kernel.shape),
    )


class _Corners(NamedTuple):
    """The four pixels around each sample, row by row; all [b n], the lists of four."""

    indices: list[Array]  # into the pixels; clipped to the map
    inside: list[Array]
    factors: list[Array]  # bilinear weight times modulation, zero outside the map
    down: Array  # how far the sample lies below the upper and
    right: Array  # to the right of the left corners, 0 to 1


def _corners(position, tap_y, tap_x, dy, dx, factor, size, dtype) -> _Corners:
    h, w = size
    top, down = whole_and_rest((position // w + tap_y)[None], dy)
    left, right = whole_and_rest((position % w + tap_x)[None], dx)
    around = [(row, column) for row in (top, top + 1) for column in (left, left + 1)]
    inside = [(y >= 0) & (y < h) & (x >= 0) & (x < w) for y, x in around]
    indices = [jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1) for y, x in around]
    weights = bilinear(down, right)
    factors = [
        jnp.where(i, weight * factor, 0).astype(dtype)
        for i, weight in zip(inside, weights, strict=True)
    ]
    # Computed once per sample, not again for each of its channels inside the gather's loop.
    return _Corners(*lax.optimization_barrier((indices, inside, factors)), down, right)


def _at_once(chunk, r, w):
    """Returns how many positions of `r` rows are sampled at once."""
    if known((r, w)):
        return min(chunk, r * w)
    # Rows of which nobody knows the length are taken by eights, if that is how many there are.
    return next(n for n in (8, 4, 2, 1) if r % n == 0) * w


def _chunked(a, size):
    """Cuts [b p r w] into planes [chunks p b size]. The last chunk is filled up with zeros."""
    b, p, r, w = a.shape
    a = jnp.pad(a.reshape(b, p, r * w), ((0, 0), (0, 0), (0, -(r * w) % size)))
    return a.reshape(b, p, -1, size).transpose(2, 1, 0, 3)


def _unchunked(planes, shape):
    """Undoes `_chunked`: [chunks p b size] becomes [b p r w]."""
    b, p, r, w = shape
    return planes.transpose(2, 1, 0, 3).reshape(b, p, -1)[..., : r * w].reshape(shape)


# Batched, not flattened over the images: a batch-sharded map then stays where it is.
_take = jax.vmap(lambda values, i: values.at[i].get(mode="promise_in_bounds"))
_add = jax.vmap(lambda values, i, update: values.at[i].add(update, mode="promise_in_bounds"))
