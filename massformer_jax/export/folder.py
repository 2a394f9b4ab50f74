"""The folder that is exported: programs, their weights, and a file that says what both are."""

import json
import pathlib
from typing import Any

import safetensors.numpy

import massformer_jax
from massformer_jax.export.facts import tensor
from massformer_jax.export.family import family_of
from massformer_jax.export.form import Exported, Form
from massformer_jax.files import check_new, folder_written_atomically, sha256
from massformer_jax.models.weights import Weights

WEIGHTS, FACTS = "weights.safetensors", "export.json"
# A page that runs the program in a browser; it works in every folder of a program of ONNX.
_PAGE = pathlib.Path(__file__).with_name("page")


def write(folder: pathlib.Path, weights: Weights, form: Form, exported: Exported) -> None:
    """Writes a folder, which appears when it is complete.

    Raises:
        InputError: something is there already.
        OSError: it cannot be written.
    """
    check_new(folder)
    with folder_written_atomically(folder) as part:
        for name, program in exported.programs.items():
            (part / _program(name, form)).write_bytes(program.serialized)
        if form.format != "onnx":
            # Not `save_file`, whose files nobody but their owner may read.
            (part / WEIGHTS).write_bytes(safetensors.numpy.save(exported.weights))
        if form.page:
            for file in _PAGE.iterdir():
                (part / file.name).write_bytes(file.read_bytes())
        text = json.dumps(_facts(part, weights, form, exported), indent=1, ensure_ascii=False)
        (part / FACTS).write_text(text + "\n", encoding="utf-8")


def _program(name: str, form: Form) -> str:
    return f"{name}.{form.format}"


def _facts(
    folder: pathlib.Path, weights: Weights, form: Form, exported: Exported
) -> dict[str, Any]:
    """Returns what `export.json` says; docs/export.md explains it."""
    return {
        "format": form.format,
        "written_by": f"massformer_jax {massformer_jax.__version__}",
        **_files(folder, form, exported),
        **family_of(weights.architecture).facts(form, weights.architecture, exported.programs),
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


def _files(folder: pathlib.Path, form: Form, exported: Exported) -> dict[str, Any]:
    """Returns what is said of the files: `program`, or `programs` by name if there are several."""
    own = [] if form.format == "onnx" else [tensor(*each) for each in exported.weights.items()]
    programs, arguments = {}, {}
    for name, program in exported.programs.items():
        about = {**program.facts, "computes_in": form.dtype}
        programs[name] = {**_file(folder / _program(name, form)), **about}
        arguments[name] = [*own, *(tensor(*each) for each in program.inputs.items())]
    names = [program["file"] for program in programs.values()]
    if form.format != "onnx":
        weights = _file(folder / WEIGHTS)
    else:
        weights = {"file": names[0]} if len(names) == 1 else {"files": names}
    weights["count"] = len(exported.weights)
    if len(names) == 1:
        (program,), (taken,) = programs.values(), arguments.values()
        return {"program": program, "weights": weights, "arguments": taken}
    for name, program in exported.programs.items():
        programs[name]["arguments"] = arguments[name]
        programs[name]["outputs"] = [tensor(*each) for each in program.outputs.items()]
    return {"programs": programs, "weights": weights}


def _file(path: pathlib.Path) -> dict[str, Any]:
    """Returns name, size and SHA-256 of a file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
