"""How a photograph is shown to the network: whole or in windows, at one scale or several.

Sources: `tta_pipeline` of the released configs/_base_/datasets/mass13k.py, and of mmsegmentation
1.x `EncoderDecoder.slide_inference` and `SegTTAModel`. docs/protocols.md says what each costs.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from massformer_jax import inference, sharding
from massformer_jax.data.resampling import resize_image
from massformer_jax.data.sizes import resized_size
from massformer_jax.errors import InputError
from massformer_jax.inference import STRIP, network_size
from massformer_jax.ops.resize import bilinear_taps, resize_bilinear
from massformer_jax.ops.rows import Rows, in_strips

RELEASE_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the released test-time augmentation
BLENDS = ("average", "smooth")

# uint8 [b, h, w, 3] at network size, on the host or the devices; a tuple of them, one a scale, if
# there are several.
Shown = UInt8[Array | np.ndarray, "b _ _ 3"] | tuple[UInt8[Array | np.ndarray, "b _ _ 3"], ...]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How photographs are shown to the network; by default each as a whole, as it is.

    Attributes:
        resolution: size at which a photograph is shown, see `inference.network_size`.
        window: "HxW" (or "N" for "NxN"): the photograph, at that size, is cut into windows of so
            many rows and columns, seen one at a time; "" for none. Where a side of the photograph
            is shorter, so is the window.
        stride: "HxW" or "N", from one window to the next; "" for two thirds of the window, as is
            usual in mmsegmentation. The last window of a row or column is moved back inside.
        blend: of scores where windows overlap: "average" (as released), or "smooth": weights that
            fade to the window's borders, see `windows_along`.
        scales: factors of that size; the release has `RELEASE_SCALES`.
        flip: show each also mirrored left and right.

    Several views (scales, mirror images) of a photograph are put together as the release does:
    the mean of softmax(scores). The scores of a single view are those of the network.

    Raises:
        InputError: a value that is none of these, a stride that would leave gaps.
    """

    resolution: str = "native"
    window: str = ""
    stride: str = ""
    blend: str = "average"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self):
        network_size(1, 1, self.resolution)
        if self.blend not in BLENDS:
            raise InputError(f"blend is {self.blend!r}; use {' or '.join(BLENDS)}")
        if not self.window and (self.stride or self.blend != "average"):
            raise InputError("stride and blend are of windows; give window, too (HxW: 1024x1024)")
        if any(step > side for side, step in zip(*self.windows(), strict=True)):
            raise InputError(
                f"stride is {self.stride}, more than window, {self.window}: there would be gaps"
            )
        if not self.scales or any(not 0 < scale < math.inf for scale in self.scales):
            raise InputError(f"scales is {tuple(self.scales)}; use factors above 0: 0.5, 1, 1.5")

    @property
    def whole(self) -> bool:
        """Whether a photograph is seen once and at once."""
        return not self.window and not self.several_views

    @property
    def several_views(self) -> bool:
        """Whether softmax(scores) of several views are averaged."""
        return len(self.scales) > 1 or self.flip

    def windows(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of the windows, and from one to the next; (0, 0) without windows."""
        window = _sides(self.window, "window") if self.window else (0, 0)
        if self.stride:
            return window, _sides(self.stride, "stride")
        return window, tuple(-(-2 * side // 3) for side in window)


WHOLE = Protocol()


def _sides(text: str, name: str) -> tuple[int, int]:
    parts = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not parts:
        raise InputError(f"{name} is {text!r}; use rows x columns (1024x1024), or one for both")
    return int(parts[1]), int(parts[2] or parts[1])


def view_sizes(protocol: Protocol, height: int, width: int) -> list[tuple[int, int]]:
    """Network size (rows, columns) of a photograph at each scale."""
    h, w = network_size(height, width, protocol.resolution)
    sizes = []
    for scale in protocol.scales:
        # Rounded twice, as the released resizing does: the edges, then what fits between them.
        edges = sorted(max(1, int(side * scale + 0.5)) for side in (h, w))
        i, j = resized_size(h, w, long_edge=edges[1], short_edge=edges[0])
        sizes.append((max(1, i), max(1, j)))
    return sizes


def show(protocol: Protocol, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Shown:
    """Photographs of one size, RGB, as the protocol shows them.

    They are resized as bytes, by OpenCV, as in the release.
    """
    sizes = view_sizes(protocol, *images[0].shape[:2])
    views = tuple(np.stack([resize_image(image, size) for image in images]) for size in sizes)
    return views if len(views) > 1 else views[0]


def windows_along(
    length: int, window: int, stride: int, blend: str
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n s"]]:
    """First positions of the windows along a side, and weights of their positions.

    The weights of the windows that hold a position sum up to 1. Before that they are equal
    ("average"), or sin²(π (i + ½) / s), a raised cosine ("smooth"): a window counts least at its
    borders, where the network sees least of what is around, and joins without a step. Windows are
    a grid, so the weight of a pixel is the product of those of its row and its column.

    Args:
        length: of the side, in pixels.
        window: s, likewise; the whole side if that is shorter.
        stride: from one window to the next, at most `window`.
        blend: one of `BLENDS`.
    """
    window = min(window, length)
    count = -(-(length - window) // stride) + 1
    starts = np.minimum(np.arange(count) * stride, length - window)
    profile = np.ones(window)
    if blend == "smooth":
        profile = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + window] += profile
    weights = [profile / total[start : start + window] for start in starts]
    return starts, np.stack(weights).astype(np.float32)


def score_function(
    graph: nnx.GraphDef,
    protocol: Protocol,
    *,
    dtype: DTypeLike = "float32",
    mesh: Mesh | None = None,
) -> Callable[[Any, Any, Shown, tuple[int, int]], Float[Array, "b i j k"]]:
    """Returns scores(params, batch_stats, shown, size); not to be jitted, it runs jitted parts.

    `shown` is what `show` gives; `size` is the photograph's own. The network is compiled for each
    padded size, see `inference.score_function`, but for windows: these have one program for all
    photographs.

    Args:
        graph: of the model, for inference.
        protocol: how photographs are shown.
        dtype: that the network computes in; scores are float32 (or wider) whatever it is.
        mesh: over which photographs and their rows are split, see `inference.score_function`.
    """
    if protocol.window:
        slide = _slide_function(graph, protocol, dtype, mesh)

        def scores_of_view(params, batch_stats, images, size):
            return _resized(slide(params, batch_stats, images), size)
    else:
        scores_of_view = inference.score_function(graph, dtype=dtype, mesh=mesh)

    def mean_of_views(params, batch_stats, shown, size):
        views = shown if isinstance(shown, tuple) else (shown,)
        total = None
        for images in views:
            for mirrored in (False, True)[: 1 + protocol.flip]:
                view = images[:, :, ::-1] if mirrored else images
                scores = scores_of_view(params, batch_stats, view, size)
                if total is None:
                    total = _zeros(scores.shape, scores.dtype, scores)
                total = _add_probabilities(total, scores, mirrored)
        return total / (len(views) * (1 + protocol.flip))

    return mean_of_views if protocol.several_views else scores_of_view


def label_function(
    graph: nnx.GraphDef,
    protocol: Protocol,
    *,
    dtype: DTypeLike = "float32",
    mesh: Mesh | None = None,
) -> Callable[[Any, Any, Shown, tuple[int, int]], UInt8[Array, "b i j"]]:
    """Returns labels(params, batch_stats, shown, size): the classes of the highest scores.

    Like `score_function`; scores of all pixels exist where windows or views are put together.
    """
    if protocol.whole:
        return inference.label_function(graph, dtype=dtype, mesh=mesh)
    if protocol.several_views:
        scores = score_function(graph, protocol, dtype=dtype, mesh=mesh)
        return lambda *arguments: _highest(scores(*arguments))
    slide = _slide_function(graph, protocol, dtype, mesh)

    def labels(params, batch_stats, images, size):
        return _resized_labels(slide(params, batch_stats, images), size)

    return labels


def _slide_function(
    graph: nnx.GraphDef, protocol: Protocol, dtype: DTypeLike, mesh: Mesh | None
) -> Callable[[Any, Any, Shown], Float[Array, "b h w k"]]:
    """Returns scores(params, batch_stats, images) at network size, put together from windows."""
    # Windows have one size, so one program answers for them.
    network = inference.score_function(graph, dtype=dtype, mesh=mesh)
    network = jax.jit(network, static_argnums=3)
    places = None if mesh is None else sharding.photographs_sharded(mesh)

    def slide(params, batch_stats, images):
        sides = zip(images.shape[1:3], *protocol.windows(), strict=True)
        (rows, row_weights), (columns, column_weights) = (
            windows_along(*side, protocol.blend) for side in sides
        )
        size = row_weights.shape[1], column_weights.shape[1]
        images, total = jax.device_put(images, places), None
        for y, row_weight in zip(rows, row_weights, strict=True):
            for x, column_weight in zip(columns, column_weights, strict=True):
                scores = network(params, batch_stats, _cut(images, y, x, size), size)
                if total is None:
                    shape = (*images.shape[:3], scores.shape[-1])
                    total = _zeros(shape, scores.dtype, images)
                total = _add_window(total, scores, row_weight, column_weight, y, x)
        return total

    return slide


def _zeros(shape: tuple[int, ...], dtype: DTypeLike, like: Array) -> Array:
    """Where sums begin; its first axis lies over the devices as that of `like` does."""
    return jnp.zeros(shape, dtype, device=like.sharding)


@functools.partial(jax.jit, static_argnums=3)
def _cut(images: Array, y: ArrayLike, x: ArrayLike, size: tuple[int, int]) -> Array:
    b, _, _, c = images.shape
    return jax.lax.dynamic_slice(images, (0, y, x, 0), (b, *size, c))


# The sums are donated: 352 MB at 12 megapixels and seven classes, held once.
@functools.partial(jax.jit, donate_argnums=0)
def _add_window(total, scores, row_weight, column_weight, y, x):
    _, h, w, _ = scores.shape
    weight = row_weight.reshape(1, h, 1, 1) * column_weight.reshape(1, 1, w, 1)
    before = jax.lax.dynamic_slice(total, (0, y, x, 0), scores.shape)
    weighted = scores * weight.astype(scores.dtype)
    return jax.lax.dynamic_update_slice(total, before + weighted, (0, y, x, 0))


@functools.partial(jax.jit, donate_argnums=0, static_argnums=2)
def _add_probabilities(total, scores, mirrored):
    # Release: a softmax on top of scores that are sums of probabilities already
    # (protocols_test.py::test_views_equal_the_release).
    probabilities = jax.nn.softmax(scores, -1)
    return total + (_mirrored(probabilities) if mirrored else probabilities)


@jax.jit
def _mirrored(x: Array) -> Array:
    return jnp.flip(x, 2)


@jax.jit
def _highest(scores: Array) -> UInt8[Array, "b h w"]:
    return jnp.argmax(scores, -1).astype(jnp.uint8)


_resized = jax.jit(resize_bilinear, static_argnums=1)


@functools.partial(jax.jit, static_argnums=1)
def _resized_labels(
    scores: Float[Array, "b h w k"], size: tuple[int, int]
) -> UInt8[Array, "b i j"]:
    """The classes of the highest scores, resized; in strips, so that no resized map is stored."""
    low, high, weight = bilinear_taps(scores.shape[1], size[0])

    def labels(rows):
        def read(table):
            return jax.lax.dynamic_slice_in_dim(jnp.asarray(table), rows.start, rows.count)

        share = read(weight.astype(scores.dtype)).reshape(1, -1, 1, 1)
        upper, lower = (jnp.take(scores, read(table), 1) for table in (low, high))
        part = upper * (1 - share) + lower * share
        return _highest(resize_bilinear(part, (rows.count, size[1])))

    return in_strips(labels, Rows(0, size[0]), max(1, STRIP // size[1]), after=scores)
