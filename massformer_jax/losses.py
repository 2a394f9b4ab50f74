"""The training losses of MaSSFormer, with the matching on the device.

Source: Xie et al., "MaSS13K" (CVPR 2025), section 4; `MaSSFormerHead.loss_by_feat` of the release,
which is Mask2Former's loss with a boundary weight on the points and an edge term.

What it costs an image at 1024x1024, e = 256, K = 7: maps of the K slots are built whole and then
sampled. The six heads at 1/4 share their features, so their 42 maps are one matrix product of
1.4 GFLOP that reads 67 MB once; the seven maps of the last head at 1/2 take 0.9 GFLOP and 268 MB.
Sampling features instead, as the matching does, would gather 3P · K points of 1 kB in four corners:
1.1 GB for every head.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from massformer_jax import matching
from massformer_jax.models.massformer import Outputs
from massformer_jax.ops.edges import edge_map, pack_masks, unpack_masks
from massformer_jax.ops.points import sample_points, widened
from massformer_jax.ops.resize import resize_bilinear

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT, EDGE_WEIGHT = 2.0, 5.0, 5.0, 10.0
NO_OBJECT_WEIGHT = 0.1
BOUNDARY_WEIGHT = 5.0
# Release: mmdet adds float32's epsilon to every divisor, whatever the dtype
# (train_parity_test.test_loss_terms).
EPSILON = float(np.finfo(np.float32).eps)


class HeadPoints(NamedTuple):
    """The random points of one head, (x, y) in [0, 1): P = 12544 of them a mask in the release.

    P is the number of `match`; P - r of the `oversampled` candidates are kept.
    """

    match: Float[Array, "b p 2"]  # one set an image
    oversampled: Float[Array, "b k o 2"]  # o = 3P candidates for every target mask
    random: Float[Array, "b k r 2"]  # r = P / 4, used as they are


def draw_points(
    key: Key[Array, ""],
    heads: int,
    batch: int,
    classes: int,
    *,
    points: int = 12544,
    oversample_ratio: float = 3.0,
    importance_ratio: float = 0.75,
) -> list[HeadPoints]:
    """Fresh uniform points for every head, float32, the same for any number of devices."""
    kept = int(importance_ratio * points)
    shapes = HeadPoints(
        match=(batch, points, 2),
        oversampled=(batch, classes, int(oversample_ratio * points), 2),
        random=(batch, classes, points - kept, 2),
    )
    keys = jax.random.split(key, (heads, len(shapes)))
    return [
        HeadPoints(*(jax.random.uniform(k, s) for k, s in zip(row, shapes, strict=True)))
        for row in keys
    ]


def losses(
    outputs: Outputs,
    labels: UInt8[Array, "b y x"],
    points: Sequence[HeadPoints],
    *,
    edge_target: Literal["edges", "ones"] = "edges",
    assign: matching.Assign = matching.assign,
) -> dict[str, Float[Array, ""]]:
    """The weighted loss terms, under the release's names; their sum is what is minimised.

    Args:
      outputs: of the network, for images of y by x pixels.
      labels: 0..K-1, and 255 for pixels that are in no target; other values are in none either.
      points: of every head, see `draw_points`.
      edge_target: "edges" trains the edge branch on the edges of the label map, as the paper says;
        "ones" on the release's target, an edge at every pixel.
      assign: `matching.assign_on(mesh, axis)` where the batch is sharded.

    Returns:
      float32 scalars (float64 if outputs are): `loss_cls`, `loss_mask`, `loss_dice` of the last
      head, the same with prefix `d{i}.` of head i before it, and `edge_loss`.

    A batch that is sharded under jit is one batch here: matched masks are counted over all devices.
    That is the release's average over devices, with two differences that vanish where devices hold
    equally many masks: the release divides the class loss by the weights of each device's own
    targets, and takes at least one mask *a device* as divisor, not one in all.
    """
    classes = outputs.class_logits.shape[-1] - 1
    masks = matching.target_masks(labels, classes)
    present = masks.any((-2, -1))
    packed = pack_masks(masks)
    queries = match(outputs, labels, points, present, assign=assign)

    terms = {"edge_loss": EDGE_WEIGHT * edge_loss(outputs.edge_logits, labels, edge_target)}
    maps = matched_maps(outputs, queries)
    last = len(maps) - 1
    for head in [last, *range(last)]:
        prefix = "" if head == last else f"d{head}."
        found = matching.matched_labels(queries[head], present, outputs.class_logits.shape[2])
        class_term = class_loss(outputs.class_logits[head], found)
        mask_term, dice_term = mask_losses(maps[head], packed, present, points[head])
        terms[f"{prefix}loss_cls"] = CLASS_WEIGHT * class_term
        terms[f"{prefix}loss_mask"] = MASK_WEIGHT * mask_term
        terms[f"{prefix}loss_dice"] = DICE_WEIGHT * dice_term
    return terms


def total(terms: Mapping[str, Float[Array, ""]]) -> Float[Array, ""]:
    """What is minimised: the sum of the terms."""
    return sum(terms.values(), start=jnp.zeros_like(terms["edge_loss"]))


def match(
    outputs: Outputs,
    labels: UInt8[Array, "b y x"],
    points: Sequence[HeadPoints],
    present: Bool[Array, "b k"],
    *,
    assign: matching.Assign = matching.assign,
) -> Int[Array, "heads b k"]:
    """The query that answers for each class, in every head; meaningless for absent classes."""
    features = _features_of_heads(outputs)
    costs = jnp.stack(
        [
            matching.match_costs(*head, labels, drawn.match)
            for *head, drawn in zip(
                outputs.class_logits, outputs.mask_embeds, features, points, strict=True
            )
        ]
    )
    return assign(costs, jnp.broadcast_to(present, (len(costs), *present.shape)))


def _features_of_heads(outputs: Outputs) -> list[Float[Array, "b h w e"]]:
    """Mask features as each head sees them: at 1/4, but at 1/2 for the last."""
    full = outputs.mask_features
    half = resize_bilinear(full, (full.shape[1] // 2, full.shape[2] // 2))
    return [half] * (len(outputs.mask_embeds) - 1) + [full]


def matched_maps(
    outputs: Outputs, queries: Int[Array, "heads b k"]
) -> list[Float[Array, "b k h w"]]:
    """Mask logits of the matched queries, of every head at its own resolution; float32 or wider."""
    embeds = jnp.take_along_axis(outputs.mask_embeds, queries[..., None], axis=2)
    half, *_, full = _features_of_heads(outputs)
    # The operands keep the features' dtype: a float32 copy of bfloat16 features would be the
    # largest array of the step. Products are summed in float32.
    embeds = embeds.astype(full.dtype)
    dtype = widened(full.dtype)
    early = jnp.einsum("ibke,bhwe->ibkhw", embeds[:-1], half, preferred_element_type=dtype)
    late = jnp.einsum("bke,bhwe->bkhw", embeds[-1], full, preferred_element_type=dtype)
    return [*early, late]


def class_loss(logits: Float[Array, "b q k1"], labels: Int[Array, "b q"]) -> Float[Array, ""]:
    """Cross entropy, "no object" (the last class) weighing 0.1, over the sum of the weights."""
    logits = logits.astype(widened(logits.dtype))
    log_probabilities = jax.nn.log_softmax(logits, -1)
    surprise = -jnp.take_along_axis(log_probabilities, labels[..., None], -1)[..., 0]
    no_object = labels == logits.shape[-1] - 1
    weights = jnp.where(no_object, NO_OBJECT_WEIGHT, 1.0).astype(logits.dtype)
    return (weights * surprise).sum() / (weights.sum() + EPSILON)


def mask_losses(
    maps: Float[Array, "b k h w"],
    packed: UInt8[Array, "b k y x"],
    present: Bool[Array, "b k"],
    points: HeadPoints,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """BCE, weighted near the boundary of the target, and dice of the matched masks, at P points.

    Args:
      maps: mask logits of the matched queries.
      packed: target masks and boundary weights, see `pack_masks`.
      present: slots that are targets; the others add nothing.
      points: of this head.
    """
    packed = packed[..., None]
    chosen = uncertain_points(maps, packed, points)
    logits = sample_points(maps[..., None], chosen)[..., 0]
    unpacked = sample_points(
        packed,
        chosen,
        read=lambda byte: jnp.concatenate(unpack_masks(byte, logits.dtype), -1),
    )
    targets, boundary = unpacked[..., 0], unpacked[..., 1]

    bce = optax.sigmoid_binary_cross_entropy(logits, targets)
    bce = ((1 + BOUNDARY_WEIGHT * boundary) * bce).sum(-1)
    inside = jax.nn.sigmoid(logits)
    areas = inside.sum(-1) + targets.sum(-1)
    dice = 1 - (2 * (inside * targets).sum(-1) + 1) / (areas + 1)

    count = jnp.maximum(present.sum(), 1).astype(logits.dtype)
    mask_term = jnp.where(present, bce, 0).sum() / (count * logits.shape[-1] + EPSILON)
    dice_term = jnp.where(present, dice, 0).sum() / (count + EPSILON)
    return mask_term, dice_term


def uncertain_points(
    maps: Float[Array, "b k h w"], packed: UInt8[Array, "b k y x 1"], points: HeadPoints
) -> Float[Array, "b k p 2"]:
    """The P points where the losses look: the least certain candidates, then the random ones.

    A candidate's uncertainty is -|logit| · s, where s is the *map* 1 - boundary weight read at the
    point, so it too fades to 0 within half a pixel of the border. Choosing has no gradient.
    """
    maps = jax.lax.stop_gradient(maps)
    candidates = points.oversampled.astype(maps.dtype)
    logits = sample_points(maps[..., None], candidates)[..., 0]
    shade = sample_points(
        packed, candidates, read=lambda byte: 1 - unpack_masks(byte, maps.dtype)[1]
    )[..., 0]
    keep = points.match.shape[-2] - points.random.shape[-2]
    _, index = jax.lax.top_k(-jnp.abs(logits) * shade, keep)
    kept = jnp.take_along_axis(candidates, index[..., None], axis=-2)
    return jnp.concatenate([kept, points.random.astype(maps.dtype)], axis=-2)


def edge_loss(
    logits: Float[Array, "b h w 1"],
    labels: UInt8[Array, "b y x"],
    target: Literal["edges", "ones"],
) -> Float[Array, ""]:
    """Mean BCE of the edge logits, resized to the labels, over all pixels."""
    logits = logits.astype(widened(logits.dtype))
    logits = resize_bilinear(logits, labels.shape[1:])[..., 0]
    if target == "edges":
        targets = edge_map(labels).astype(logits.dtype)
    elif target == "ones":
        # Release: it compares the map of 0 and 1 with 255 and so asks for an edge everywhere, also
        # where the label is ignored (train_parity_test.test_loss_terms).
        targets = jnp.ones_like(logits)
    else:
        raise ValueError(f'edge_target is "edges" or "ones", not {target!r}')
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean()
