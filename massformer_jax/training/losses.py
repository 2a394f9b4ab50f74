"""The training losses of MaSSFormer, with the matching on the device.

Source: Xie et al., "MaSS13K" (CVPR 2025), section 4; `MaSSFormerHead.loss_by_feat` of the release,
which is Mask2Former's loss with a boundary weight on the points and an edge term. Without `Trust`
they are the released ones.

What it costs per image of 1024x1024, with e = 256 and K = 7: maps of the K slots are built as a
whole and then sampled. The six heads at 1/4 share their features, so their 42 maps are one matrix
product of 1.4 GFLOP that reads 67 MB once; the seven maps of the last head at 1/2 take 0.9 GFLOP
and 268 MB. Sampling features instead, as the matching does, would gather 3P · K points of 1 kB in
four corners: 1.1 GB for every head.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key, UInt8, UInt32

from massformer_jax.models.massformer import Outputs
from massformer_jax.ops.edges import edge_map, pack_masks, unpack_masks
from massformer_jax.ops.points import corners, sample_corners
from massformer_jax.ops.precision import widened
from massformer_jax.ops.resize import resize_bilinear
from massformer_jax.parallel.sharding import CROPS
from massformer_jax.training import matching
from massformer_jax.training.trust import Doubt, Trust, doubt_of, pixel_shares

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT, EDGE_WEIGHT = 2.0, 5.0, 5.0, 10.0
NO_OBJECT_WEIGHT = 0.1
BOUNDARY_WEIGHT = 5.0
# Release: mmdet adds float32's epsilon to every divisor, whatever the dtype
# (tests/training/train_parity_test.py::test_loss_terms).
EPSILON = float(np.finfo(np.float32).eps)


class Points(NamedTuple):
    """The random points of all heads, (x, y) in [0, 1): P = 12544 per mask in the release.

    Attributes:
        match: P points per image, at which queries are matched with classes.
        oversampled: 3P candidates for every target mask, of which P - r are kept.
        random: r = P / 4 points for every target mask, used as they are.
    """

    match: Float[Array, "heads b p 2"]
    oversampled: Float[Array, "heads b k o 2"]
    random: Float[Array, "heads b k r 2"]


class Totals(NamedTuple):
    """What losses are divided by, which depends on the labels alone; of a batch, see `totals`.

    Attributes:
        masks: number of target masks, at least 1.
        class_weights: sum of the weights of all queries in the class loss of a head.
        pixels: sum of the weights of all pixels in the edge loss.
    """

    masks: Float[Array, ""]
    class_weights: Float[Array, ""]
    pixels: Float[Array, ""]


def draw_points(
    key: Key[Array, ""],
    heads: int,
    batch: int,
    classes: int,
    *,
    points: int = 12544,
    oversample_ratio: float = 3.0,
    importance_ratio: float = 0.75,
) -> Points:
    """Returns uniform points for every head, float32, the same for any number of devices."""
    kept = int(importance_ratio * points)
    match, oversampled, random = jax.random.split(key, 3)
    candidates = int(oversample_ratio * points)
    return Points(
        match=jax.random.uniform(match, (heads, batch, points, 2)),
        oversampled=jax.random.uniform(oversampled, (heads, batch, classes, candidates, 2)),
        random=jax.random.uniform(random, (heads, batch, classes, points - kept, 2)),
    )


def losses(
    outputs: Outputs,
    labels: UInt8[Array, "b y x"],
    points: Points,
    *,
    edge_target: str = "edges",
    trust: Trust | None = None,
    annotated: Bool[Array, "b k"] | None = None,
    whole: Totals | None = None,
) -> dict[str, Float[Array, ""]]:
    """Returns the weighted loss terms, under the release's names; their sum is minimised.

    Args:
        outputs: what the network returned for images of y by x pixels.
        labels: 0..K-1, and 255 for pixels that are in no target; other values are in none either.
        points: of every head, see `draw_points`.
        edge_target: "edges" trains the edge branch on the edges of the label map, as the paper
            says; "ones" on the release's target, an edge at every pixel.
        trust: how far labels are to be trusted; None for completely, as released.
        annotated: whether a class was annotated in an image, if it is there; None for all. Where
            one was not, a query that finds it is not told that there is no object.
        whole: totals of the batch of which these images are a part, so that the terms of all parts
            add up to those of the batch; None if they are a batch.

    Returns:
        float32 scalars (float64 if outputs are): `loss_cls`, `loss_mask`, `loss_dice` of the last
        head, the same with prefix `d{i}.` of head i before it, and `edge_loss`.

    Raises:
        ValueError: an unknown edge target, or fewer queries than classes.

    In the context `massformer_jax.parallel.sharding.training_on` what belongs to one image is
    computed where the image is. Elsewhere the result is the same, but the compiler gathers a batch
    that is split, for the matching and for the choice of points.

    A sharded batch is one batch here: matched masks are counted over all devices. That is the
    release's average over devices, with two differences that vanish where devices hold equally many
    masks: the release divides the class loss by the weights of each device's own targets, and its
    divisor is at least one mask on *each device*, not one in all.
    """
    local = functools.partial(image_terms, trust=trust)
    if not jax.sharding.get_abstract_mesh().empty:
        batch, heads = PartitionSpec(CROPS), PartitionSpec(None, CROPS)
        # check_vma: the loops of the matching start from constants, which it does not accept.
        local = jax.shard_map(
            local,
            in_specs=(Outputs(heads, heads, batch, batch), batch, heads),
            out_specs=ImageTerms(batch, heads, heads, heads),
            check_vma=False,
        )
    present, queries, bce, dice = local(outputs, labels, points)
    masks = jnp.maximum(present.sum(), 1).astype(bce.dtype) if whole is None else whole.masks

    edges = edge_loss(outputs.edge_logits, labels, edge_target, trust, whole and whole.pixels)
    terms = {"edge_loss": EDGE_WEIGHT * edges}
    last = len(queries) - 1
    for head in [last, *range(last)]:
        prefix = "" if head == last else f"d{head}."
        logits = outputs.class_logits[head]
        found = matching.matched_labels(queries[head], present, logits.shape[1])
        mask_term = bce[head].sum() / (masks * points.match.shape[-2] + EPSILON)
        dice_term = dice[head].sum() / (masks + EPSILON)
        classes = class_loss(logits, found, annotated, whole and whole.class_weights)
        terms[f"{prefix}loss_cls"] = CLASS_WEIGHT * classes
        terms[f"{prefix}loss_mask"] = MASK_WEIGHT * mask_term
        terms[f"{prefix}loss_dice"] = DICE_WEIGHT * dice_term
    return terms


def totals(
    labels: UInt8[Array, "b y x"], *, classes: int, queries: int, trust: Trust | None = None
) -> Totals:
    """Returns what the losses of a batch are divided by, float32."""
    present = matching.target_masks(labels, classes).any((-2, -1)).sum().astype(jnp.float32)
    others = labels.shape[0] * queries - present
    pixels = jnp.float32(labels.size) if trust is None else pixel_shares(labels, trust).sum()
    return Totals(jnp.maximum(present, 1), present + NO_OBJECT_WEIGHT * others, pixels)


def total(terms: Mapping[str, Float[Array, ""]]) -> Float[Array, ""]:
    """Returns what is minimised, the sum of the terms."""
    first, *_ = terms.values()
    return sum(terms.values(), start=jnp.zeros_like(first))


class ImageTerms(NamedTuple):
    """The parts of the losses that belong to one image each: none depends on another image.

    Attributes:
        present: whether the image has pixels of a class.
        queries: the query that answers for it; meaningless where the class is absent.
        bce: binary cross entropy, summed over the points; 0 where the class is absent.
        dice: dice loss, 0..1; 0 where the class is absent.
    """

    present: Bool[Array, "b k"]
    queries: Int[Array, "heads b k"]
    bce: Float[Array, "heads b k"]
    dice: Float[Array, "heads b k"]


def image_terms(
    outputs: Outputs,
    labels: UInt8[Array, "b y x"],
    points: Points,
    *,
    trust: Trust | None = None,
) -> ImageTerms:
    """Matches queries with classes and compares their masks, image by image."""
    full = outputs.mask_features
    half = resize_bilinear(full, (full.shape[1] // 2, full.shape[2] // 2))
    groups = ((half, slice(None, -1)), (full, slice(-1, None)))  # features and their heads
    masks = matching.target_masks(labels, outputs.class_logits.shape[-1] - 1)
    present = masks.any((-2, -1))
    packed = corners(pack_masks(masks))
    label_corners = corners(labels)
    doubt = None
    if trust is not None:
        doubt = doubt_of(labels, trust, masks.shape[1])

    # Heads go one after the other: it bounds the memory, and a head is compiled once.
    def costs_of(features, heads):
        args = (outputs.class_logits[heads], outputs.mask_embeds[heads], points.match[heads])
        return jax.lax.map(
            lambda head: matching.match_costs(*head[:2], features, label_corners, head[2]), args
        )

    costs = jnp.concatenate([costs_of(*group) for group in groups])
    here = jnp.broadcast_to(present, costs.shape[:-1])
    queries = matching.assign(costs, here)
    embeds = jnp.take_along_axis(outputs.mask_embeds, queries[..., None], axis=2)

    def terms_of(features, heads):
        args = (mask_maps(embeds[heads], features), Points(*(x[heads] for x in points)))
        return jax.lax.map(lambda head: point_terms(*head, packed, doubt), args)

    terms = [terms_of(*group) for group in groups]
    bce, dice = (jnp.where(here, jnp.concatenate(x), 0) for x in zip(*terms, strict=True))
    return ImageTerms(present, queries, bce, dice)


def mask_maps(
    embeds: Float[Array, "heads b k e"], features: Float[Array, "b h w e"]
) -> Float[Array, "heads b k h w"]:
    """Returns the mask logits, float32 or wider, of heads that share their features.

    The operands keep the features' dtype: a float32 copy of bfloat16 features would be the largest
    array of the step.
    """
    # The barrier keeps the embeds' change of layout out of the product's fusion: where numbers are
    # no powers of two, XLA's compiler for GPUs may find no tiles for that. Unless it can try others
    # on a GPU, it fails (jax#34010).
    embeds = jax.lax.optimization_barrier(jnp.moveaxis(embeds.astype(features.dtype), 0, 1))
    maps = jnp.einsum(
        "bike,bhwe->bikhw", embeds, features, preferred_element_type=widened(features.dtype)
    )
    return jnp.moveaxis(maps, 1, 0)


def class_loss(
    logits: Float[Array, "b q k1"],
    labels: Int[Array, "b q"],
    annotated: Bool[Array, "b k"] | None = None,
    weight: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Returns the mean cross entropy, in which "no object" (the last class) weighs 0.1.

    Args:
        logits: of all queries.
        labels: their classes; the last one is "no object".
        annotated: where a class was not annotated, what is no object of the other classes may be
            one of it: the probability that counts is then the sum of both.
        weight: what the sum is divided by; None for the sum of the weights.
    """
    logits = logits.astype(widened(logits.dtype))
    log_probabilities = jax.nn.log_softmax(logits, -1)
    surprise = -jnp.take_along_axis(log_probabilities, labels[..., None], -1)[..., 0]
    no_object = labels == logits.shape[-1] - 1
    if annotated is not None:
        # Paper: it trains each new class where it has pseudo labels, and does not say what other
        # photographs teach about it. This is the loss of partially annotated data.
        possible = jnp.pad(~annotated, ((0, 0), (0, 1)), constant_values=True)
        nothing = jax.nn.logsumexp(log_probabilities, -1, where=possible[:, None])
        surprise = jnp.where(no_object, -nothing, surprise)
    weights = jnp.where(no_object, NO_OBJECT_WEIGHT, 1.0).astype(logits.dtype)
    weight = weights.sum() if weight is None else weight
    return (weights * surprise).sum() / (weight + EPSILON)


def point_terms(
    maps: Float[Array, "b k h w"],
    points: Points,
    packed: UInt32[Array, "b k _ _"],
    doubt: Doubt | None = None,
) -> tuple[Float[Array, "b k"], Float[Array, "b k"]]:
    """Returns two losses of each mask: binary cross entropy (BCE) over P points, and dice.

    BCE is weighted near the boundary of the target, and summed. Where labels are doubtful, both are
    weighted by how far they are trusted, of whatever class the mask is.

    Args:
        maps: mask logits of the matched queries.
        points: those of this head, without the axis of heads.
        packed: `corners` of target masks and boundary weights, see `pack_masks`.
        doubt: where labels are doubtful; None for nowhere.
    """
    chosen = uncertain_points(maps, points, packed, doubt)
    logits = sample_corners(corners(maps), chosen)
    unpacked = sample_corners(
        packed, chosen, read=lambda byte: jnp.stack(unpack_masks(byte, logits.dtype), -1)
    )
    targets, boundary = unpacked[..., 0], unpacked[..., 1]
    bce = optax.sigmoid_binary_cross_entropy(logits, targets)
    inside = jax.nn.sigmoid(logits)
    weights = 1 + BOUNDARY_WEIGHT * boundary
    overlap = inside * targets
    if doubt is not None:
        shares, exact = doubt.shares(chosen, logits.dtype)
        weights = jnp.where(exact, weights, 1) * shares
        # Paper: nothing is said of dice. Unweighted it would pull masks to a wrong border.
        overlap, inside, targets = (x * shares for x in (overlap, inside, targets))
    areas = inside.sum(-1) + targets.sum(-1)
    dice = 1 - (2 * overlap.sum(-1) + 1) / (areas + 1)
    return (weights * bce).sum(-1), dice


def uncertain_points(
    maps: Float[Array, "b k h w"],
    points: Points,
    packed: UInt32[Array, "b k _ _"],
    doubt: Doubt | None = None,
) -> Float[Array, "b k p 2"]:
    """Returns the P points where the losses look: the least certain candidates, then random ones.

    A candidate's uncertainty is -|logit| · s, where s is the *map* 1 - boundary weight read at the
    point, so it too fades to 0 within half a pixel of the border. Near a doubtful border s is the
    reciprocal of the trust instead, so that few points lie there. Choosing has no gradient.
    """
    maps = jax.lax.stop_gradient(maps)
    candidates = points.oversampled.astype(maps.dtype)
    logits = sample_corners(corners(maps), candidates)
    shade = sample_corners(
        packed, candidates, read=lambda byte: 1 - unpack_masks(byte, maps.dtype)[1]
    )
    if doubt is not None:
        shares, exact = doubt.shares(candidates, maps.dtype)
        shade = jnp.where(exact, shade, 1 / jnp.maximum(shares, 1e-3))
    keep = points.match.shape[-2] - points.random.shape[-2]
    _, index = jax.lax.top_k(-jnp.abs(logits) * shade, keep)
    kept = jnp.take_along_axis(candidates, index[..., None], axis=-2)
    return jnp.concatenate([kept, points.random.astype(maps.dtype)], axis=-2)


def edge_loss(
    logits: Float[Array, "b h w 1"],
    labels: UInt8[Array, "b y x"],
    target: str,
    trust: Trust | None = None,
    weight: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Returns the mean BCE of the resized edge logits over all pixels.

    Args:
        logits: at half the size of the labels.
        labels: label maps.
        target: `edge_target` of `losses`.
        trust: the mean is weighted by how far labels are trusted; None for completely.
        weight: what the sum is divided by; None for the sum of the pixels' weights.
    """
    logits = logits.astype(widened(logits.dtype))
    logits = resize_bilinear(logits, labels.shape[1:])[..., 0]
    if target == "edges":
        targets = edge_map(labels).astype(logits.dtype)
    elif target == "ones":
        # Release: it compares the map of 0 and 1 with 255 and so asks for an edge everywhere, also
        # where the label is ignored (tests/training/train_parity_test.py::test_loss_terms).
        targets = jnp.ones_like(logits)
    else:
        raise ValueError(f'edge_target is "edges" or "ones", not {target!r}')
    bce = optax.sigmoid_binary_cross_entropy(logits, targets)
    if trust is None and weight is None:
        return bce.mean()
    weights = jnp.ones_like(bce) if trust is None else pixel_shares(labels, trust)
    weight = weights.sum() if weight is None else weight
    return (weights * bce).sum() / (weight + EPSILON)
