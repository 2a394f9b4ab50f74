"""What `config.labels` says: which labels are pseudo labels, and which are missing."""

from collections.abc import Sequence
from typing import Any

import ml_collections

from massformer_jax.classes import label_of, names_of
from massformer_jax.data.annotations import Annotations
from massformer_jax.data.records import dataset_classes
from massformer_jax.errors import InputError
from massformer_jax.training.rules import is_pattern
from massformer_jax.training.trust import Trust

LARGEST_REACH = 64  # pixels; a window of 129 rows is summed for each such class


def trust_of(config: ml_collections.ConfigDict) -> Trust | None:
    """Returns how far the losses trust labels; None for completely, as released.

    Raises:
        InputError: `config.labels` asks for what is not possible; names the key.
    """
    labels = config.labels
    if labels.unknown not in ("outside", "left_out"):
        raise InputError(f"labels.unknown is {labels.unknown!r}; use 'outside' or 'left_out'")
    if labels.split_from and not labels.pseudo:
        raise InputError(
            f"labels.split_from is {labels.split_from!r}, and labels.pseudo names no class; name "
            "those that were split from it"
        )
    if not labels.pseudo and labels.unknown == "outside":
        return None
    if not labels.pseudo_strength >= 0:
        raise InputError(
            f"labels.pseudo_strength is {labels.pseudo_strength}; it must be 0 or more"
        )
    borders = {}
    for rule in labels.pseudo:
        if not _is_pair(rule, str, int) or not 0 <= rule[1] <= LARGEST_REACH:
            raise InputError(
                f"labels.pseudo has {rule!r}; each entry is (class, pixels), of 0 to "
                f"{LARGEST_REACH} pixels"
            )
        borders |= {label: rule[1] for label in _labels(config, rule[:1], "pseudo")}
    split_from = None
    if labels.split_from:
        (split_from,) = _labels(config, (labels.split_from,), "split_from")
        if split_from in borders:
            raise InputError(
                f"labels.split_from is {labels.split_from!r}, which labels.pseudo names; it is an "
                "exact class, to which the photographs' exact labels count the new ones"
            )
    return Trust(
        tuple(borders.items()),
        float(labels.pseudo_strength),
        labels.unknown == "left_out",
        split_from,
    )


def annotations_of(config: ml_collections.ConfigDict) -> Annotations | None:
    """Returns which classes are annotated in which photographs; None for all in all.

    Raises:
        InputError: `config.labels` asks for what is not possible; names the key.
    """
    missing = []
    for rule in config.labels.unannotated:
        if not _is_pair(rule, str, list | tuple) or not is_pattern(rule[0]):
            raise InputError(
                f"labels.unannotated has {rule!r}; each entry is (regular expression, classes)"
            )
        missing.append((rule[0], _labels(config, rule[1], "unannotated")))
    return Annotations(config.architecture.classes, tuple(missing)) if missing else None


def _labels(config: ml_collections.ConfigDict, names: Sequence[str], key: str) -> tuple[int, ...]:
    """Returns the labels of classes of the dataset."""
    known = names_of(dataset_classes(config.data.data_dir))
    try:
        return tuple(label_of(str(name), known) for name in names)
    except InputError as error:
        raise InputError(f"labels.{key}: {error}") from error


def _is_pair(rule: Any, *kinds: Any) -> bool:
    return (
        isinstance(rule, list | tuple)
        and len(rule) == 2
        and all(isinstance(part, kind) for part, kind in zip(rule, kinds, strict=True))
    )
