"""Reads weights as users of PyTorch keep them: `.pth` files of any kind, and `.safetensors`.

This needs neither JAX nor PyTorch, and executes nothing that is in a file.
"""

import collections
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from massformer_jax.convert.state_dict import find_state_dict, is_tensor, released_names
from massformer_jax.convert.torch_file import TorchFile
from massformer_jax.errors import InputError
from massformer_jax.files import check_local, sha256
from massformer_jax.models.picture_size import pictures_of
from massformer_jax.models.safetensors_file import read_safetensors

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
        notes: lines that say which part of the file was taken, and how names were changed.
        pictures: height and width of the pictures that the weights are meant for, likewise.
    """

    path: pathlib.Path
    tensors: dict[str, np.ndarray]
    not_tensors: tuple[str, ...]
    iteration: int | None
    classes: tuple[str, ...] | None
    palette: tuple[tuple[int, int, int], ...] | None
    notes: tuple[str, ...] = ()
    pictures: tuple[int, int] | None = None

    def provenance(self) -> dict[str, Any]:
        """Returns the file's name, SHA-256 and iteration, which a converted checkpoint keeps."""
        found = sha256(self.path)
        return {"file": self.path.name, "sha256": found, "iteration": self.iteration}


def read_weights(path: str | os.PathLike, key: str | None = None) -> WeightsFile:
    """Reads a file of weights, of `torch.save` or of safetensors, whatever its name is.

    A file of `torch.save` holds a state dict, or dictionaries with one. `state_dict.py` says which
    one is taken, and what is done to names.

    Args:
        path: the file.
        key: where in a file of `torch.save` the state dict lies; None to find it.

    Raises:
        InputError: the file cannot be read, is broken, or holds no state dict, or several.
    """
    check_local(path)
    path = pathlib.Path(path)
    if _is_safetensors(path):
        if key is not None:
            raise InputError(f"{path} is a .safetensors file, which has no keys; leave --key out")
        tensors, not_tensors, meta, notes = _read_safetensors(path)
    else:
        tensors, not_tensors, meta, notes = _read_torch(path, key)
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > _MAX_EXPANSION * path.stat().st_size:
        raise InputError(f"{path}: its tensors would fill {size:,} bytes; save them contiguous")
    scalars = {name for name, tensor in tensors.items() if tensor.ndim == 0}
    released, changes = released_names(list(tensors), scalars)
    names = list(released.values())
    if len(set(names)) < len(names):
        twice = collections.Counter(names).most_common(1)[0][0][:80]
        raise InputError(f"{path} holds {twice} twice, with and without a prefix; remove one")
    classes, palette = _classes(meta)
    iteration = meta.get("iter") if isinstance(meta, dict) else None
    return WeightsFile(
        path,
        {name: tensors[own] for own, name in released.items()},
        tuple(not_tensors),
        iteration if type(iteration) is int and 0 <= iteration < 2**31 else None,
        classes,
        palette,
        (*notes, *changes),
        pictures_of(meta.get("pictures")) if isinstance(meta, dict) else None,
    )


# Tensors by name, names of what is no tensor, what the file says of them, and notes.
_Content = tuple[dict[str, np.ndarray], list[str], Any, list[str]]


def _read_torch(path: pathlib.Path, key: str | None) -> _Content:
    file = TorchFile(path)
    found = find_state_dict(file.tree, key)
    if isinstance(found, str):
        raise InputError(f"{path} {found}")
    tensors = {k: file.array(v) for k, v in found.entries.items() if is_tensor(k, v)}
    not_tensors = [str(k)[:80] for k, v in found.entries.items() if not is_tensor(k, v)]
    meta = file.tree.get("meta")
    return tensors, not_tensors, meta if isinstance(meta, dict) else {}, found.notes()


def _is_safetensors(path: pathlib.Path) -> bool:
    """Tells by its first bytes whether a file is one of safetensors; by its name if they do not."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file; pass a file of weights")
    try:
        with open(path, "rb") as file:
            first = file.read(9)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(first) == 9 and first[8:] == b"{" and int.from_bytes(first[:8], "little") < 2**32:
        return True
    torch_s = first[:4] == b"PK\x03\x04" or first[:1] == b"\x80"
    return path.suffix == ".safetensors" and not torch_s


def _read_safetensors(path: pathlib.Path) -> _Content:
    tensors, meta = read_safetensors(path)
    try:
        return tensors, [], json.loads(meta.get("massformer", "{}")), []
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata `massformer` is no JSON; remove it") from error


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
