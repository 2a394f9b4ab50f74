"""A CoordFormer as two programs: one sees the photograph, the other answers at coordinates.

They are those of inference (`massformer_jax.inference.coordinate_network`). What lies between them,
the keys and values of the photograph's tokens, is output of the one and input of the other.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from massformer_jax.errors import InputError
from massformer_jax.export.facts import images, output
from massformer_jax.export.form import Form, Part, Program
from massformer_jax.inference.coordinate_network import logits_function, memory_function
from massformer_jax.inference.coordinates import BUCKET
from massformer_jax.models.build import abstract_weights
from massformer_jax.models.coordformer import SIDE
from massformer_jax.models.coordinate_decoder import PATCH, Memory

MEMORY, ANSWERS = "memory", "answers"  # names of the programs
_FINISH: dict[str, Callable[[jax.Array], jax.Array]] = {
    "labels": lambda logits: jnp.argmax(logits, -1).astype(jnp.uint8),
    "scores": lambda logits: jax.nn.softmax(logits, -1),
}
_MEANINGS = {
    "labels": "the class at each coordinate, a position in `classes`",
    "scores": "of each coordinate and class, a probability; those of a coordinate add up to 1",
}


def check(form: Form) -> None:
    """Checks that a CoordFormer can have a form.

    Raises:
        InputError: it cannot.
    """
    if form.size is not None:
        raise InputError(
            "the weights are of a CoordFormer, which sees every photograph squeezed to its own "
            "square; leave out the size"
        )
    if form.page:
        raise InputError(
            "the weights are of a CoordFormer, and the page shows answers of a MaSSFormer; leave "
            "out the page"
        )


def sizes(architecture: Mapping[str, Any]) -> dict[str, int]:
    """Returns the side of the square to which photographs are squeezed."""
    return {"side": architecture.get("side", SIDE)}


def said_of(form: Form) -> str:
    """Returns what the answers are of, in words."""
    return "at coordinates"


def parts(
    graph: nnx.GraphDef,
    architecture: Mapping[str, Any],
    form: Form,
    whole: Callable[[dict[str, jax.Array]], tuple[Any, Any]],
) -> dict[str, Part]:
    """Returns the functions from a square to keys and values, and from these to answers.

    Args:
        graph: of the network, for inference.
        architecture: of the network.
        form: what it is made for.
        whole: makes (params, batch_stats) of the weights by name.
    """
    from jax import export

    see = memory_function(graph, dtype=form.dtype)
    ask = logits_function(graph, dtype=form.dtype)

    def memory(flat: dict[str, jax.Array], images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return tuple(see(*whole(flat), images))

    def answers(
        flat: dict[str, jax.Array],
        keys: jax.Array,
        values: jax.Array,
        patches: jax.Array,
        places: jax.Array,
    ) -> jax.Array:
        return _FINISH[form.answer](ask(*whole(flat), Memory(keys, values), patches, places))

    (side,) = sizes(architecture).values()
    seen = {"images": jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)}
    # Not of `see`, of which jax would keep what it traced here: a format may want it otherwise.
    shapes_of = memory_function(graph, dtype=form.dtype)
    kept = jax.eval_shape(shapes_of, *abstract_weights(architecture), *seen.values())
    # As many coordinates as the caller likes; compilers of text want a number.
    (p,) = (BUCKET,) if form.format == "mlir" else export.symbolic_shape("p")
    asked = {
        **kept._asdict(),
        "patches": jax.ShapeDtypeStruct((p, PATCH, PATCH, 3), jnp.uint8),
        "places": jax.ShapeDtypeStruct((p, 2), jnp.float32),
    }
    return {
        MEMORY: Part(memory, seen, tuple(kept._fields)),
        ANSWERS: Part(answers, asked, (form.answer,)),
    }


def facts(
    form: Form, architecture: Mapping[str, Any], programs: Mapping[str, Program]
) -> dict[str, Any]:
    """Returns what `export.json` says of inputs and output; docs/export.md explains it."""
    (side,) = sizes(architecture).values()
    open_number = form.format != "mlir"
    return {
        "input": images(programs[MEMORY], (side, side)),
        "squeezing": {
            "what": "the whole photograph, whatever its form is, to the size of the input",
            "if": f"no side of the photograph is shorter than {side}",
            "then": "area: means of the pixels that a pixel covers, by how much of each it covers "
            "(cv2.INTER_AREA)",
            "else": "bilinear, from the nearest 2x2 pixels; pixels are squares, and what lies "
            "beyond the border is as the border is (cv2.INTER_LINEAR)",
        },
        "questions": {
            "coordinates": "x, y: column and row of a pixel of the photograph itself, from 0",
            "bucket": None if open_number else BUCKET,
            "count": "p, any number" if open_number else "those of a bucket; fill up fewer",
            "patches": {
                "layout": "coordinates, rows, columns, channels",
                "dtype": "uint8",
                "range": [0, 255],
                "what": f"of the photograph itself rows y to y + {PATCH - 1} and columns x to "
                f"x + {PATCH - 1}",
                "beyond": "the last row and the last column are repeated",
            },
            "places": {
                "layout": "coordinates, (x, y)",
                "dtype": "float32",
                "what": "(x + 1/2) / columns and (y + 1/2) / rows of the photograph",
            },
        },
        "output": output(form, programs[ANSWERS], _MEANINGS),
        **sizes(architecture),
    }
