"""Reads files of safetensors: tensors by name, and what the file says of itself."""

import pathlib

import numpy as np
import safetensors

from massformer_jax.errors import InputError

_MAX_HEADER_BYTES = 8 * 2**20  # enough for some 80,000 tensors


def read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the tensors of a file by name, and its metadata.

    Raises:
        InputError: the file cannot be read, or is broken, or holds no tensors or what NumPy lacks.
    """
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
    if not tensors:
        raise InputError(f"{path} holds no state dict (tensors by name); pass a file of weights")
    return tensors, meta
