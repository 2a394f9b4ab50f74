"""Names and layouts of the released state dict, and of our leaves.

Our leaves drive the map: each has exactly one tensor in the released state dict, whose name follows
from the leaf's path by `RULES` and whose layout follows from the leaf's name and rank. What has no
leaf here are torch's counters `num_batches_tracked`; a checkpoint keeps them beside the weights.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from massformer_jax.errors import InputError
from massformer_jax.mismatch import report

COUNTER = "num_batches_tracked"  # of a BatchNorm in torch: training steps so far

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


def leaf_path(key_path) -> str:
    """The keys of a path in nested dictionaries, joined with "/"; positions in tuples are left out.

    So the leaves of (params, batch_stats) have the paths that they have in the model.
    """
    keys = [key for key in key_path if isinstance(key, jax.tree_util.DictKey)]
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")


def flatten(tree) -> dict[str, Any]:
    """Leaves by path: see `leaf_path`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {leaf_path(path): leaf for path, leaf in leaves}


def from_torch(tensors: Mapping[str, np.ndarray], like):
    """Fills a tree of our leaves from a released state dict, every tensor of which must fit.

    Args:
        tensors: by released name. Counters `num_batches_tracked` and torchvision's classifier
            `backbone.fc` are ignored.
        like: nested dictionaries of arrays or `jax.ShapeDtypeStruct`s, or a tuple of them such as
            (params, batch_stats); shapes are checked.

    Returns:
        The same structure with NumPy arrays, in the dtypes of `tensors`.

    Raises:
        InputError: listing every tensor that is missing, left over, misshapen or of integers.
    """
    missing, misshapen = [], []

    def fill(key_path, leaf):
        path = leaf_path(key_path)
        name = torch_name(path)
        if name not in tensors:
            missing.append(name)
            return None
        tensor = tensors[name]
        # ml_dtypes' bfloat16 is no np.floating.
        if not jax.numpy.issubdtype(tensor.dtype, jax.numpy.floating):
            misshapen.append(f"{name} is of {tensor.dtype}, not of floating-point numbers")
            return None
        expected = to_torch_layout(path, np.broadcast_to(np.empty((), bool), leaf.shape)).shape
        if tensor.shape != expected:
            misshapen.append(f"{name} is {tensor.shape}, the model's is {expected}")
            return None
        return from_torch_layout(path, tensor)

    filled = jax.tree_util.tree_map_with_path(fill, like)
    names = {torch_name(path) for path in flatten(like)}
    given = [name for name in tensors if not _ignored(name)]
    left_over = [name for name in given if name not in names]
    if missing or left_over or misshapen:
        raise InputError(report(missing, left_over, misshapen, expected=names, given=given))
    return filled


def _ignored(name: str) -> bool:
    return name.split(".")[-1] == COUNTER or name in ("backbone.fc.weight", "backbone.fc.bias")
