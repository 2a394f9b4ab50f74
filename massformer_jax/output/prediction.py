"""What is known of one segmented photograph: what all formats are written from."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8


@dataclasses.dataclass(frozen=True)
class Group:
    """One class, or several that count as one.

    Attributes:
        name: what files are called by: the names of the classes, joined by "+".
        members: the labels.
    """

    name: str
    members: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A photograph and what the network says of it.

    Attributes:
        image: the photograph, upright RGB, uint8 [h, w, 3].
        labels: the class of every pixel, uint8 [h, w].
        classes: the names of the labels.
        palette: their colours, RGB, uint8 [k, 3].
        groups: the groups that were asked for, in their order; by default each class is one.
        probabilities: float32 [h, w, k] in 0..1, whose sum over the classes is 1; None if no format
            needs them.
        alphas: for each group's name, the share of every pixel that it covers, float32 [h, w] in
            0..1; empty if no format needs them.
        foregrounds: for each group's name, the colours of what covers the pixel, without those of
            what is behind it, RGB, uint8 [h, w, 3]; empty if no format needs them.
        orientation: the EXIF orientation, 1..8, by which the stored photograph was turned to be
            upright. Some programs read photographs as they are stored, and their masks likewise.
    """

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    classes: tuple[str, ...]
    palette: UInt8[np.ndarray, "k 3"]
    groups: tuple[Group, ...]
    probabilities: Float[np.ndarray, "h w k"] | None = None
    alphas: Mapping[str, Float[np.ndarray, "h w"]] = dataclasses.field(default_factory=dict)
    foregrounds: Mapping[str, UInt8[np.ndarray, "h w 3"]] = dataclasses.field(default_factory=dict)
    orientation: int = 1
