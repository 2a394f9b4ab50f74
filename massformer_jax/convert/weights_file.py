"""Reads weights as users of PyTorch keep them: `.pth` files of any kind, and `.safetensors`.

This needs neither JAX nor PyTorch, and executes nothing that is in a file.
"""

import collections
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors

from massformer_jax.convert.torch_file import TorchFile
from massformer_jax.convert.torch_pickle import Tensor
from massformer_jax.errors import InputError

# How names begin in torchvision's ResNet, which is the released encoder; in a MaSSFormer they have
# a prefix.
_ENCODER = re.compile(r"(conv1|bn1|layer[1-4]|fc)\.")
_MAX_HEADER_BYTES = 8 * 2**20  # of a .safetensors file, enough for some 80,000 tensors
# Size of all tensors over the size of the file, at most: strides of 0 would let a small file stand
# for tensors of any size.
_MAX_EXPANSION = 8


class WeightsFile(NamedTuple):
    """The content of a file.

    Attributes:
        path: the file.
        tensors: read-only views of the file, by released name.
        not_tensors: names in the state dict that hold something else.
        iteration: training steps so far, or None if the file does not tell.
        classes: names of the classes, likewise.
        palette: RGB of each class, likewise.
    """

    path: pathlib.Path
    tensors: dict[str, np.ndarray]
    not_tensors: tuple[str, ...]
    iteration: int | None
    classes: tuple[str, ...] | None
    palette: tuple[tuple[int, int, int], ...] | None

    def provenance(self) -> dict[str, Any]:
        """Returns the file's name, SHA-256 and iteration, which a converted checkpoint keeps."""
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": self.path.name, "sha256": digest, "iteration": self.iteration}


def read_weights(path: str | os.PathLike) -> WeightsFile:
    """Reads a file of weights.

    A file whose name ends in `.safetensors` has this format. Any other is read as a file of
    `torch.save`: a state dict, or a dictionary with one under `state_dict`, as mmengine writes it.
    If all names have the prefix `module.`, it is removed. Names of a ResNet get the prefix
    `backbone.` if they lack it.

    Raises:
        InputError: the file cannot be read, is broken, or holds no state dict.
    """
    path = pathlib.Path(path)
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    tensors, not_tensors, meta = read(path)
    if not tensors:
        raise InputError(f"{path} holds no state dict (tensors by name); pass a file of weights")
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > _MAX_EXPANSION * path.stat().st_size:
        raise InputError(f"{path}: its tensors would fill {size:,} bytes; save them contiguous")
    names = [_released_name(name) for name in _without_module(tensors)]
    if len(set(names)) < len(names):
        twice = collections.Counter(names).most_common(1)[0][0][:80]
        raise InputError(f"{path} holds {twice} twice, with and without a prefix; remove one")
    classes, palette = _classes(meta)
    iteration = meta.get("iter")
    return WeightsFile(
        path,
        dict(zip(names, tensors.values(), strict=True)),
        tuple(not_tensors),
        iteration if type(iteration) is int and 0 <= iteration < 2**31 else None,
        classes,
        palette,
    )


def _read_torch(path: pathlib.Path) -> tuple[dict[str, np.ndarray], list[str], Mapping]:
    file = TorchFile(path)
    tree = file.tree if isinstance(file.tree, dict) else {}
    state = tree.get("state_dict", tree)
    state = state if isinstance(state, dict) else {}
    meta = tree.get("meta")
    tensors = {k: file.array(v) for k, v in state.items() if _named_tensor(k, v)}
    others = [str(key)[:80] for key, value in state.items() if not _named_tensor(key, value)]
    return tensors, others, meta if isinstance(meta, dict) else {}


def _named_tensor(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], list[str], Mapping]:
    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > _MAX_HEADER_BYTES:
            raise InputError(f"{path} is no .safetensors file, or broken; download it again")
        with safetensors.safe_open(path, framework="numpy") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        message = " ".join(str(error)[:120].split())
        raise InputError(f"{path} is no .safetensors file, or broken ({message})") from error
    except (AttributeError, TypeError) as error:
        # The dtype is one that NumPy lacks, for instance 8-bit floats.
        raise InputError(f"{path} holds a dtype that is not read; save it as float32") from error
    try:
        return tensors, [], json.loads(meta.get("massformer", "{}"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata `massformer` is no JSON; remove it") from error


def _without_module(names: Mapping[str, Any]) -> list[str]:
    """Returns the names without `module.`, which distributed training puts before all of them."""
    wrapped = all(name.startswith("module.") for name in names)
    return [name.removeprefix("module.") if wrapped else name for name in names]


def _released_name(name: str) -> str:
    return f"backbone.{name}" if _ENCODER.match(name) else name


def _classes(meta: Any) -> tuple[tuple[str, ...] | None, tuple | None]:
    """Returns class names and palette from mmengine's `meta`, None where missing or unsound."""
    meta = meta if isinstance(meta, dict) else {}
    # mmcv 1 has them in `meta` itself, with names in capitals.
    known = meta.get("dataset_meta", meta)
    known = known if isinstance(known, dict) else {}
    classes = known.get("classes", known.get("CLASSES"))
    palette = known.get("palette", known.get("PALETTE"))
    if not _is_list(classes) or not all(isinstance(c, str) and c.isprintable() for c in classes):
        return None, None
    classes = tuple(name[:80] for name in classes)
    if not _is_list(palette) or len(palette) != len(classes):
        return classes, None
    for rgb in palette:
        if not _is_list(rgb) or len(rgb) != 3:
            return classes, None
        if not all(type(value) is int and 0 <= value <= 255 for value in rgb):
            return classes, None
    return classes, tuple(tuple(rgb) for rgb in palette)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and 0 < len(value) <= 255
