"""The assignment of queries to the classes of an image: targets, costs, and which one is cheapest.

Everything has static shapes: each image has one target slot for each class, slot k for class k, and
a flag that says whether the class is present. Source: Cheng et al., "Masked-attention Mask
Transformer" (CVPR 2022), section 3; mmdet's `HungarianAssigner` with its three match costs.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from massformer_jax.ops.points import sample_corners, sample_points
from massformer_jax.ops.precision import float32_products

CLASS_COST, MASK_COST, DICE_COST = 2.0, 5.0, 5.0
_WORST = 1e6  # stands for a cost that is no number; real costs stay below a few thousand


def target_masks(labels: UInt8[Array, "b h w"], classes: int) -> Bool[Array, "b k h w"]:
    """Returns one mask for each class. Ignored pixels (255) are in none of them."""
    return labels[:, None] == jnp.arange(classes, dtype=labels.dtype).reshape(1, classes, 1, 1)


def match_costs(
    class_logits: Float[Array, "b q k1"],
    mask_embeds: Float[Array, "b q e"],
    mask_features: Float[Array, "b h w e"],
    labels: UInt32[Array, "b _ _"],
    points: Float[Array, "b p 2"],
) -> Float[Array, "b k q"]:
    """Returns the cost of giving query q to class k: 2 · (-probability) + 5 · mean BCE + 5 · dice.

    BCE and dice compare mask logits with target masks at `points`, which all masks of an image
    share. No gradient flows through the costs. `labels` are `corners` of the label maps.

    Masks of all queries are never formed. Sampling is linear, so the *features* are sampled, once
    for all queries, and multiplied with the embeddings: for 1024x1024, e = 256, 100 queries and
    12544 points that is 0.6 GFLOP and 51 MB of gathers per image, against 3.4 GFLOP and a 26 MB map
    (at 1/4; at 1/2, the last head, 13.4 GFLOP and 105 MB). The same holds for the targets: labels
    are read at the points and compared with all classes there.
    """
    class_logits, mask_embeds, mask_features = jax.lax.stop_gradient(
        (class_logits, mask_embeds, mask_features)
    )
    classes = class_logits.shape[-1] - 1
    features = sample_points(mask_features, points)
    product = functools.partial(jnp.einsum, precision=float32_products())
    logits = product("bqe,bpe->bqp", mask_embeds.astype(features.dtype), features)
    targets = sample_corners(
        labels,
        points.astype(features.dtype),
        read=lambda label: jax.nn.one_hot(label, classes, dtype=features.dtype),
    )

    # BCE(x, t) = softplus(x) - x · t: its sum over points is linear in the targets.
    softplus = jax.nn.softplus(logits).sum(-1)[:, None]
    bce = (softplus - product("bqp,bpk->bkq", logits, targets)) / points.shape[-2]

    inside = jax.nn.sigmoid(logits)
    overlap = product("bqp,bpk->bkq", inside, targets)
    areas = inside.sum(-1)[:, None] + targets.sum(1)[..., None]
    dice = 1 - (2 * overlap + 1) / (areas + 1)

    probabilities = jax.nn.softmax(class_logits.astype(features.dtype), -1)[..., :-1]
    class_cost = -jnp.swapaxes(probabilities, 1, 2)
    return CLASS_COST * class_cost + MASK_COST * bce + DICE_COST * dice


def assign(costs: Float[Array, "*b k q"], present: Bool[Array, "*b k"]) -> Int[Array, "*b k"]:
    """Returns the query of each class, at the smallest total cost of the classes that are present.

    Each absent class gets one of the queries that are left over.

    Raises:
        ValueError: there are fewer queries than classes.
    """
    *batch, classes, queries = costs.shape
    if queries < classes:
        raise ValueError(
            f"{queries} queries cannot answer for {classes} classes: use at least {classes} queries"
        )
    flat = jax.vmap(_assign_image)(
        costs.reshape(-1, classes, queries), present.reshape(-1, classes)
    )
    return flat.reshape(*batch, classes)


def _assign_image(costs: Float[Array, "k q"], present: Bool[Array, " k"]) -> Int[Array, " k"]:
    # The algorithm adds one row after the other. Rows of absent classes come last and cost nothing
    # anywhere, so each takes a free query at once and moves no row that came before it: the
    # present classes get what they would get alone, also in a tie.
    order = jnp.argsort(~present, stable=True)
    costs = jnp.where(present[:, None], costs, 0)[order]
    # A diverged step must not hang the device: the loop inside never ends on nan. The dtype is the
    # one that optax creates its potentials with.
    costs = jnp.nan_to_num(costs, nan=_WORST, posinf=_WORST, neginf=-_WORST).astype(float)
    rows, chosen = optax.assignment.hungarian_algorithm(costs)
    return jnp.zeros(len(order), jnp.int32).at[order[rows]].set(chosen.astype(jnp.int32))


def matched_labels(
    queries: Int[Array, "*b k"], present: Bool[Array, "*b k"], count: int
) -> Int[Array, "*b q"]:
    """Returns the class of each of `count` queries: the one it answers for, else K, "no object"."""
    classes = queries.shape[-1]
    hit = jax.nn.one_hot(queries, count, dtype=bool) & present[..., None]
    return jnp.where(hit.any(-2), jnp.argmax(hit, -2), classes).astype(jnp.int32)
