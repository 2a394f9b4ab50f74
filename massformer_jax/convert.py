"""PyTorch weights to ours and back.

    python -m massformer_jax.convert --input FILE --output DIR [--model NAME]
    python -m massformer_jax.convert --to-torch --input DIR --output FILE.safetensors

`massformer_jax.torch_names` says which tensor is which.
"""

import argparse
import functools
import json
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from massformer_jax import checkpoint
from massformer_jax.data.classes import class_names, class_palette
from massformer_jax.errors import InputError
from massformer_jax.files import written_whole
from massformer_jax.torch_names import COUNTER, flatten, from_torch, to_torch_layout, torch_name
from massformer_jax.train_state import abstract_encoder, abstract_weights
from massformer_jax.weights_file import WeightsFile, read_weights

# The released models, as arguments of MaSSFormer; the number of classes is the file's.
MODELS = {
    "massformer_r50": {
        "encoder_depth": 50,
        "decoder_width": 128,
        "ffn_width": 2048,
        "layers": 6,
        "queries": 100,
        "classes": 7,
    },
    "massformer_r18_lite": {
        "encoder_depth": 18,
        "decoder_width": 64,
        "ffn_width": 1024,
        "layers": 6,
        "queries": 100,
        "classes": 7,
    },
}


def recognise(tensors: Mapping[str, np.ndarray]) -> dict[str, int] | None:
    """The arguments of MaSSFormer that the names and shapes tell, or None if they do not."""
    head, decoder = "decode_head", "decode_head.transformer_decoder.layers"
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        model = {
            "encoder_depth": 50 if "backbone.layer1.0.conv3.weight" in shapes else 18,
            "decoder_width": shapes[f"{head}.pixel_decoder.pixel_decoder.conv_avg.conv.weight"][0],
            "ffn_width": shapes[f"{decoder}.0.ffn.layers.0.0.weight"][0],
            "layers": len({m[1] for n in shapes if (m := re.match(rf"{decoder}\.(\d+)\.", n))}),
            "queries": shapes[f"{head}.query_feat.weight"][0],
            "classes": shapes[f"{head}.cls_embed.bias"][0] - 1,
        }
    except (KeyError, IndexError):
        return None
    # Beyond these no model can be built, or none in a reasonable time.
    limits = {"decoder_width": 4096, "ffn_width": 2**16, "layers": 64, "queries": 10_000}
    if any(not 1 <= model[key] <= most for key, most in (limits | {"classes": 255}).items()):
        return None
    return None if model["decoder_width"] % 8 else model


def is_encoder(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether these are an encoder's tensors and no others, as in torchvision's files."""
    return all(name.startswith("backbone.") for name in tensors)


def weights_of(source: WeightsFile, model: Mapping[str, Any] | None = None) -> checkpoint.Weights:
    """Our weights, float32, from a file's tensors; of an encoder alone, an encoder's.

    Args:
        model: arguments of MaSSFormer; None to recognise it.

    Raises:
        InputError: the tensors do not fit the model, or it is not recognised; names the file.
    """
    tensors = source.tensors
    known, alone = recognise(tensors), is_encoder(tensors)
    if alone:
        depth = 50 if "backbone.layer1.0.conv3.weight" in tensors else 18
        known = next(m for m in MODELS.values() if m["encoder_depth"] == depth)
    if model is not None:
        model = {**model, "classes": known["classes"] if known else model["classes"]}
    # What is not recognised is compared with the model that it shares most names with.
    nearest = functools.partial(max, MODELS.values(), key=lambda m: len(_names(m) & set(tensors)))
    model = dict(model or known or nearest())
    like = abstract_encoder(model["encoder_depth"]) if alone else abstract_weights(model)
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
    classes = model["classes"]
    fits = source.classes is not None and len(source.classes) == classes
    return checkpoint.Weights(
        step=source.iteration or 0,
        model={"encoder_depth": model["encoder_depth"]} if alone else model,
        classes=source.classes if fits else class_names(classes),
        palette=source.palette if fits and source.palette else class_palette(classes),
        source={**source.provenance(), "counters": counters},
        params=params,
        batch_stats=batch_stats,
    )


def _names(model: Mapping[str, Any]) -> set[str]:
    return {torch_name(path) for path in flatten(abstract_weights(model))}


def to_torch(weights: checkpoint.Weights) -> dict[str, np.ndarray]:
    """The released state dict, with its counters: those of the file it came from, or the step."""
    tensors = {}
    counters = (weights.source or {}).get("counters", {})
    for path, leaf in flatten((weights.params, weights.batch_stats)).items():
        name = torch_name(path)
        tensors[name] = np.ascontiguousarray(to_torch_layout(path, np.asarray(leaf)))
        if name.endswith(".running_var"):
            name = name.removesuffix("running_var") + COUNTER
            tensors[name] = np.array(counters.get(name, weights.step), np.int64)
    return tensors


def write_safetensors(weights: checkpoint.Weights, path: str | os.PathLike) -> None:
    """Writes `to_torch(weights)`, with iteration, classes and palette in the metadata."""
    meta = {"iter": weights.step, "classes": weights.classes, "palette": weights.palette}
    with written_whole(path) as part:
        safetensors.numpy.save_file(
            to_torch(weights), part, {"format": "pt", "massformer": json.dumps(meta)}
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m massformer_jax.convert", description="PyTorch weights to ours and back."
    )
    parser.add_argument("--input", required=True, help="file; with --to-torch a checkpoint")
    parser.add_argument("--output", required=True, help="new folder; with --to-torch a file")
    parser.add_argument("--model", choices=sorted(MODELS), help="recognised if not named")
    parser.add_argument("--to-torch", action="store_true", help="from ours to .safetensors")
    args = parser.parse_args(argv)
    output = pathlib.Path(args.output)
    try:
        if args.to_torch:
            if output.suffix != ".safetensors":
                raise InputError(f"--output {output}: name a file that ends in .safetensors")
            device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
            weights = checkpoint.load_weights(args.input, device)
            write_safetensors(weights, output)
        else:
            if output.exists() and (not output.is_dir() or any(output.iterdir())):
                raise InputError(f"--output {output} exists; name a new folder")
            source = read_weights(args.input)
            weights = weights_of(source, MODELS[args.model] if args.model else None)
            checkpoint.save_weights(output, weights)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    count = sum(leaf.size for leaf in jax.tree.leaves(weights.params))
    what = "MaSSFormer" if "classes" in weights.model else "encoder only"
    arguments = ", ".join(f"{key} {value}" for key, value in weights.model.items())
    print(f"{args.input} -> {output}: {what}, {count:,} parameters ({arguments})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
