"""What a builder makes records of: a name, classes, and where the files are."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from massformer_jax.classes import MASS13K, Class
from massformer_jax.data_builders.mass13k.release_folder import FindPairs, find_pairs


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way in which photographs and label maps lie in a folder.

    Attributes:
        name: of the dataset, as a folder and in TFDS.
        classes: in the order of their labels.
        find: finds the photographs and label maps of each split in a folder.
        stated_colours: whether somebody has said which colours the classes have, so that other
            colours in a palette are a sign of other labels.
        settings: what else decides about the records, and JSON can hold.
        first_label_flag: what to pass if the values of the label maps begin with 1; "" if that
            cannot be.
    """

    name: str
    classes: tuple[Class, ...]
    find: FindPairs
    stated_colours: bool = True
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    first_label_flag: str = ""


RELEASE = Layout("mass13k", MASS13K, find_pairs)
