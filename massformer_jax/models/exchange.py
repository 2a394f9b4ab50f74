"""Weights as they are exchanged: a folder of two files that people can look at and push.

`model.safetensors` holds the tensors under the names of the release, so that PyTorch reads them,
too. `config.json` says what they are: architecture, class names and palette, the size of picture
that they are meant for, the step of training, where they came from, and the SHA-256 of the other
file. `massformer_jax.convert` writes such folders. Nothing in them is executed.
"""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from massformer_jax.classes import class_palette
from massformer_jax.errors import InputError
from massformer_jax.files import sha256
from massformer_jax.models.build import abstract_weights, check_architecture
from massformer_jax.models.names import COUNTER, from_torch
from massformer_jax.models.picture_size import pictures_of
from massformer_jax.models.safetensors_file import read_safetensors

TENSORS, FACTS = "model.safetensors", "config.json"
FILES = (FACTS, TENSORS)
_MAX_FACTS_BYTES = 2**20
_MAX_STEP = 2**31


class Exchanged(NamedTuple):
    """The content of a folder.

    Attributes:
        step: of the training.
        architecture: keyword arguments of MaSSFormer.
        classes: their names.
        palette: their RGB.
        pictures: (height, width) of the pictures that the weights are meant for, if it is known.
        source: where converted weights came from; None for others.
        params: nested dictionaries of NumPy arrays, float32.
        batch_stats: likewise.
    """

    step: int
    architecture: dict[str, Any]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    pictures: tuple[int, int] | None
    source: dict[str, Any] | None
    params: Any
    batch_stats: Any


def is_exchanged(folder: pathlib.Path) -> bool:
    """Tells whether a folder holds weights in this form, whole or not."""
    return (folder / TENSORS).is_file()


def read_exchanged(folder: pathlib.Path) -> Exchanged:
    """Reads weights.

    Raises:
        InputError: a file is missing, is none of this form, or is not what was written; or the
            tensors do not fit the architecture.
    """
    facts = _read_facts(folder / FACTS)
    path = folder / TENSORS
    tensors, _ = read_safetensors(path)
    digest = facts.get("sha256")
    if digest is not None and digest != sha256(path):
        raise InputError(
            f"{path} is damaged: it is not what {FACTS} was written for; copy it again"
        )
    architecture = facts["architecture"]
    try:
        filled = from_torch(tensors, abstract_weights(architecture))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    params, batch_stats = jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), filled)
    source = facts.get("source")
    if source is not None:
        counters = {
            name: int(tensor)
            for name, tensor in tensors.items()
            if name.split(".")[-1] == COUNTER and tensor.ndim == 0 and tensor.dtype.kind in "iu"
        }
        source = {**source, "counters": counters}
    classes = tuple(facts["classes"])
    return Exchanged(
        facts.get("step", 0),
        architecture,
        classes,
        tuple(map(tuple, facts.get("palette") or class_palette(len(classes)))),
        pictures_of(facts.get("pictures")),
        source,
        params,
        batch_stats,
    )


def _read_facts(path: pathlib.Path) -> dict[str, Any]:
    """Reads `config.json`; raises InputError if it is missing, or wrong, and says where."""
    ours = "it is no folder that massformer convert wrote"
    if not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path} is missing; {ours}")
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_FACTS_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); {ours}") from error
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON; {ours}") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("architecture"), dict):
        raise InputError(f"{path} has no `architecture`; {ours}")
    try:
        check_architecture(facts["architecture"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    # An encoder alone is not exchanged: it has no classes.
    count = facts["architecture"].get("classes")
    step, source = facts.get("step", 0), facts.get("source")
    wrong = {
        "classes": not _is_list(facts.get("classes"), count, _is_name),
        "palette": "palette" in facts and not _is_list(facts["palette"], count, _is_rgb),
        "step": type(step) is not int or not 0 <= step < _MAX_STEP,
        "source": not (source is None or isinstance(source, dict)),
    }
    for key, is_wrong in wrong.items():
        if is_wrong:
            raise InputError(f"{path}: `{key}` is not what it should be; {ours}")
    return facts


def _is_list(value: Any, count: Any, is_item: Any) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(is_item, value))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 80


def _is_rgb(value: Any) -> bool:
    return _is_list(value, 3, lambda level: type(level) is int and 0 <= level <= 255)
