"""The recorded answers of the released model: its weights by recipe, probes, and fixtures."""

import functools
import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from massformer_jax.models.build import architecture
from massformer_jax.models.massformer import MaSSFormer, Outputs
from massformer_jax.models.names import from_torch
from massformer_jax.ops.resize import resize_bilinear
from massformer_jax.training.losses import Points

PARITY = pathlib.Path(__file__).parents[1] / "parity"


def model_kwargs(manifest: str) -> dict:
    """Returns the arguments of MaSSFormer for `r50` or `r18_lite`."""
    return architecture(f"massformer_{manifest}")


@functools.cache
def shapes(manifest: str) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of the released state dict, in order."""
    return json.loads((PARITY / f"state_dict_{manifest}.json").read_text())


def recipe_tensor(seed: int, key: str, shape) -> np.ndarray:
    """Returns one tensor of the recipe, by the first rule that fits its name."""
    g = np.random.default_rng(zlib.crc32(f"{seed}/{key}".encode()))
    shape = tuple(shape)

    def n(scale):
        return g.standard_normal(shape).astype(np.float32) * np.float32(scale)

    fan_in = np.prod(shape[1:])
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_mean"):
        return n(0.1)
    if key.endswith("running_var"):
        return (0.5 + g.random(shape)).astype(np.float32)
    if len(shape) == 1:
        scale = 0.02 if "transformer_decoder" in key or "embed" in key else 0.1
        return np.float32(key.endswith("weight")) + n(scale)
    if "dcn_offset" in key:
        return n(1 / np.sqrt(fan_in))
    if any(name in key for name in ("query_feat", "query_embed", "level_embed")):
        return n(1.0)
    if "cls_embed" in key:
        return n(5 / np.sqrt(fan_in))
    if "mask_embed.4" in key:
        return n(20 / np.sqrt(fan_in))
    if "transformer_decoder" in key and ("out_proj" in key or "ffn.layers.1" in key):
        return n(0.1 / np.sqrt(fan_in))
    return n(1 / np.sqrt(fan_in))


@functools.cache
def state_dict(manifest: str, seed: int) -> dict[str, np.ndarray]:
    """Returns the recipe's weights, with the names and layout of torch."""
    return {key: recipe_tensor(seed, key, shape) for key, shape in shapes(manifest).items()}


def released_weights(manifest: str, seed: int, *, training: bool, dtype=np.float32):
    """Returns (graphdef, params, batch_stats) with the recipe's weights."""
    build = functools.partial(MaSSFormer, **model_kwargs(manifest))
    model = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    model = nnx.view(model, use_running_average=not training)
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    like = (nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats))
    params, batch_stats = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype), from_torch(state_dict(manifest, seed), like)
    )
    return graphdef, params, batch_stats


def probe(x, count: int) -> np.ndarray:
    """Returns the values of an array at evenly spaced positions of its flattened form."""
    flat = np.asarray(x).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(count, flat.size)).astype(np.int64)]


def nchw(x) -> np.ndarray:
    """Returns [b, h, w, c] in the layout of the reference, [b, c, h, w]."""
    return np.moveaxis(np.asarray(x), -1, 1)


def recorded_points(z, head: int, present: np.ndarray) -> Points:
    """Returns the points of a training record in our order; it lists masks by image, then query."""
    oversampled = np.zeros((*present.shape, *z[f"points/oversampled.{head}"].shape[1:]), np.float32)
    random = np.zeros((*present.shape, *z[f"points/random.{head}"].shape[1:]), np.float32)
    row = 0
    for image, assigned in enumerate(z[f"assigned_gt.{head}"]):
        slots = np.flatnonzero(present[image])
        for target in assigned[assigned > 0]:
            oversampled[image, slots[target - 1]] = z[f"points/oversampled.{head}"][row]
            random[image, slots[target - 1]] = z[f"points/random.{head}"][row]
            row += 1
    assert row == len(z[f"points/random.{head}"])
    return Points(z[f"points/match.{head}"], oversampled, random)


def read_rgb(path) -> np.ndarray:
    # Not above: the benchmark for GPUs builds the weights where there is no OpenCV.
    import cv2

    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def read_labels(path) -> np.ndarray:
    import cv2

    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def mask_logits(outputs: Outputs, head: int) -> jax.Array:
    """Returns the mask logits [b, h, w, q] of one head: at 1/2 for the last, else at 1/4."""
    features = outputs.mask_features
    if head % len(outputs.mask_embeds) != len(outputs.mask_embeds) - 1:
        features = resize_bilinear(features, (features.shape[1] // 2, features.shape[2] // 2))
    return jnp.einsum("bhwe,bqe->bhwq", features, outputs.mask_embeds[head])


def class_scores(outputs: Outputs) -> jax.Array:
    """Returns class scores [b, h, w, k] at the input's size, from whole maps of all queries."""
    logits = mask_logits(outputs, -1)
    _, h, w, _ = logits.shape
    masks = jax.nn.sigmoid(resize_bilinear(logits, (2 * h, 2 * w)))
    classes = jax.nn.softmax(outputs.class_logits[-1], -1)[..., :-1]
    return jnp.einsum("bhwq,bqk->bhwk", masks, classes)
