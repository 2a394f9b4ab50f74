"""A replacement that lets programs run where only jax, flax, optax and numpy are installed."""

import contextlib
import importlib
import sys
import types
import typing


def replace_jaxtyping() -> None:
    """Makes massformer_jax importable without jaxtyping, whose annotations only tests check."""
    with contextlib.suppress(ImportError):
        importlib.import_module("jaxtyping")
        return

    class Annotation:
        def __class_getitem__(cls, item):
            return typing.Any

    def getattr_(name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return Annotation

    module = types.ModuleType("jaxtyping")
    module.__getattr__ = getattr_
    sys.modules["jaxtyping"] = module
