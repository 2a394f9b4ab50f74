"""An environment like that of a machine with jax, flax, optax and numpy, and nothing else."""

import os
import pathlib

# What bare accelerator machines lack, of what the package imports somewhere.
ABSENT = (
    *("jaxtyping", "beartype", "cv2", "PIL", "grain", "array_record", "tensorflow_datasets"),
    *("ml_collections", "tensorboardX", "safetensors", "importlib_resources", "orbax", "etils"),
    "torch",
)


def environment(folder: pathlib.Path) -> dict[str, str]:
    """Returns the environment of a process in which other packages cannot be imported.

    Args:
        folder: the folder for a file that Python runs when it starts.
    """
    text = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"
    (folder / "sitecustomize.py").write_text(text)
    found = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    found.pop("JAX_COMPILATION_CACHE_DIR", None)
    return found
