"""Converts weights in PyTorch's names and layouts to ours, and back."""

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from massformer_jax.classes import class_names, class_palette
from massformer_jax.convert.weights_file import WeightsFile
from massformer_jax.errors import InputError
from massformer_jax.files import sha256, write_atomically
from massformer_jax.models.build import (
    ARCHITECTURES,
    abstract_encoder,
    abstract_weights,
    check_architecture,
)
from massformer_jax.models.exchange import FACTS, TENSORS
from massformer_jax.models.finite import check_numbers
from massformer_jax.models.names import (
    COUNTER,
    from_torch,
    to_torch_layout,
    torch_name,
    weights_by_path,
)
from massformer_jax.models.picture_size import RELEASED_PICTURES
from massformer_jax.models.weights import Weights

_BOTTLENECK = "backbone.layer1.0.conv3.weight"  # a ResNet of 50 layers or more has it
# (whether blocks have three convolutions, blocks of each stage): layers
_OTHER_RESNETS = {
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}


def recognise(tensors: Mapping[str, np.ndarray]) -> dict[str, int] | None:
    """Returns the architecture that the tensors' names and shapes tell, or None if they do not."""
    head, decoder = "decode_head", "decode_head.transformer_decoder.layers"
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        found = {
            "encoder_depth": 50 if _BOTTLENECK in shapes else 18,
            "decoder_width": shapes[f"{head}.pixel_decoder.pixel_decoder.conv_avg.conv.weight"][0],
            "ffn_width": shapes[f"{decoder}.0.ffn.layers.0.0.weight"][0],
            "layers": len({m[1] for n in shapes if (m := re.match(rf"{decoder}\.(\d+)\.", n))}),
            "queries": shapes[f"{head}.query_feat.weight"][0],
            "classes": shapes[f"{head}.cls_embed.bias"][0] - 1,
        }
    except (KeyError, IndexError):
        return None
    try:
        check_architecture(found)
    except InputError:
        return None
    return found


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
        InputError: the tensors do not fit the model, or the model is not recognised, or numbers
            are not finite; the message names the file.
    """
    tensors = source.tensors
    known, alone = recognise(tensors), is_encoder(tensors)
    if alone:
        depth = _encoder_depth(source)
        known = next(a for a in ARCHITECTURES.values() if a["encoder_depth"] == depth)
    if architecture is not None:
        classes = known["classes"] if known else architecture["classes"]
        architecture = {**architecture, "classes": classes}
    architecture = dict(architecture or known or _nearest(tensors))
    depth, classes = architecture["encoder_depth"], architecture["classes"]
    like = abstract_encoder(depth) if alone else abstract_weights(architecture)
    try:
        if source.not_tensors:
            raise InputError(
                f"{len(source.not_tensors)} entries are no tensors: "
                + ", ".join(source.not_tensors[:5])
            )
        params, batch_stats = from_torch(tensors, like)
        with np.errstate(over="ignore"):  # what float32 cannot hold is found below
            params, batch_stats = jax.tree.map(
                lambda x: np.ascontiguousarray(x, np.float32), (params, batch_stats)
            )
        check_numbers(params, batch_stats, called=torch_name)
        counters = _counters(tensors)
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from error
    fits = source.classes is not None and len(source.classes) == classes
    return Weights(
        step=source.iteration or 0,
        architecture={"encoder_depth": depth} if alone else architecture,
        classes=source.classes if fits else class_names(classes),
        palette=source.palette if fits and source.palette else class_palette(classes),
        source={**source.provenance(), "counters": counters},
        params=params,
        batch_stats=batch_stats,
        # A file that tells nothing of it, and holds a released model, is taken for a released one.
        pictures=source.pictures
        or (RELEASED_PICTURES if architecture in ARCHITECTURES.values() and not alone else None),
    )


def _encoder_depth(source: WeightsFile) -> int:
    """Returns the depth of a ResNet that stands alone; raises InputError for one we do not have."""
    bottleneck = _BOTTLENECK in source.tensors
    blocks = tuple(
        len(
            {
                m[1]
                for name in source.tensors
                if (m := re.match(rf"backbone\.layer{i}\.(\d+)\.", name))
            }
        )
        for i in range(1, 5)
    )
    depth = _OTHER_RESNETS.get((bottleneck, blocks))
    if depth is not None:
        raise InputError(
            f"{source.path} holds a ResNet-{depth}; the encoder is a ResNet-18 or a ResNet-50: "
            "pass one of those"
        )
    return 50 if bottleneck else 18


def _nearest(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Returns the released model whose names differ least from those of tensors."""
    given = {name for name in tensors if name.split(".")[-1] != COUNTER}
    return min(ARCHITECTURES.values(), key=lambda a: len(_names(a) ^ given))


def _counters(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Returns torch's counts of training steps; raises InputError for what is no count."""
    counters = {
        name: tensor
        for name, tensor in tensors.items()
        if name.split(".")[-1] == COUNTER and tensor.ndim == 0
    }
    for name, tensor in counters.items():
        real = jax.numpy.issubdtype(tensor.dtype, jax.numpy.floating) or tensor.dtype.kind in "iub"
        if not real or not 0 <= float(tensor) < 2**63:
            raise InputError(f"{name} is {tensor.item()}, which is no number of steps; set it to 0")
    return {name: int(tensor) for name, tensor in counters.items()}


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
    """Writes `to_torch(weights)` to a file whose metadata hold what else is known of them."""
    meta = {
        "iter": weights.step,
        "classes": weights.classes,
        "palette": weights.palette,
        "pictures": weights.pictures,
    }
    # Not `save_file`, whose files nobody but their owner may read, and whose errors are no OSError.
    data = safetensors.numpy.save(
        to_torch(weights), {"format": "pt", "massformer": json.dumps(meta)}
    )
    write_atomically(path, data)


def write_exchanged(weights: Weights, folder: pathlib.Path) -> None:
    """Writes weights in the form of `massformer_jax.models.exchange` into a folder.

    Raises:
        InputError: they are of an encoder alone.
    """
    if "classes" not in weights.architecture:
        raise InputError("an encoder alone is not exchanged; convert the weights of a whole model")
    write_safetensors(weights, folder / TENSORS)
    # The tensors hold the counters.
    source = {key: value for key, value in (weights.source or {}).items() if key != "counters"}
    facts = {
        "library_name": "massformer_jax",
        "architecture": dict(weights.architecture),
        "classes": weights.classes,
        "palette": weights.palette,
        "pictures": weights.pictures,
        "step": weights.step,
        "source": source or None,
        "sha256": sha256(folder / TENSORS),
    }
    write_atomically(folder / FACTS, (json.dumps(facts, indent=1) + "\n").encode())
