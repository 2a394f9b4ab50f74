"""From photographs of any size to class scores, or labels, of the same size.

The network takes sides that are multiples of 256. Ours pads at the bottom and right and crops the
scores; where the release works, nothing is padded and the answers are equal.

Everything at half the photograph's size and beyond is computed in strips of rows, down to the label
map; no map of all queries or classes exists as a whole unless scores are asked for. On a mesh whose
`spatial` axis is longer than one, every device computes its own rows of the image.
"""

import contextlib
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, UInt8

from massformer_jax import sharding
from massformer_jax.compilation import announce
from massformer_jax.data.sizes import resized_size
from massformer_jax.errors import InputError
from massformer_jax.models.massformer import STRIDE, Masks, MaSSFormer, normalize
from massformer_jax.ops import split
from massformer_jax.ops.resize import bilinear_taps, resize_bilinear
from massformer_jax.ops.rows import Rows, in_strips
from massformer_jax.precision import computation, computing
from massformer_jax.train_state import compute_params

# Positions at 1/2 of a strip: 64 rows at 12 megapixels. Maps of 128 channels then take 67 MB.
STRIP = 1 << 17
# On a GPU each strip costs a few hundred launches: at most this many, and fewer on small cards.
GPU_STRIP = 1 << 19
STRIP_BYTES = 1 << 12  # that a position of a strip is reckoned with: maps of R50 in float32

RELEASE_LONG_EDGE, RELEASE_SHORT_EDGE = 4096, 3072


def network_size(height: int, width: int, resolution: str) -> tuple[int, int]:
    """The size at which an image is shown to the network, before padding.

    Args:
        height: of the photograph, in pixels.
        width: of the photograph.
        resolution: "native" (as it is), "release" (ratio kept, long edge up to 4096 and short edge
            up to 3072, the released evaluation; also enlarges), or "HxW" (ratio kept, as large as
            fits into H rows and W columns).

    Raises:
        InputError: `resolution` is none of these.
    """
    if resolution == "native":
        return height, width
    if resolution == "release":
        return resized_size(
            height, width, long_edge=RELEASE_LONG_EDGE, short_edge=RELEASE_SHORT_EDGE
        )
    parts = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", resolution)
    if not parts:
        raise InputError(f"resolution is {resolution!r}; use native, release or HxW (3072x4096)")
    factor = min(int(parts[1]) / height, int(parts[2]) / width)
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def pad_to_stride(
    images: UInt8[Array | np.ndarray, "b h w 3"],
) -> UInt8[Array | np.ndarray, "b i j 3"]:
    """Repeats the last row and column up to multiples of 256 (measured: docs/padding.md).

    What lies on the host stays there: a program for each size of a photograph would have to be
    compiled.
    """
    _, h, w, _ = images.shape
    pad = np.pad if isinstance(images, np.ndarray) else jnp.pad
    return pad(images, ((0, 0), (0, -h % STRIDE), (0, -w % STRIDE), (0, 0)), mode="edge")


def strip_positions(device: jax.Device) -> int:
    """Positions at 1/2 that a strip may have: on a GPU such that it takes a 16th of the memory."""
    if device.platform not in ("gpu", "cuda", "rocm"):
        return STRIP
    with contextlib.suppress(Exception):  # of a device that is compiled for and not there
        total = device.memory_stats()["bytes_limit"]
        return min(GPU_STRIP, max(STRIP, total // 16 // STRIP_BYTES))
    return GPU_STRIP


def score_function(
    graph: nnx.GraphDef,
    *,
    dtype: str = "float32",
    strip_rows: int | None = None,
    mesh: Mesh | None = None,
) -> Callable[[Any, Any, UInt8[Array, "b h w 3"], tuple[int, int]], Float[Array, "b i j k"]]:
    """Returns scores(params, batch_stats, images, size), which runs jitted parts.

    `images` are RGB in 0..255 at network size, on the host or the devices; `size` is the
    photograph's own; the scores are resized to it as the release does. Where both are the same,
    there is one program for each padded size. Where they differ, the network has one for each
    padded size, and the rest, which compiles fast, one for each pair of sizes. It may be jitted
    with `size` static: that makes one program for one size.

    Args:
        graph: of the model, for inference.
        dtype: that the network computes in, one of `massformer_jax.precision.DTYPES`; scores are
            float32 (or wider) whatever it is.
        strip_rows: height of a strip at half the network's size; by default as many rows as hold
            `strip_positions`. It changes memory and speed, not the answer.
        mesh: that `images` lie on, `photographs_sharded`, if rows are to be split over its axis
            `spatial`.

    Raises:
        InputError: there is no such dtype.
    """
    return _in_strips(graph, lambda scores: scores, dtype, strip_rows, mesh)


def label_function(
    graph: nnx.GraphDef,
    *,
    dtype: str = "float32",
    strip_rows: int | None = None,
    mesh: Mesh | None = None,
) -> Callable[[Any, Any, UInt8[Array, "b h w 3"], tuple[int, int]], UInt8[Array, "b i j"]]:
    """Returns labels(params, batch_stats, images, size): the classes of the highest scores.

    Like `score_function`, but scores exist for a strip at a time only.
    """

    def classes(scores):
        return jnp.argmax(scores, -1).astype(jnp.uint8)

    return _in_strips(graph, classes, dtype, strip_rows, mesh)


def _in_strips(graph, finish, dtype, strip_rows, mesh):
    computation(dtype)  # a wrong name is said at once

    def build(params, batch_stats, arrays):
        return nnx.merge(graph, compute_params(params, arrays), batch_stats, copy=True)

    device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
    positions = strip_positions(device)

    def strip_of(width):
        return strip_rows or max(16, positions // (width // 2) // 16 * 16)

    def network(params, batch_stats, padded):
        _, h, w, _ = padded.shape
        announce(f"the network for up to {w}x{h} pixels")
        with computing(dtype) as arrays, split.over(mesh):
            model = build(params, batch_stats, arrays)
            return model.in_strips(normalize(padded, arrays), strip_of(w))

    def answers(params, batch_stats, masks, shown, size):
        h, strip = shown[0], strip_of(2 * masks.fused.shape[2])
        with computing(dtype) as arrays, split.over(mesh):
            # As many rows of the photograph as come from about 2 · strip rows of the network.
            strip = min(max(1, 2 * strip * size[0] // h), size[0])
            model = build(params, batch_stats, arrays)
            answer = functools.partial(_answer, model, finish, shown, size, strip)
            if split.parts() == 1:
                return answer(masks, 0, np.zeros(1, np.int32), size[0])
            return _answer_by_parts(answer, masks, bilinear_taps(h, size[0])[0])

    def at_once(params, batch_stats, padded):
        size = padded.shape[1:3]
        return answers(params, batch_stats, network(params, batch_stats, padded), size, size)

    networks, answered, whole = _jitted(network, answers, at_once, mesh)

    def run(params, batch_stats, images, size):
        shown, size = tuple(images.shape[1:3]), tuple(size)
        padded = pad_to_stride(images)
        if shown == size:
            # What lies beyond the photograph is answered, too: so its size is in no program.
            answer = whole(params, batch_stats, padded)
            return answer if size == padded.shape[1:3] else _crop(answer, size)
        # Apart, since sizes of photographs are many. It costs memory: the map between the two is
        # kept from beginning to end, where one program uses its place for others before.
        return answered(params, batch_stats, networks(params, batch_stats, padded), shown, size)

    return run


def _jitted(
    network: Callable, answers: Callable, at_once: Callable, mesh: Mesh | None
) -> tuple[Callable, Callable, Callable]:
    """The two programs of a resized photograph and the one of others, over the mesh's devices."""
    sizes = {"static_argnums": (3, 4)}
    if mesh is None:
        return jax.jit(network), jax.jit(answers, **sizes), jax.jit(at_once)
    weights, images = sharding.replicated(mesh), sharding.photographs_sharded(mesh)
    masks = Masks(images, images, NamedSharding(mesh, split.ROWS))

    def jitted(function, takes, gives, **static):
        places = (weights, weights, takes)
        return jax.jit(function, in_shardings=places, out_shardings=gives, **static)

    return (
        jitted(network, images, masks),
        jitted(answers, masks, images, **sizes),
        jitted(at_once, images, images),
    )


@functools.partial(jax.jit, static_argnums=1)
def _crop(x: Array, size: tuple[int, int]) -> Array:
    return x[:, : size[0], : size[1]]


def _answer(model, finish, shown, size, strip, masks, part, starts, count, first=0):
    """`count` rows of the answer, from `starts[part]` on. `masks.fused` begins at row `first`."""
    strip = min(strip, count)
    resized = _resized_scores(model, masks, first, shown, size, starts, count, strip)
    rows = Rows(jnp.asarray(starts, jnp.int32)[part], count)
    return in_strips(lambda rows: finish(resized(rows)), rows, strip, after=masks.mask_embeds)


def _answer_by_parts(answer, masks: Masks, low: np.ndarray) -> Array:
    """Every device answers for the photograph's rows that begin in its own rows of the network.

    `low` is the network's row that each row of the photograph begins in. Devices compute equally
    many rows; what one computes beyond its own is cut off.
    """
    parts, halo = split.parts(), 2  # the row below, and what doubling it reads
    each = masks.fused.shape[1] // parts
    ends = np.searchsorted(low, 2 * each * np.arange(parts + 1))
    count = int(np.diff(ends).max())
    starts = np.minimum(ends[:-1], len(low) - count)

    def own(class_logits, mask_embeds, fused):
        part = split.index()
        own = Masks(class_logits, mask_embeds, split.with_halo(fused, halo))
        return answer(own, part, starts, count, part * each - halo)

    specs = (split.WHOLE, split.WHOLE, split.ROWS)
    answers = split.whole(split.each_part(own, *masks, in_specs=specs, out_specs=split.ROWS))
    begins = np.arange(parts) * count + ends[:-1] - starts
    lengths = np.diff(ends)
    return jnp.concatenate(
        [answers[:, i : i + n] for i, n in zip(begins, lengths, strict=True)], axis=1
    )


def _resized_scores(
    model: MaSSFormer,
    masks: Masks,
    begin: int | Int[Array, ""],
    shown: tuple[int, int],
    size: tuple[int, int],
    starts: np.ndarray,
    count: int,
    strip: int,
) -> Callable[[Rows], Float[Array, "b r j k"]]:
    """Returns scores(rows) of `strip` rows of the photograph, whose size is `size`.

    `shown` is the network size: what lies beyond it is padding and is cropped. `masks.fused` begins
    at row `begin`, at 1/2; strips cover `count` rows from one of `starts` on.
    """
    low, high, weight = bilinear_taps(shown[0], size[0])
    # Every strip reads the same number of the network's rows, from an even one on.
    within = np.minimum(np.arange(0, count, strip), count - strip)
    firsts = (starts[:, None] + within[None]).ravel()
    span = int((high[firsts + strip - 1] - low[firsts] // 2 * 2).max()) // 2 * 2 + 2
    available = 2 * masks.fused.shape[1]
    span = min(span, available)

    def scores(rows):
        first = jnp.asarray(low)[rows.start] // 2 * 2 - 2 * begin
        first = jnp.clip(first, 0, available - span)
        part = model.scores(masks, Rows(first // 2, span // 2))[:, :, : shown[1]]
        part = resize_bilinear(part, (span, size[1]))

        def read(table):
            return jax.lax.dynamic_slice_in_dim(jnp.asarray(table), rows.start, strip)

        def take(table):
            return jnp.take(part, read(table) - 2 * begin - first, 1, mode="clip")

        upper = take(low)
        if shown[0] == size[0]:
            return upper
        share = read(weight.astype(part.dtype)).reshape(1, -1, 1, 1)
        return upper * (1 - share) + take(high) * share

    return scores
