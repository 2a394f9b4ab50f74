"""The network as a program of StableHLO, which runs wherever jax is installed.

The program takes a flat dictionary of weights, by their paths, and one image. Of a fixed size, it
computes in the strips that inference uses on CPUs, the smallest there are: so it takes the memory
that inference takes, and one program fits all platforms. Of any size, it computes on whole maps.
Kernels for GPUs are left out, see
`massformer_jax.ops.kernel_choice.avoided`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from massformer_jax.errors import InputError
from massformer_jax.inference import network
from massformer_jax.models.build import model_graph
from massformer_jax.models.massformer import STRIDE
from massformer_jax.models.weights import Weights
from massformer_jax.ops import kernel_choice
from massformer_jax.tree import leaves_by_path

# By the answer's name: what computes it in strips, and what makes it of all scores.
ANSWERS = {
    "labels": (network.network_labels, network.highest),
    "scores": (network.network_scores, lambda scores: scores),
}
PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Form:
    """What a program is made for.

    Attributes:
        size: (height, width) of the image, multiples of 256; None for any such sides.
        answer: "labels", uint8 [1, h, w], or "scores", float32 [1, h, w, k].
        platforms: those that it runs on, of `PLATFORMS`.
        dtype: that it computes in, of `massformer_jax.ops.precision.DTYPES`.

    Raises:
        InputError: a side is no multiple of 256; or there is no such answer or platform, or none.
    """

    size: tuple[int, int] | None
    answer: str = "labels"
    platforms: tuple[str, ...] = PLATFORMS
    dtype: str = "float32"

    def __post_init__(self):
        if self.size and any(side < STRIDE or side % STRIDE for side in self.size):
            h, w = self.size
            near = "x".join(str(max(STRIDE, side + -side % STRIDE)) for side in self.size)
            raise InputError(
                f"size is {h}x{w}; sides are multiples of {STRIDE}: use {near}, and pad photographs"
            )
        if self.answer not in ANSWERS:
            raise InputError(f"answer is {self.answer!r}; use one of {', '.join(ANSWERS)}")
        if not self.platforms:
            raise InputError(f"platforms is empty; use some of {', '.join(PLATFORMS)}")
        for name in self.platforms:
            if name not in PLATFORMS:
                raise InputError(
                    f"there is no platform {name!r}; use some of {', '.join(PLATFORMS)}"
                )
        if len(set(self.platforms)) < len(self.platforms):
            raise InputError(f"platforms is {','.join(self.platforms)}; name each once")


@dataclasses.dataclass(frozen=True)
class Program:
    """A program and what it is called with: `call(weights, images)`.

    Attributes:
        serialized: what `jax.export.deserialize` reads.
        weights: by name, in the order of the program's arguments; float32.
        image: shape and dtype of the last argument; sides that are left open are expressions.
        answer: shape and dtype of what it returns.
        platforms: those that it was lowered for.
        calling_convention_version: of `jax.export`.
    """

    serialized: bytes
    weights: dict[str, np.ndarray]
    image: jax.ShapeDtypeStruct
    answer: jax.ShapeDtypeStruct
    platforms: tuple[str, ...]
    calling_convention_version: int


def check_libraries() -> None:
    """Checks that programs can be written.

    Raises:
        InputError: a library is missing.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise InputError(
            "programs are written with flatbuffers; pip install 'massformer-jax[export]'"
        ) from error


def lower(weights: Weights, form: Form) -> Program:
    """Returns the network as a program.

    Args:
        weights: whose architecture the program has, and with which it is called.
        form: what it is made for.

    Raises:
        InputError: there is no such dtype, or flatbuffers is missing.
    """
    check_libraries()
    from jax import export

    tree = {"params": weights.params, "batch_stats": weights.batch_stats}
    by_path = {path: np.asarray(leaf) for path, leaf in leaves_by_path(tree).items()}
    structure = jax.tree.structure(tree)
    graph = model_graph(weights.architecture, training=False)
    in_strips, finish = ANSWERS[form.answer]
    if form.size:
        rows = network.rows_of_strip(network.STRIP, form.size[1])
        answer_of = in_strips(graph, dtype=form.dtype, strip_rows=rows)
        rest, sides = (form.size,), form.size
    else:
        answer_of = network.network_whole(graph, finish, dtype=form.dtype)
        rest, sides = (), export.symbolic_shape(f"{STRIDE}*h, {STRIDE}*w")

    def program(flat: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        leaves = jax.tree.unflatten(structure, [flat[path] for path in by_path])
        return answer_of(leaves["params"], leaves["batch_stats"], images, *rest)

    specs: Any = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in by_path.items()
    }
    image = jax.ShapeDtypeStruct((1, *sides, 3), jnp.uint8)
    # Otherwise weights that inference does not need would be no arguments.
    jitted = jax.jit(program, keep_unused=True)
    with kernel_choice.avoided():
        exported = export.export(jitted, platforms=form.platforms)(specs, image)
    (answer,) = exported.out_avals
    return Program(
        bytes(exported.serialize()),
        # In the order in which jax makes arguments of a dictionary.
        {path: by_path[path] for path in sorted(by_path)},
        image,
        jax.ShapeDtypeStruct(answer.shape, answer.dtype),
        tuple(exported.platforms),
        exported.calling_convention_version,
    )
