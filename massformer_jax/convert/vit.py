"""Reads the weights of a vision transformer from the `.safetensors` of the Hub.

Files are those of `transformers`, such as `hf://facebook/dinov2-with-registers-small/model.safetensors`
or `hf://facebook/dinov3-vits16plus-pretrain-lvd1689m/model.safetensors`. The latter are given out
by their authors under their own licence; nothing is shipped here.
"""

import functools
import os
import pathlib
from typing import Any

import jax
import numpy as np

from massformer_jax.errors import InputError
from massformer_jax.models.build import abstract_vit
from massformer_jax.models.finite import check_numbers
from massformer_jax.models.hub import local_file
from massformer_jax.models.names import Rules, from_torch, torch_name
from massformer_jax.models.safetensors_file import read_safetensors

_TAIL: Rules = (
    (r"(layer_scale\d)$", r"\1.lambda1"),
    (r"\.(kernel|scale)$", ".weight"),
)
DINOV2_RULES: Rules = (
    (r"^layer\.", "encoder.layer."),
    (r"^(cls_token|register_tokens|position_embeddings)", r"embeddings.\1"),
    (r"^patch_embeddings\.", "embeddings.patch_embeddings.projection."),
    (r"\.q_proj\.", ".attention.query."),
    (r"\.k_proj\.", ".attention.key."),
    (r"\.v_proj\.", ".attention.value."),
    (r"\.o_proj\.", ".output.dense."),
    (r"\.up_proj\.", ".fc1."),
    (r"\.down_proj\.", ".fc2."),
    (r"^norm\.", "layernorm."),
    *_TAIL,
)
DINOV3_RULES: Rules = (
    (r"^(cls_token|register_tokens|patch_embeddings)", r"embeddings.\1"),
    *_TAIL,
)
_UNUSED = ("embeddings.mask_token",)  # what stood for hidden patches in their training


def rules_of(encoder: dict[str, Any]) -> Rules:
    """Returns the rules that make the names of the Hub for `ViT(**encoder)`."""
    return DINOV3_RULES if encoder["grid"] is None else DINOV2_RULES


def read_vit(path: str | os.PathLike, encoder: dict[str, Any]) -> Any:
    """Returns the parameters of `ViT(**encoder)`, float32: nested dictionaries of NumPy arrays.

    Args:
        path: a `.safetensors` file, or its name on the Hub.
        encoder: keyword arguments of `ViT`, such as those in `ENCODERS`.

    Raises:
        InputError: the file cannot be had or read, or its numbers are not finite, or its tensors do
            not fit; names the file, and lists all tensors that are missing, left over or of another
            shape.
    """
    file = pathlib.Path(local_file(path, (".safetensors",)))
    tensors, _ = read_safetensors(file)
    like, rules = abstract_vit(encoder), rules_of(encoder)
    try:
        params = from_torch(tensors, like, rules=rules, unused=_UNUSED)
        params = jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), params)
        check_numbers(params, {}, called=functools.partial(torch_name, rules=rules))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return params
