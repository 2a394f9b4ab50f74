"""Shows photographs to the network: in one piece or in windows, at one scale or several.

Sources: `tta_pipeline` of the released configs/_base_/datasets/mass13k.py, and of mmsegmentation
1.x `EncoderDecoder.slide_inference` and `SegTTAModel`. docs/protocols.md says what each costs.
`protocol` has the settings. Networks that answer at coordinates have no views; for them the
functions here are those of `coordinate_network`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, UInt8

from massformer_jax.data.resampling import resize_image
from massformer_jax.inference import network
from massformer_jax.inference.coordinate_network import coordinate_labels, coordinate_scores
from massformer_jax.inference.network import STRIP
from massformer_jax.inference.protocol import Protocol, check_protocol, view_sizes, windows_along
from massformer_jax.models.build import answers_at_coordinates
from massformer_jax.ops.resize import bilinear_taps, resize_bilinear
from massformer_jax.ops.rows import Rows, in_strips
from massformer_jax.parallel import sharding

# uint8 [b, h, w, 3] at network size, on the host or the devices; a tuple of them, one per scale, if
# there are several.
Shown = UInt8[Array | np.ndarray, "b _ _ 3"] | tuple[UInt8[Array | np.ndarray, "b _ _ 3"], ...]


def show(protocol: Protocol, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Shown:
    """Returns photographs of one size, RGB, as the protocol shows them.

    They are resized as bytes, by OpenCV, as in the release.
    """
    sizes = view_sizes(protocol, *images[0].shape[:2])
    views = tuple(np.stack([resize_image(image, size) for image in images]) for size in sizes)
    return views if len(views) > 1 else views[0]


def score_function(
    graph: nnx.GraphDef,
    protocol: Protocol,
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
) -> Callable[[Any, Any, Shown, tuple[int, int]], Float[Array, "b i j k"]]:
    """Returns scores(params, batch_stats, shown, size); not to be jitted, it runs jitted parts.

    `shown` is what `show` gives; `size` is the photograph's own. The network is compiled for each
    padded size, see `network.network_scores`, but for windows: these have one program for all
    photographs.

    Args:
        graph: of the model, for inference.
        protocol: how photographs are shown.
        dtype: that the network computes in, one of `massformer_jax.ops.precision.DTYPES`; scores
            are float32 (or wider) whatever it is.
        mesh: over which photographs and their rows are split, see `network.network_scores`.

    Raises:
        InputError: the network has nothing of what the protocol asks for; there is no such dtype.
    """
    if _at_coordinates(graph, protocol):
        return coordinate_scores(graph, protocol, dtype=dtype, mesh=mesh)
    if protocol.window:
        slide = _slide_function(graph, protocol, dtype, mesh)

        def scores_of_view(params, batch_stats, images, size):
            return _resized(slide(params, batch_stats, images), size)
    else:
        scores_of_view = network.network_scores(graph, dtype=dtype, mesh=mesh)

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
    dtype: str = "float32",
    mesh: Mesh | None = None,
) -> Callable[[Any, Any, Shown, tuple[int, int]], UInt8[Array, "b i j"]]:
    """Returns labels(params, batch_stats, shown, size): the classes of the highest scores.

    Like `score_function`; scores of all pixels exist where windows or views are put together.
    """
    if _at_coordinates(graph, protocol):
        return coordinate_labels(graph, protocol, dtype=dtype, mesh=mesh)
    if protocol.seen_once:
        return network.network_labels(graph, dtype=dtype, mesh=mesh)
    if protocol.several_views:
        scores = score_function(graph, protocol, dtype=dtype, mesh=mesh)
        return lambda *arguments: _highest(scores(*arguments))
    slide = _slide_function(graph, protocol, dtype, mesh)

    def labels(params, batch_stats, images, size):
        return _resized_labels(slide(params, batch_stats, images), size)

    return labels


def _at_coordinates(graph: nnx.GraphDef, protocol: Protocol) -> bool:
    """Tells whether a network answers at coordinates, and checks the protocol for its kind."""
    at_coordinates = answers_at_coordinates(graph)
    check_protocol(protocol, at_coordinates=at_coordinates)
    return at_coordinates


def _slide_function(
    graph: nnx.GraphDef, protocol: Protocol, dtype: str, mesh: Mesh | None
) -> Callable[[Any, Any, Shown], Float[Array, "b h w k"]]:
    """Returns scores(params, batch_stats, images) at network size, put together from windows."""
    # Windows have one size, so one program answers for them.
    see = jax.jit(network.network_scores(graph, dtype=dtype, mesh=mesh), static_argnums=3)
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
                scores = see(params, batch_stats, _cut(images, y, x, size), size)
                if total is None:
                    shape = (*images.shape[:3], scores.shape[-1])
                    total = _zeros(shape, scores.dtype, images)
                total = _add_window(total, scores, row_weight, column_weight, y, x)
        return total

    return slide


def _zeros(shape: tuple[int, ...], dtype: DTypeLike, like: Array) -> Array:
    """Returns zeros to begin a sum with; their first axis is sharded as that of `like` is."""
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
    # (tests/inference/views_test.py::test_views_equal_the_release).
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
    """Returns the classes of the highest resized scores.

    They are computed in strips, so that no resized map is stored.
    """
    low, high, weight = bilinear_taps(scores.shape[1], size[0])

    def labels(rows):
        def read(table):
            return jax.lax.dynamic_slice_in_dim(jnp.asarray(table), rows.start, rows.count)

        share = read(weight.astype(scores.dtype)).reshape(1, -1, 1, 1)
        upper, lower = (jnp.take(scores, read(table), 1) for table in (low, high))
        part = upper * (1 - share) + lower * share
        return _highest(resize_bilinear(part, (rows.count, size[1])))

    return in_strips(labels, Rows(0, size[0]), max(1, STRIP // size[1]), after=scores)
