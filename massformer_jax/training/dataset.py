"""The classes of the dataset that a run trains on, and the class head that follows from them."""

from collections.abc import Sequence

import ml_collections

from massformer_jax.classes import Class, are_numbered, names_of
from massformer_jax.data.records import dataset_classes
from massformer_jax.errors import InputError


def with_classes(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config; `architecture.classes` of None becomes the number of the dataset's.

    Raises:
        PipelineError: it is None, and there is no dataset.
    """
    if config.architecture.get("classes", 0) is not None:
        return config
    config = config.copy_and_resolve_references()
    config.architecture.classes = len(dataset_classes(config.data.data_dir))
    return config


def classes_of(config: ml_collections.ConfigDict) -> tuple[Class, ...]:
    """Returns the classes of the dataset.

    Raises:
        InputError: the config asks for a class head of another size; or there is no dataset.
    """
    classes = dataset_classes(config.data.data_dir)
    if config.architecture.classes != len(classes):
        raise InputError(
            f"architecture.classes is {config.architecture.classes}; the dataset's labels are of "
            f"{len(classes)} classes"
        )
    return classes


def check_same_classes(names: Sequence[str], classes: Sequence[Class], where: str) -> None:
    """Checks that weights know the classes of the dataset, in the same order.

    Names that were made up say nothing and are not compared.

    Args:
        names: those of the weights.
        classes: those of the dataset.
        where: what holds the weights, for the message.

    Raises:
        InputError: they differ.
    """
    ours = names_of(classes)
    if tuple(names) == ours or (len(names) == len(ours) and are_numbered(names)):
        return
    if len(names) != len(ours):
        what = f"of {len(names)} classes, and the dataset's labels of {len(ours)}"
    else:
        i = next(i for i, pair in enumerate(zip(names, ours, strict=True)) if len(set(pair)) > 1)
        what = f"of other classes than the dataset: label {i} is {names[i]} there, {ours[i]} here"
    raise InputError(f"{where} is {what}; use the dataset that it was trained on")
