"""The folder that is exported: a program, its weights, and a file that says what both are."""

import json
import pathlib
from typing import Any

import jax
import safetensors.numpy

import massformer_jax
from massformer_jax.errors import InputError
from massformer_jax.export.form import Form, Program
from massformer_jax.files import folder_written_atomically, sha256
from massformer_jax.models.massformer import STRIDE
from massformer_jax.models.weights import Weights

WEIGHTS, FACTS = "weights.safetensors", "export.json"
# A page that runs the program in a browser; it works in every folder of a program of ONNX.
_PAGE = pathlib.Path(__file__).with_name("page")


def check_new(folder: pathlib.Path) -> None:
    """Checks that a folder can be written without anything being written over.

    Raises:
        InputError: there is something.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is no folder; name a new one")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds files already; name a new folder")


def write(folder: pathlib.Path, weights: Weights, form: Form, program: Program) -> None:
    """Writes a folder, which appears when it is complete.

    Raises:
        InputError: something is there already.
        OSError: it cannot be written.
    """
    check_new(folder)
    with folder_written_atomically(folder) as part:
        (part / _program(form)).write_bytes(program.serialized)
        if form.format != "onnx":
            # Not `save_file`, whose files nobody but their owner may read.
            (part / WEIGHTS).write_bytes(safetensors.numpy.save(program.weights))
        if form.page:
            for file in _PAGE.iterdir():
                (part / file.name).write_bytes(file.read_bytes())
        text = json.dumps(_facts(part, weights, form, program), indent=1, ensure_ascii=False)
        (part / FACTS).write_text(text + "\n", encoding="utf-8")


def _program(form: Form) -> str:
    return f"model.{form.format}"


def _facts(folder: pathlib.Path, weights: Weights, form: Form, program: Program) -> dict[str, Any]:
    """Returns what `export.json` says; docs/export.md explains it."""
    inside = form.format == "onnx"
    kept = {"file": _program(form)} if inside else _file(folder / WEIGHTS)
    arguments = {} if inside else program.weights
    return {
        "format": form.format,
        "written_by": f"massformer_jax {massformer_jax.__version__}",
        "program": {
            **_file(folder / _program(form)),
            **program.facts,
            "computes_in": form.dtype,
        },
        "weights": {**kept, "count": len(program.weights)},
        "arguments": [
            *(
                {"name": name, "dtype": str(x.dtype), "shape": list(x.shape)}
                for name, x in arguments.items()
            ),
            {"name": "images", "dtype": str(program.image.dtype), "shape": _sides(program.image)},
        ],
        "input": {
            "name": "images",
            "layout": "batch, rows, columns, channels",
            "channels": "red, green, blue, of sRGB; the photograph upright",
            "dtype": str(program.image.dtype),
            "range": [0, 255],
            "size": None if form.size is None else list(form.size),
        },
        "padding": {
            "multiple": STRIDE,
            "where": "at the bottom and on the right, up to "
            + ("the size of the input" if form.size else f"multiples of {STRIDE}"),
            "how": "the last row and the last column are repeated",
            "answer": "is cropped to the rows and columns of the photograph",
        },
        "output": {
            "answer": form.answer,
            "dtype": str(program.answer.dtype),
            "shape": _sides(program.answer),
            "meaning": _MEANINGS[form.answer],
        },
        "stride": STRIDE,
        "classes": list(weights.classes),
        "palette": [list(rgb) for rgb in weights.palette],
        "architecture": dict(weights.architecture),
        "pictures": None if weights.pictures is None else list(weights.pictures),
        "checkpoint": {
            "name": None if weights.folder is None else weights.folder.name,
            "step": weights.step,
            "source": weights.source,
        },
    }


_MEANINGS = {
    "labels": "the class of every pixel, a position in `classes`",
    "scores": "of every pixel and class, at least 0, not normalised over the classes",
}


def _sides(array: jax.ShapeDtypeStruct) -> list[int | str]:
    """Returns a shape; sides that are left open are expressions such as 256*h."""
    return [side if isinstance(side, int) else str(side) for side in array.shape]


def _file(path: pathlib.Path) -> dict[str, Any]:
    """Returns name, size and SHA-256 of a file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
