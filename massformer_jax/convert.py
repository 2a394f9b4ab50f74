"""Names and layouts of the released PyTorch weights, derived from ours by rule.

Our leaves drive the map: each has exactly one tensor in the released state dict, whose name follows
from the leaf's path by `RULES` and whose layout follows from the leaf's name and rank. What has no
leaf here are torch's counters `num_batches_tracked`.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

# Ordered; each is applied once. Paths are dotted, as torch writes them.
RULES = (
    (r"^pixel_decoder\.", "decode_head.pixel_decoder.pixel_decoder."),
    (r"^(transformer_decoder|query_embed|query_feat|level_embed|cls_embed)", r"decode_head.\1"),
    (r"^mask_embed\.(\d)", lambda m: f"decode_head.mask_embed.{2 * int(m[1])}"),
    (r"(SEB\.\d)\.reduce\.", r"\1.mlp.0.mlp.0."),
    (r"(SEB\.\d)\.norm\.", r"\1.mlp.0.mlp.1."),
    (r"(SEB\.\d)\.expand\.", r"\1.mlp.0.mlp.3."),
    (r"_attn\.in_proj\.kernel$", "_attn.attn.in_proj_weight"),
    (r"_attn\.in_proj\.bias$", "_attn.attn.in_proj_bias"),
    (r"_attn\.out_proj\.", "_attn.attn.out_proj."),
    (r"(ffn\d?)\.linear1\.", r"\1.layers.0.0."),
    (r"(ffn\d?)\.linear2\.", r"\1.layers.1."),
    (r"\.(kernel|scale|embedding)$", ".weight"),
    (r"\.(mean|var)$", r".running_\1"),
)


def torch_name(path: str) -> str:
    """The released name of our leaf, `backbone/conv1/kernel` → `backbone.conv1.weight`."""
    name = path.replace("/", ".")
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


def to_torch_layout(path: str, leaf: np.ndarray) -> np.ndarray:
    """Our leaf in torch's layout."""
    if not path.endswith("kernel"):
        return leaf
    if leaf.ndim == 2:  # linear: [in, out] → [out, in]
        return leaf.T
    if "up_sample" in path:  # transposed convolution: flipped, [h, w, in, out] → [in, out, h, w]
        return leaf[::-1, ::-1].transpose(2, 3, 0, 1)
    return leaf.transpose(3, 2, 0, 1)  # convolution: [h, w, in, out] → [out, in, h, w]


def from_torch_layout(path: str, tensor: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch_layout`."""
    if not path.endswith("kernel"):
        return tensor
    if tensor.ndim == 2:
        return tensor.T
    if "up_sample" in path:
        return tensor.transpose(2, 3, 0, 1)[::-1, ::-1]
    return tensor.transpose(2, 3, 1, 0)


def flatten(tree) -> dict[str, Any]:
    """Leaves of a nested dictionary by path, the keys joined with "/"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def from_torch(tensors: Mapping[str, np.ndarray], like):
    """Fills a tree of our leaves from a released state dict.

    Args:
        tensors: by released name. Counters `num_batches_tracked` are ignored.
        like: a nested dictionary of arrays or `jax.ShapeDtypeStruct`s, either `params` or
            `batch_stats` or both merged by `{**params, ...}`; its shapes are checked.

    Returns:
        The same nested dictionary with NumPy arrays, in the dtypes of `tensors`.

    Raises:
        ValueError: listing every tensor that is missing or misshapen.
    """
    problems = []

    def fill(key_path, leaf):
        path = jax.tree_util.keystr(key_path, simple=True, separator="/")
        name = torch_name(path)
        if name not in tensors:
            problems.append(f"{name} is missing")
            return None
        value = from_torch_layout(path, tensors[name])
        if value.shape != leaf.shape:
            problems.append(f"{name} gives {value.shape}, {path} is {leaf.shape}")
            return None
        return value

    filled = jax.tree_util.tree_map_with_path(fill, like)
    if problems:
        raise ValueError("; ".join(problems))
    return filled
