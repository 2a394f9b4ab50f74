"""What `export.json` says of tensors, in words that both families of networks use."""

from collections.abc import Mapping
from typing import Any

import jax

from massformer_jax.export.form import Form, Program


def tensor(name: str, array: Any) -> dict[str, Any]:
    """Returns name, dtype and shape of an argument; `array` has the latter two."""
    return {"name": name, "dtype": str(array.dtype), "shape": sides(array)}


def sides(array: Any) -> list[int | str]:
    """Returns a shape; sides that are left open are expressions such as 256*h."""
    return [side if isinstance(side, int) else str(side) for side in array.shape]


def images(program: Program, size: tuple[int, int] | None) -> dict[str, Any]:
    """Returns what a program takes as `images`, of this size or of any."""
    return {
        "name": "images",
        "layout": "batch, rows, columns, channels",
        "channels": "red, green, blue, of sRGB; the photograph upright",
        "dtype": str(program.inputs["images"].dtype),
        "range": [0, 255],
        "size": None if size is None else list(size),
    }


def output(form: Form, program: Program, meanings: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a program answers; `meanings` are those of labels and scores."""
    answer: jax.ShapeDtypeStruct = program.outputs[form.answer]
    return {
        "answer": form.answer,
        "dtype": str(answer.dtype),
        "shape": sides(answer),
        "meaning": meanings[form.answer],
    }
