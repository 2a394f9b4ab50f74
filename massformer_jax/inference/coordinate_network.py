"""From photographs of any size to labels or scores by a network that answers at coordinates.

It has two programs. One sees the photograph, squeezed to a square, and keeps its `Memory`; the
other answers for one bucket of coordinates, whose surroundings it gets. Neither depends on the size
of the photograph, so there is nothing to compile for another one.

On several devices the squares of several photographs are divided among them, and then the
coordinates of one photograph after the other.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped, UInt8

from massformer_jax.compilation import announce
from massformer_jax.data.coordinates import squeezed
from massformer_jax.inference.coordinates import BUCKET, Answer, highest, probabilities
from massformer_jax.inference.protocol import Protocol
from massformer_jax.inference.ways_to_ask import by_entropy, by_sefi, by_stride, every_pixel
from massformer_jax.models.build import compute_params
from massformer_jax.models.coordinate_decoder import Memory
from massformer_jax.models.massformer import normalize
from massformer_jax.ops.precision import computation, computing, widened
from massformer_jax.parallel import sharding

# A question of at most so many coordinates has a program of its own, as has each square of `grown`:
# a click would wait for the answers of a whole bucket, 0.7 s on two CPU cores.
FEW = 1 << 12

# What the first words of `Protocol.ask` stand for.
WAYS = {"every": every_pixel, "stride": by_stride, "sefi": by_sefi, "entropy": by_entropy}

# From weights and photographs of one size, on the host, to what is said of each of their pixels.
WholeAnswer = Callable[[Any, Any, np.ndarray, tuple[int, int]], np.ndarray]


def coordinate_labels(
    graph: nnx.GraphDef,
    protocol: Protocol,
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    bucket: int = BUCKET,
) -> WholeAnswer:
    """Returns labels(params, batch_stats, photographs, size), uint8 [b h w], on the host.

    Pixels that the protocol does not ask have the label of the nearest one above and to their left
    that it asks. `size` is the photographs' own.

    Args:
        graph: of a network with `memory` and `decoder`, for inference.
        protocol: which pixels are asked.
        dtype: that the network computes in, one of `massformer_jax.ops.precision.DTYPES`.
        mesh: over which photographs, and then coordinates, are split.
        bucket: coordinates that are asked at once; with a mesh, so many for all of its devices.

    Raises:
        InputError: there is no such dtype.
    """
    return _whole(graph, protocol, highest, dtype, mesh, bucket)


def coordinate_scores(
    graph: nnx.GraphDef,
    protocol: Protocol,
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    bucket: int = BUCKET,
) -> WholeAnswer:
    """Returns scores(params, batch_stats, photographs, size): probabilities, float32 [b h w k].

    Otherwise as `coordinate_labels`.
    """
    return _whole(graph, protocol, probabilities, dtype, mesh, bucket)


def _whole(
    graph: nnx.GraphDef,
    protocol: Protocol,
    finish: Callable[[np.ndarray], np.ndarray],
    dtype: str,
    mesh: Mesh | None,
    bucket: int,
) -> WholeAnswer:
    answers = answers_function(graph, dtype=dtype, mesh=mesh)
    way, settings = protocol.asking
    bucket = bucket_on(mesh, bucket)

    def whole(params, batch_stats, photographs, size):
        photographs = np.asarray(photographs)
        found = [
            WAYS[way](answer, photograph, **settings, finish=finish, bucket=bucket).answers
            for answer, photograph in answers(params, batch_stats, photographs)
        ]
        # Scores of one photograph are not copied: of 64 megapixels and seven classes 1.9 GB.
        return found[0][None] if len(found) == 1 else np.stack(found)

    return whole


def bucket_on(mesh: Mesh | None, bucket: int = BUCKET) -> int:
    """Returns the size of a bucket that is divided among the devices of a mesh."""
    devices = 1 if mesh is None else mesh.size
    return -(-bucket // devices) * devices


def answers_function(
    graph: nnx.GraphDef, *, dtype: str = "float32", mesh: Mesh | None = None
) -> Callable[[Any, Any, UInt8[np.ndarray, "b h w 3"]], Iterator[tuple[Answer, np.ndarray]]]:
    """Returns answers(params, batch_stats, photographs): yields what is to be asked, and of what.

    The first of each pair answers for coordinates of the second, one of the photographs.
    """
    computation(dtype)
    memory, logits = _programs(graph, dtype, mesh)

    def answers(params, batch_stats, photographs):
        side = nnx.merge(graph, params, batch_stats).side
        kept = memory(params, batch_stats, np.stack([squeezed(x, side) for x in photographs]))
        for i, photograph in enumerate(photographs):
            own = _of_one(kept, np.int32(i), mesh)
            yield functools.partial(logits, params, batch_stats, own), photograph

    return answers


# Labels, scores and questions of one network have the same programs, compiled once.
@functools.lru_cache(maxsize=8)
def _programs(graph: nnx.GraphDef, dtype: str, mesh: Mesh | None) -> tuple[Callable, Callable]:
    return memory_function(graph, dtype=dtype, mesh=mesh), logits_function(
        graph, dtype=dtype, mesh=mesh
    )


@functools.partial(jax.jit, static_argnums=2)
def _of_one(memory: Memory, index: Array | np.int32, mesh: Mesh | None) -> Memory:
    """Returns the memory of one photograph, on all devices."""
    own = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, index, 1), memory)
    if mesh is None:
        return own
    return jax.lax.with_sharding_constraint(own, sharding.replicated(mesh))


def memory_function(
    graph: nnx.GraphDef, *, dtype: str = "float32", mesh: Mesh | None = None
) -> Callable[[Any, Any, UInt8[Array | np.ndarray, "b h w 3"]], Memory]:
    """Returns memory(params, batch_stats, images), jitted, for squeezed photographs.

    Args:
        graph: of a network with `memory`, for inference.
        dtype: that the network computes in, one of `massformer_jax.ops.precision.DTYPES`.
        mesh: over which the photographs are split.
    """

    def memory(params, batch_stats, images):
        announce("the encoder for {}x{} pixels".format(*images.shape[1:3]))
        with computing(dtype) as arrays:
            network = nnx.merge(graph, compute_params(params, arrays), batch_stats)
            return network.memory(normalize(images, arrays))

    if mesh is None:
        return jax.jit(memory)
    weights, images = sharding.replicated(mesh), sharding.photographs_sharded(mesh)
    return jax.jit(memory, in_shardings=(weights, weights, images), out_shardings=images)


def logits_function(
    graph: nnx.GraphDef, *, dtype: str = "float32", mesh: Mesh | None = None
) -> Callable[
    [Any, Any, Memory, Shaped[np.ndarray, "p 8 8 3"], Float[np.ndarray, "p 2"]], Float[Array, "p k"]
]:
    """Returns logits(params, batch_stats, memory, patches, places), jitted, for one bucket.

    Logits are float32 (or wider) whatever the dtype is.

    Args:
        graph: of a network with `decoder`, for inference.
        dtype: as in `memory_function`.
        mesh: over which the coordinates are split.
    """

    def logits(params, batch_stats, memory, patches, places):
        announce(f"the decoder for {places.shape[0]} coordinates")
        with computing(dtype) as arrays:
            network = nnx.merge(graph, compute_params(params, arrays), batch_stats)
            seen = normalize(patches, arrays)[None]
            (answer,) = network.decoder(memory, seen, places[None])
            return answer.astype(widened(answer.dtype))

    if mesh is None:
        return jax.jit(logits)
    everywhere, split = sharding.replicated(mesh), sharding.batch_sharded(mesh)
    places = (everywhere, everywhere, everywhere, split, split)
    return jax.jit(logits, in_shardings=places, out_shardings=split)


class Asker:
    """A network with its weights, which is asked about one photograph after another.

    It keeps the memory of the last one, so that asking about that again needs no encoder.

    Args:
        graph: of the network, for inference.
        weights: (params, batch_stats).
        dtype: that it computes in.
        mesh: over which coordinates are split.
    """

    def __init__(self, graph: nnx.GraphDef, weights: tuple[Any, Any], *, dtype: str, mesh: Mesh):
        self._weights, self._mesh = weights, mesh
        self._memory, self._logits = _programs(graph, dtype, mesh)
        self._side = nnx.merge(graph, *weights).side
        self._last: tuple[np.ndarray, Memory] | None = None

    def about(self, photograph: UInt8[np.ndarray, "h w 3"]) -> Answer:
        """Returns what answers for coordinates of a photograph."""
        shown = squeezed(photograph, self._side)
        # The memory follows from the square alone.
        if self._last is None or not np.array_equal(shown, self._last[0]):
            self._last = shown, self._memory(*self._weights, shown[None])
        return functools.partial(self._logits, *self._weights, self._last[1])

    def bucket(self, count: int) -> int:
        """Returns how many coordinates are computed at once for a question of so many."""
        return bucket_on(self._mesh, FEW if count <= FEW else BUCKET)
