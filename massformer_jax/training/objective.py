"""What is minimised in training: the one thing in a step that differs between families of networks.

MaSSFormer answers for a crop with masks, which are compared with those of the labels at points that
each step draws. CoordFormer answers for coordinates, which the input pipeline has drawn.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from massformer_jax.models.build import is_coordformer
from massformer_jax.models.massformer import normalize
from massformer_jax.training.coordinate_losses import coordinate_losses
from massformer_jax.training.losses import draw_points, losses, totals
from massformer_jax.training.trust import Trust

Batch = Mapping[str, jax.Array]
Terms = dict[str, Float[Array, ""]]


class Objective(NamedTuple):
    """How a network is trained.

    Attributes:
        examples: says of a batch how many examples of what size it has.
        draw: (key, batch) -> the random arrays of a step, each [heads, b, …]; () for none.
        answers: (network, batch, dtype) -> what the network returns for it.
        whole: what the terms of all parts of this batch are divided by, so that they add up.
        terms: (answers, batch, drawn, whole) -> the weighted loss terms of a batch, by their names;
            `whole` is None if it is no part of another one.
    """

    examples: Callable[[Batch], str]
    draw: Callable[[jax.Array, Batch], Any]
    answers: Callable[[nnx.Module, Batch, DTypeLike], Any]
    whole: Callable[[Batch], Any]
    terms: Callable[[Any, Batch, Any, Any], Terms]


def objective_of(architecture: Mapping[str, Any], **settings: Any) -> Objective:
    """Returns the objective of a network; the settings are those of its family's function."""
    if is_coordformer(architecture):
        return coordinate_objective(**settings)
    return mask_objective(architecture, **settings)


def mask_objective(
    architecture: Mapping[str, Any], *, points: int, edge_target: str, trust: Trust | None = None
) -> Objective:
    """Returns the objective of MaSSFormer.

    Its batches are {image: uint8 [b, s, s, 3], label: uint8 [b, s, s]}, and perhaps {annotated:
    bool [b, k]}, see `training.losses.losses`.

    Args:
        architecture: keyword arguments of MaSSFormer.
        points: number of points per mask (released: 12544).
        edge_target: see `training.losses.losses`.
        trust: how far labels are trusted; None for completely, as released.
    """
    heads, classes = architecture["layers"] + 1, architecture["classes"]

    def examples(batch):
        crops, h, w, _ = batch["image"].shape
        return f"{crops} crops of {w}x{h} pixels"

    def draw(key, batch):
        return draw_points(key, heads, len(batch["image"]), classes, points=points)

    def answers(network, batch, dtype):
        return network(normalize(batch["image"], dtype))

    def whole(batch):
        queries = architecture["queries"]
        return totals(batch["label"], classes=classes, queries=queries, trust=trust)

    def terms(outputs, batch, drawn, whole):
        return losses(
            outputs,
            batch["label"],
            drawn,
            edge_target=edge_target,
            trust=trust,
            annotated=batch.get("annotated"),
            whole=whole,
        )

    return Objective(examples, draw, answers, whole, terms)


def coordinate_objective() -> Objective:
    """Returns the objective of CoordFormer, whose batches are those of `data.whole`."""

    def examples(batch):
        photographs, h, w, _ = batch["image"].shape
        asked = batch["label"].shape[1]
        return f"{photographs} photographs as {w}x{h} pixels and {asked} coordinates of each"

    def answers(network, batch, dtype):
        seen = (normalize(batch[name], dtype) for name in ("image", "patches"))
        return network(*seen, batch["places"])

    def terms(logits, batch, drawn, whole):
        del drawn
        return coordinate_losses(logits, batch["label"], whole)

    return Objective(
        examples, lambda key, batch: (), answers, lambda batch: len(batch["label"]), terms
    )
