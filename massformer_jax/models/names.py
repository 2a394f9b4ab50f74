"""Names and layouts of the tensors in a released state dict, and of our leaves.

The mapping starts from our leaves. Each has exactly one tensor in the released state dict: `RULES`
make its name from the leaf's path, and its layout follows from the leaf's name and rank. Torch's
counters `num_batches_tracked` have no leaf; a checkpoint keeps them beside the weights.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from massformer_jax.errors import InputError
from massformer_jax.models.mismatch import mismatch_message
from massformer_jax.tree import leaves_by_path

COUNTER = "num_batches_tracked"  # torch counts here how many training steps a BatchNorm has seen

# A pattern and its replacement, as `re.sub` takes them.
Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

# The rules are applied in this order, each once, to paths with dots as torch writes them.
RULES: Rules = (
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
UNUSED = ("backbone.fc.weight", "backbone.fc.bias")  # torchvision's classifier


def torch_name(path: str, rules: Rules = RULES) -> str:
    """Returns the released name of a leaf: `backbone.conv1.weight` for `backbone/conv1/kernel`."""
    name = path.replace("/", ".")
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def to_torch_layout(path: str, leaf: np.ndarray) -> np.ndarray:
    """Returns a leaf in torch's layout."""
    if not path.endswith("kernel"):
        return leaf
    if leaf.ndim == 2:  # linear: [in, out] → [out, in]
        return leaf.T
    if "up_sample" in path:  # transposed convolution: flipped, [h, w, in, out] → [in, out, h, w]
        return leaf[::-1, ::-1].transpose(2, 3, 0, 1)
    return leaf.transpose(3, 2, 0, 1)  # convolution: [h, w, in, out] → [out, in, h, w]


def from_torch_layout(path: str, tensor: np.ndarray) -> np.ndarray:
    """Returns a tensor of torch in our layout; inverts `to_torch_layout`."""
    if not path.endswith("kernel"):
        return tensor
    if tensor.ndim == 2:
        return tensor.T
    if "up_sample" in path:
        return tensor.transpose(2, 3, 0, 1)[::-1, ::-1]
    return tensor.transpose(2, 3, 1, 0)


def weights_by_path(tree: Any) -> dict[str, Any]:
    """Returns the leaves of (params, batch_stats), or of one of them, by the model's paths."""
    parts = tree if isinstance(tree, tuple) else (tree,)
    return {path: leaf for part in parts for path, leaf in leaves_by_path(part).items()}


def from_torch(
    tensors: Mapping[str, np.ndarray],
    like,
    *,
    rules: Rules = RULES,
    unused: Collection[str] = UNUSED,
):
    """Fills a tree of our leaves from a released state dict, all tensors of which must fit.

    Args:
        tensors: tensors by released name. The counters `num_batches_tracked` are ignored.
        like: nested dictionaries of arrays or `jax.ShapeDtypeStruct`s, or a tuple of them such as
            (params, batch_stats); their shapes are compared.
        rules: that make the released names.
        unused: released names that no leaf has, and that are ignored.

    Returns:
        The same structure with NumPy arrays, in the dtypes of `tensors`.

    Raises:
        InputError: tensors are missing, left over, of another shape or of integers; lists all of
            them.
    """
    missing, misshapen = [], []

    def fill(path, leaf):
        name = torch_name(path, rules)
        if name not in tensors:
            missing.append(name)
            return None
        tensor = tensors[name]
        # Not np.issubdtype: the bfloat16 of ml_dtypes is no np.floating.
        if not jax.numpy.issubdtype(tensor.dtype, jax.numpy.floating):
            misshapen.append(f"{name} is of {tensor.dtype}, not of floating-point numbers")
            return None
        expected = to_torch_layout(path, np.broadcast_to(np.empty((), bool), leaf.shape)).shape
        if tensor.shape != expected:
            misshapen.append(f"{name} is {tensor.shape}, the model's is {expected}")
            return None
        return from_torch_layout(path, tensor)

    leaves = weights_by_path(like)
    filled = [fill(path, leaf) for path, leaf in leaves.items()]
    names = {torch_name(path, rules) for path in leaves}
    given = [name for name in tensors if name.split(".")[-1] != COUNTER and name not in unused]
    left_over = [name for name in given if name not in names]
    if missing or left_over or misshapen:
        raise InputError(
            mismatch_message(missing, left_over, misshapen, expected=names, given=given)
        )
    return jax.tree.unflatten(jax.tree.structure(like), filled)
