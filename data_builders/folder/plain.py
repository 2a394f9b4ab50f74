"""The layout `folder`: photographs in one folder, label maps of the same stems in another."""

import dataclasses
import pathlib
from collections.abc import Sequence

from massformer_jax.classes import IGNORE
from massformer_jax.data_builders.folder.splits import Division, divided, split_folders
from massformer_jax.data_builders.mass13k.photographs import OTHER_FORMATS
from massformer_jax.data_builders.mass13k.release_folder import JPEG_SUFFIXES, Pair, pair_up
from massformer_jax.data_builders.mass13k.report import DatasetError, Remark

IMAGE_FOLDERS = ("images", "image", "imgs", "photographs", "photos", "JPEGImages")
MASK_FOLDERS = ("annotations", "labels", "label", "masks", "mask", "SegmentationClass")
SUFFIXES = (*JPEG_SUFFIXES, *OTHER_FORMATS)  # of photographs


@dataclasses.dataclass(frozen=True)
class Plain:
    """Where photographs and label maps lie, and how values stand for labels.

    Attributes:
        division: how they are divided, where there are no folders of splits.
        values: see `Pair.values`.
        images: folder of the photographs, below the dataset's or anywhere; None to look for one of
            `IMAGE_FOLDERS`.
        masks: folder of the label maps, likewise of `MASK_FOLDERS`.
    """

    division: Division
    values: tuple[int, ...] | None = None
    images: pathlib.Path | None = None
    masks: pathlib.Path | None = None

    def find(self, root: pathlib.Path) -> tuple[dict[str, list[Pair]], list[Remark]]:
        """Finds the photographs and label maps of each split; see `find_pairs` of the release.

        Raises:
            DatasetError: there are no photographs or no label maps, or it is not said how they are
                divided.
        """
        remarks: list[Remark] = []
        apart = split_folders(root) if self.images is None and self.masks is None else {}
        if apart:  # train/images, train/labels, …
            folders = {
                split: (one_of(path, IMAGE_FOLDERS, "images"), one_of(path, MASK_FOLDERS, "labels"))
                for split, path in apart.items()
            }
        else:
            images = folder_in(root, self.images, IMAGE_FOLDERS, "images")
            masks = folder_in(root, self.masks, MASK_FOLDERS, "labels")
            parts = split_folders(images)
            folders = {split: (path, masks / path.name) for split, path in parts.items()}
        if folders:
            if self.division:
                raise DatasetError(
                    f"{root}: has folders of splits ({', '.join(folders)}); leave --val_share, "
                    "--test_share and --split_lists out"
                )
            splits = {
                split: pair_up(
                    images, masks if masks.is_dir() else None, split == "test", remarks, SUFFIXES
                )
                for split, (images, masks) in folders.items()
            }
        else:
            check_divided(self.division, images)
            pairs = pair_up(images, masks, False, remarks, SUFFIXES)
            splits = divided(pairs, self.division, remarks) if pairs else {}
        return {split: self._read(pairs) for split, pairs in splits.items()}, remarks

    def _read(self, pairs: Sequence[Pair]) -> list[Pair]:
        return [dataclasses.replace(pair, values=self.values) for pair in pairs]


def values_from(first_label: int, classes: int) -> tuple[int, ...] | None:
    """Returns the labels of the values 0..255 where those of the classes begin with `first_label`.

    Smaller values and 255 are ignored; see `Pair.values`.
    """
    if not first_label:
        return None
    rest = IGNORE - first_label - classes
    return (*[IGNORE] * first_label, *range(classes), *[-1] * rest, IGNORE)


def check_divided(division: Division, images: pathlib.Path) -> None:
    """Raises DatasetError if nobody says which photographs are for validation."""
    if not division:
        raise DatasetError(
            f"{images}: no folders train and val; say how photographs are divided, with "
            "--val_share 0.1 or --split_lists FOLDER"
        )


def folder_in(
    root: pathlib.Path, given: pathlib.Path | None, names: Sequence[str], flag: str
) -> pathlib.Path:
    """Returns a folder that was given, from the dataset's folder or the working directory, or that
    is there by one of these names.

    Raises:
        DatasetError: there is none, or several are there by these names.
    """
    if given is None:
        return one_of(root, names, flag)
    for path in (root / given, given):
        if path.is_dir():
            return path
    raise DatasetError(f"{given}: no such folder, and none in {root}; --{flag} names one")


def one_of(root: pathlib.Path, names: Sequence[str], flag: str) -> pathlib.Path:
    """Returns the only folder by one of these names; raises DatasetError if there is no such."""
    there = [root / name for name in names if (root / name).is_dir()]
    if len(there) == 1:
        return there[0]
    if there:
        found = " and ".join(path.name for path in there)
        raise DatasetError(f"{root}: holds {found}; say which one it is with --{flag}")
    what = {"images": "photographs", "labels": "label maps"}[flag]
    raise DatasetError(f"{root}: no folder of {what} ({', '.join(names)}); name it with --{flag}")
