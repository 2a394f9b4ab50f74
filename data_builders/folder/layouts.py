"""From what a command line says of a folder to the layout that the builder makes records of."""

import dataclasses
import pathlib
import re

from massformer_jax.classes import IGNORE, Class, check_classes, named_classes, names_of
from massformer_jax.data_builders.folder import labelme, voc
from massformer_jax.data_builders.folder.class_lists import read_classes
from massformer_jax.data_builders.folder.label_studio import LabelStudio
from massformer_jax.data_builders.folder.labelme import LabelMe
from massformer_jax.data_builders.folder.plain import Plain, values_from
from massformer_jax.data_builders.folder.splits import Division
from massformer_jax.data_builders.folder.voc import Voc
from massformer_jax.data_builders.mass13k.layout import RELEASE, Layout
from massformer_jax.errors import InputError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is said of a folder.

    Attributes:
        kind: "folder", "cvat", "labelme" or "label_studio".
        root: the folder.
        name: of the dataset.
        classes: file with the list of classes; None for the one in the export.
        palette: palette PNG with their colours; None for those of the list.
        first_label: the value of the first class in label maps, 0 or 1.
        images: folder of the photographs; None to look for it.
        masks: folder of the label maps; None to look for it.
        lists: folder of the lists of each split; None for none.
        validation_share: see `Division`.
        test_share: see `Division`.
        seed: see `Division`.
        rest: the class of pixels that no mask of Label Studio covers.
    """

    kind: str
    root: pathlib.Path
    name: str | None
    classes: pathlib.Path | None = None
    palette: pathlib.Path | None = None
    first_label: int = 0
    images: pathlib.Path | None = None
    masks: pathlib.Path | None = None
    lists: pathlib.Path | None = None
    validation_share: float = 0.0
    test_share: float = 0.0
    seed: int = 0
    rest: str | None = None


def layout(wanted: Wanted) -> Layout:
    """Returns the layout.

    Raises:
        InputError: something is missing, or does not go together, or there is no list of classes.
    """
    _check(wanted)
    division = Division(wanted.lists, wanted.validation_share, wanted.test_share, wanted.seed)
    classes, stated = _classes(wanted)
    names = names_of(classes)
    if wanted.first_label + len(classes) > IGNORE:
        raise InputError(
            f"--first_label {wanted.first_label}: the last of {len(classes)} classes would have "
            f"the value {IGNORE}, which is ignored; number them from 0"
        )
    if wanted.rest is not None and wanted.rest not in names:
        raise InputError(f"--rest {wanted.rest}: no class of the list ({', '.join(names)})")
    values = values_from(wanted.first_label, len(classes))
    if wanted.kind == "folder":
        find = Plain(division, values, wanted.images, wanted.masks).find
    elif wanted.kind == "label_studio":
        find = LabelStudio(division, names, wanted.rest, wanted.images).find
    elif wanted.kind == "labelme" and labelme.export_folders(wanted.root):
        find = LabelMe(division, names).find
    else:
        find = Voc(division, wanted.images).find
    return Layout(
        wanted.name,
        classes,
        find,
        stated_colours=stated,
        settings={
            "layout": wanted.kind,
            "first_label": wanted.first_label,
            "rest": wanted.rest,
        },
        first_label_flag="--first_label 1" if wanted.kind == "folder" else "",
    )


def _check(wanted: Wanted) -> None:
    """Raises InputError for what does not go together."""
    if wanted.name is None:
        raise InputError(f"--layout {wanted.kind} needs a --name for the dataset, such as cars")
    if not _NAME.fullmatch(wanted.name) or wanted.name == RELEASE.name:
        raise InputError(
            f"--name {wanted.name}: use small letters, digits and _, beginning with a letter, and "
            f"another name than {RELEASE.name}"
        )
    if not wanted.root.is_dir():
        raise InputError(
            f"{wanted.root}: no such folder; --manual_dir names that of the photographs"
        )
    for share in (wanted.validation_share, wanted.test_share):
        if not 0 <= share < 1 or wanted.validation_share + wanted.test_share >= 1:
            raise InputError(
                "--val_share and --test_share: shares of the photographs from 0 to 1, that leave "
                "some for training"
            )
    if wanted.lists is not None and (wanted.validation_share or wanted.test_share):
        raise InputError("--split_lists says all; leave --val_share and --test_share out")
    if wanted.kind != "folder":
        for flag, value in (("--first_label", wanted.first_label), ("--labels", wanted.masks)):
            if value:
                raise InputError(f"{flag} is for --layout folder; leave it out")
    if wanted.kind != "label_studio" and wanted.rest is not None:
        raise InputError("--rest is for --layout label_studio; leave it out")


def _classes(wanted: Wanted) -> tuple[tuple[Class, ...], bool]:
    """Returns the classes, and whether their colours are told."""
    path = wanted.classes
    if path is None and wanted.kind == "labelme" and labelme.export_folders(wanted.root):
        classes = named_classes(labelme.listed_classes(wanted.root))
        check_classes(classes, str(wanted.root))
        return classes, False
    if path is None and wanted.kind == "cvat":
        path = wanted.root / voc.CVAT_CLASSES
    elif path is None and wanted.kind == "labelme":
        path = wanted.root / voc.LABELME_CLASSES
    if path is None:
        raise InputError(f"--layout {wanted.kind} needs --classes, a file with a name on each line")
    return read_classes(path, wanted.palette, wanted.first_label)
