"""From photographs of any size to class scores, or labels, of the same size.

The network takes sides that are multiples of 256. Photographs are padded at the bottom and on the
right, and scores are cropped. Where the release works, nothing is padded and the answers are equal.

Everything at half the photograph's size and beyond is computed in strips of rows, down to the label
map; no map of all queries or classes exists as a whole unless scores are asked for. On a mesh whose
`spatial` axis is longer than one, every device computes its own rows of the image.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, UInt8

from massformer_jax.compilation import announce
from massformer_jax.inference.row_plan import RowPlan
from massformer_jax.models.build import compute_params
from massformer_jax.models.massformer import STRIDE, MaSSFormer, Proposals, normalize
from massformer_jax.ops.precision import computation, computing, widened
from massformer_jax.ops.resize import resize_bilinear
from massformer_jax.ops.rows import all_rows, in_strips
from massformer_jax.parallel import sharding, spatial

# Positions at 1/2 of a strip: 64 rows at 12 megapixels. Maps of 128 channels then take 67 MB.
STRIP = 1 << 17
# On a GPU each strip costs a few hundred launches: at most this many, and fewer on small cards.
GPU_STRIP = 1 << 19
# On a TPU what windows of strips share costs more: of 96 rows LSE samples 106, of 64 it does 74.
TPU_STRIP = 3 << 16
STRIP_BYTES = 1 << 12  # reckoned per position of a strip: maps of R50 in float32


def pad_to_stride(
    images: UInt8[Array | np.ndarray, "b h w 3"],
) -> UInt8[Array | np.ndarray, "b i j 3"]:
    """Repeats the last row and column up to multiples of 256 (measured: docs/padding.md).

    Images on the host stay there: otherwise a program would be compiled for each size.
    """
    _, h, w, _ = images.shape
    pad = np.pad if isinstance(images, np.ndarray) else jnp.pad
    return pad(images, ((0, 0), (0, -h % STRIDE), (0, -w % STRIDE), (0, 0)), mode="edge")


def strip_positions(device: jax.Device) -> int:
    """Returns how many positions at 1/2 a strip may have.

    On a GPU a strip takes a 16th of the memory.
    """
    if device.platform == "tpu":
        return TPU_STRIP
    if device.platform not in ("gpu", "cuda", "rocm"):
        return STRIP
    # A device that is compiled for and not there has no memory to ask for.
    with contextlib.suppress(Exception):
        total = device.memory_stats()["bytes_limit"]
        return min(GPU_STRIP, max(STRIP, total // 16 // STRIP_BYTES))
    return GPU_STRIP


def rows_of_strip(positions: int, width: int) -> int:
    """Returns the height, at 1/2, of strips of so many positions in an image of this width."""
    return max(16, positions // (width // 2) // 16 * 16)


def network_scores(
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
        dtype: that the network computes in, one of `massformer_jax.ops.precision.DTYPES`; scores
            are float32 (or wider) whatever it is.
        strip_rows: height of a strip at half the network's size; by default as many rows as hold
            `strip_positions`. It changes memory and speed, not the answer.
        mesh: that `images` lie on, `photographs_sharded`, if rows are to be split over its axis
            `spatial`.

    Raises:
        InputError: there is no such dtype.
    """
    return _answers_in_strips(graph, lambda scores: scores, dtype, strip_rows, mesh)


def network_labels(
    graph: nnx.GraphDef,
    *,
    dtype: str = "float32",
    strip_rows: int | None = None,
    mesh: Mesh | None = None,
) -> Callable[[Any, Any, UInt8[Array, "b h w 3"], tuple[int, int]], UInt8[Array, "b i j"]]:
    """Returns labels(params, batch_stats, images, size): the classes of the highest scores.

    Like `network_scores`, but scores exist for a strip at a time only.
    """
    return _answers_in_strips(graph, highest, dtype, strip_rows, mesh)


def highest(scores: Float[Array, "b h w k"]) -> UInt8[Array, "b h w"]:
    """Returns the classes of the highest scores."""
    return jnp.argmax(scores, -1).astype(jnp.uint8)


def network_of_any_size(
    graph: nnx.GraphDef,
    finish: Callable[[Array], Array],
    strips: int,
    *,
    dtype: str = "float32",
) -> Callable[[Any, Any, UInt8[Array, "b h w 3"]], Array]:
    """Returns answer(params, batch_stats, images), to be traced.

    Sides of `images` may be left open (`massformer_jax.ops.open_sizes`).

    Args:
        graph: of the model, for inference.
        finish: makes the answer of the scores, float32 [b, h, w, k].
        strips: how many strips of equal height, at half of the images', are computed in turn; a
            divisor of half their height.
        dtype: as in `network_scores`.

    Raises:
        InputError: there is no such dtype.
    """
    computation(dtype)

    def answer(params, batch_stats, images):
        with computing(dtype) as arrays:
            model = _model(graph, params, batch_stats, arrays)
            count = images.shape[1] // 2 // strips
            proposals = model.in_strips(normalize(images, arrays), count)

            def strip(rows):
                return finish(model.scores(proposals, rows))

            rows = all_rows(proposals.fused)
            return in_strips(strip, rows, count, after=proposals.mask_embeds)

    return answer


def _model(graph: nnx.GraphDef, params: Any, batch_stats: Any, arrays: str) -> MaSSFormer:
    return nnx.merge(graph, compute_params(params, arrays), batch_stats, copy=True)


def _answers_in_strips(
    graph: nnx.GraphDef,
    finish: Callable[[Array], Array],
    dtype: str,
    strip_rows: int | None,
    mesh: Mesh | None,
) -> Callable[[Any, Any, UInt8[Array, "b h w 3"], tuple[int, int]], Array]:
    """Returns what `network_scores` does, with scores replaced by what `finish` makes of them."""
    # A wrong name is said at once.
    computation(dtype)

    device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
    positions = strip_positions(device)

    def strip_of(width):
        return strip_rows or rows_of_strip(positions, width)

    def network(params, batch_stats, padded):
        _, h, w, _ = padded.shape
        announce(f"the network for up to {w}x{h} pixels")
        with computing(dtype) as arrays, spatial.over(mesh):
            model = _model(graph, params, batch_stats, arrays)
            return model.in_strips(normalize(padded, arrays), strip_of(w))

    def answers(params, batch_stats, proposals, shown, size):
        h, w = (2 * side for side in proposals.fused.shape[1:3])
        with computing(dtype) as arrays, spatial.over(mesh):
            model = _model(graph, params, batch_stats, arrays)
            plan = RowPlan(
                answered=size[0],
                shown=shown[0],
                padded=h,
                fused_strip=strip_of(w),
                parts=spatial.parts(),
            )
            columns = (shown[1], size[1])
            answer = functools.partial(_answer, model, finish, plan, columns)
            return _answer_by_parts(answer, plan, proposals)

    def at_once(params, batch_stats, padded):
        size = padded.shape[1:3]
        return answers(params, batch_stats, network(params, batch_stats, padded), size, size)

    run_network, run_answers, run_at_once = _jitted(network, answers, at_once, mesh)

    def run(params, batch_stats, images, size):
        shown, size = tuple(images.shape[1:3]), tuple(size)
        padded = pad_to_stride(images)
        if shown == size:
            # What lies beyond the photograph is answered, too: so its size is in no program.
            answer = run_at_once(params, batch_stats, padded)
            return answer if size == padded.shape[1:3] else _crop(answer, size)
        # Apart, since sizes of photographs are many. It costs memory: the map between the two is
        # kept from beginning to end, where one program uses its place for others before.
        proposals = run_network(params, batch_stats, padded)
        return run_answers(params, batch_stats, proposals, shown, size)

    return run


def _jitted(
    network: Callable, answers: Callable, at_once: Callable, mesh: Mesh | None
) -> tuple[Callable, Callable, Callable]:
    """Jits two programs for resized photographs and one for others, over the mesh's devices."""
    sizes = {"static_argnums": (3, 4)}
    if mesh is None:
        return jax.jit(network), jax.jit(answers, **sizes), jax.jit(at_once)
    weights, images = sharding.replicated(mesh), sharding.photographs_sharded(mesh)
    proposals = Proposals(images, images, NamedSharding(mesh, spatial.ROWS))

    def jitted(function, takes, gives, **static):
        places = (weights, weights, takes)
        return jax.jit(function, in_shardings=places, out_shardings=gives, **static)

    return (
        jitted(network, images, proposals),
        jitted(answers, proposals, images, **sizes),
        jitted(at_once, images, images),
    )


@functools.partial(jax.jit, static_argnums=1)
def _crop(x: Array, size: tuple[int, int]) -> Array:
    return x[:, : size[0], : size[1]]


def _answer_by_parts(
    answer: Callable[[Proposals, int | Int[Array, ""]], Array], plan: RowPlan, proposals: Proposals
) -> Array:
    """Returns all rows of the answer; each device computes its own.

    Args:
        answer: from proposals, with the rows of the fused map that a part holds, and its number to
            the rows of the answer that it computes.
        plan: which rows these are.
        proposals: with all rows of the fused map.
    """
    if plan.parts == 1:
        return answer(proposals, 0)

    def own(class_logits, mask_embeds, fused):
        part = spatial.index()
        held = Proposals(class_logits, mask_embeds, spatial.with_halo(fused, plan.halo))
        return answer(held, part)

    specs = (spatial.ALL_ROWS, spatial.ALL_ROWS, spatial.ROWS)
    computed = spatial.each_part(own, *proposals, in_specs=specs, out_specs=spatial.ROWS)
    computed = spatial.with_all_rows(computed)
    return jnp.concatenate([computed[:, rows] for rows in plan.kept], axis=1)


def _answer(
    model: MaSSFormer,
    finish: Callable[[Array], Array],
    plan: RowPlan,
    columns: tuple[int, int],
    proposals: Proposals,
    part: int | Int[Array, ""],
) -> Array:
    """Returns the rows of the answer that a part computes, strip by strip.

    Args:
        model: the network.
        finish: what is made of the scores of a strip, such as labels.
        plan: which rows are read and computed.
        columns: of the network's input without its padding, and of the answer.
        proposals: with the rows of the fused map that the part holds.
        part: which one it is.
    """

    def strip(rows):
        source = plan.source(rows.start, part, widened(proposals.fused.dtype))
        scores = model.scores(proposals, source.rows)[:, :, : columns[0]]
        scores = resize_bilinear(scores, (plan.span, columns[1]))
        upper = jnp.take(scores, source.upper, 1, mode="clip")
        if plan.shown == plan.answered:
            # Taps are the rows themselves.
            return finish(upper)
        lower = jnp.take(scores, source.lower, 1, mode="clip")
        share = source.share.reshape(1, -1, 1, 1)
        return finish(upper * (1 - share) + lower * share)

    return in_strips(strip, plan.rows(part), plan.strip, after=proposals.mask_embeds)
