"""Converts weights in PyTorch's names and layouts to ours, and back."""

import functools
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from massformer_jax.classes import class_names, class_palette
from massformer_jax.convert.names import (
    COUNTER,
    from_torch,
    to_torch_layout,
    torch_name,
    weights_by_path,
)
from massformer_jax.convert.weights_file import WeightsFile
from massformer_jax.errors import InputError
from massformer_jax.files import written_atomically
from massformer_jax.models.build import ARCHITECTURES, abstract_encoder, abstract_weights
from massformer_jax.models.weights import Weights


def recognise(tensors: Mapping[str, np.ndarray]) -> dict[str, int] | None:
    """Returns the architecture that the tensors' names and shapes tell, or None if they do not."""
    head, decoder = "decode_head", "decode_head.transformer_decoder.layers"
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        found = {
            "encoder_depth": 50 if "backbone.layer1.0.conv3.weight" in shapes else 18,
            "decoder_width": shapes[f"{head}.pixel_decoder.pixel_decoder.conv_avg.conv.weight"][0],
            "ffn_width": shapes[f"{decoder}.0.ffn.layers.0.0.weight"][0],
            "layers": len({m[1] for n in shapes if (m := re.match(rf"{decoder}\.(\d+)\.", n))}),
            "queries": shapes[f"{head}.query_feat.weight"][0],
            "classes": shapes[f"{head}.cls_embed.bias"][0] - 1,
        }
    except (KeyError, IndexError):
        return None
    # Beyond these limits no model can be built, or none in a reasonable time.
    limits = {"decoder_width": 4096, "ffn_width": 2**16, "layers": 64, "queries": 10_000}
    if any(not 1 <= found[key] <= most for key, most in (limits | {"classes": 255}).items()):
        return None
    return None if found["decoder_width"] % 8 else found


def is_encoder(tensors: Mapping[str, np.ndarray]) -> bool:
    """Tells whether all tensors belong to an encoder, as in torchvision's files."""
    return all(name.startswith("backbone.") for name in tensors)


def weights_of(source: WeightsFile, architecture: Mapping[str, Any] | None = None) -> Weights:
    """Returns our weights, float32, from the tensors of a file.

    If the file holds an encoder alone, so do the weights.

    Args:
        source: what was read from the file.
        architecture: keyword arguments of MaSSFormer; None to recognise them.

    Raises:
        InputError: the tensors do not fit the model, or the model is not recognised; the message
            names the file.
    """
    tensors = source.tensors
    known, alone = recognise(tensors), is_encoder(tensors)
    if alone:
        depth = 50 if "backbone.layer1.0.conv3.weight" in tensors else 18
        known = next(a for a in ARCHITECTURES.values() if a["encoder_depth"] == depth)
    if architecture is not None:
        classes = known["classes"] if known else architecture["classes"]
        architecture = {**architecture, "classes": classes}
    # Tensors that are not recognised are compared with the released model that shares most names.
    nearest = functools.partial(
        max, ARCHITECTURES.values(), key=lambda a: len(_names(a) & set(tensors))
    )
    architecture = dict(architecture or known or nearest())
    depth, classes = architecture["encoder_depth"], architecture["classes"]
    like = abstract_encoder(depth) if alone else abstract_weights(architecture)
    try:
        if source.not_tensors:
            raise InputError(
                f"{len(source.not_tensors)} entries are no tensors: "
                + ", ".join(source.not_tensors[:5])
            )
        params, batch_stats = from_torch(tensors, like)
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from error
    params, batch_stats = jax.tree.map(
        lambda x: np.ascontiguousarray(x, np.float32), (params, batch_stats)
    )
    counters = {
        name: int(tensor)
        for name, tensor in tensors.items()
        if name.split(".")[-1] == COUNTER and tensor.ndim == 0
    }
    fits = source.classes is not None and len(source.classes) == classes
    return Weights(
        step=source.iteration or 0,
        architecture={"encoder_depth": depth} if alone else architecture,
        classes=source.classes if fits else class_names(classes),
        palette=source.palette if fits and source.palette else class_palette(classes),
        source={**source.provenance(), "counters": counters},
        params=params,
        batch_stats=batch_stats,
    )


def _names(architecture: Mapping[str, Any]) -> set[str]:
    return {torch_name(path) for path in weights_by_path(abstract_weights(architecture))}


def to_torch(weights: Weights) -> dict[str, np.ndarray]:
    """Returns the released state dict with its counters.

    The counters are those of the file that the weights came from, or else the training step.
    """
    tensors = {}
    counters = (weights.source or {}).get("counters", {})
    for path, leaf in weights_by_path((weights.params, weights.batch_stats)).items():
        name = torch_name(path)
        tensors[name] = np.ascontiguousarray(to_torch_layout(path, np.asarray(leaf)))
        if name.endswith(".running_var"):
            name = name.removesuffix("running_var") + COUNTER
            tensors[name] = np.array(counters.get(name, weights.step), np.int64)
    return tensors


def write_safetensors(weights: Weights, path: str | os.PathLike) -> None:
    """Writes `to_torch(weights)` to a file whose metadata hold iteration, classes and palette."""
    meta = {"iter": weights.step, "classes": weights.classes, "palette": weights.palette}
    with written_atomically(path) as part:
        safetensors.numpy.save_file(
            to_torch(weights), part, {"format": "pt", "massformer": json.dumps(meta)}
        )
