"""The training losses of the coordinate decoder, at coordinates that are drawn for each image.

Source: Curti et al., "CoordFormer" (arXiv 2609.08660): cross entropy, and Dice and binary cross
entropy of every class, on 16,384 uniform coordinates of an image.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt8

from massformer_jax.ops.precision import widened

CLASS_WEIGHT, DICE_WEIGHT, BCE_WEIGHT = 2.0, 5.0, 5.0


def coordinate_losses(
    logits: Float[Array, "b p k"], labels: UInt8[Array, "b p"], images: int | None = None
) -> dict[str, Float[Array, ""]]:
    """Returns the weighted loss terms, whose sum is minimised; all are means over the batch.

    Paper: whether the terms of classes see a softmax or sigmoids is not said. Here each logit is
    that of its class against all others, as the masks of MaSSFormer are. A class that an image
    lacks counts like any other: none of it is to be found.

    Args:
        logits: at the coordinates.
        labels: 0..K-1 there. Other values, such as 255, are ignored.
        images: number of images of the batch of which these are a part, so that the terms of all
            parts add up to those of the batch; None if they are a batch.

    Returns:
        float32 scalars (float64 if logits are): `loss_cls`, `loss_dice`, `loss_mask`.
    """
    logits = logits.astype(widened(logits.dtype))
    classes = logits.shape[-1]
    known = labels < classes
    weights = known.astype(logits.dtype)
    target = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    surprise = -(target * jax.nn.log_softmax(logits, -1)).sum(-1)
    # An image without any label has no loss; the other images weigh as much as before.
    count = jnp.maximum(weights.sum(-1), 1)
    weights = weights[..., None]
    bce = (weights * optax.sigmoid_binary_cross_entropy(logits, target)).sum(1) / count[:, None]
    inside = weights * jax.nn.sigmoid(logits)
    # 1 is added as in MaSSFormer's Dice: a class that is absent, and not found, has no loss.
    common = 2 * (inside * target).sum(1) + 1
    dice = 1 - common / (inside.sum(1) + target.sum(1) + 1)
    share = 1.0 if images is None else len(logits) / images
    return {
        "loss_cls": CLASS_WEIGHT * share * (surprise.sum(-1) / count).mean(),
        "loss_dice": DICE_WEIGHT * share * dice.mean(),
        "loss_mask": BCE_WEIGHT * share * bce.mean(),
    }
