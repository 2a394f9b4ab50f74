"""Which photographs belong to which split: by lists, or a seeded share of them."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence

from massformer_jax.data_builders.mass13k.photographs import OTHER_FORMATS
from massformer_jax.data_builders.mass13k.release_folder import JPEG_SUFFIXES, Pair
from massformer_jax.data_builders.mass13k.report import DatasetError, Remark
from massformer_jax.files import composed

# For each split in TFDS, the names that its folder or its list may have.
NAMES = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


@dataclasses.dataclass(frozen=True)
class Division:
    """How photographs of one folder are divided into splits.

    Attributes:
        lists: a folder of lists, train.txt, val.txt and test.txt; None for none.
        validation_share: the share of the photographs that become the validation split, 0..1.
        test_share: likewise.
        seed: decides which.
    """

    lists: pathlib.Path | None = None
    validation_share: float = 0.0
    test_share: float = 0.0
    seed: int = 0

    def __bool__(self) -> bool:
        """Tells whether it says anything."""
        return self.lists is not None or self.validation_share > 0 or self.test_share > 0


def divided(
    pairs: Sequence[Pair], division: Division, remarks: list[Remark]
) -> dict[str, list[Pair]]:
    """Divides photographs into splits, in the order train, validation, test.

    Args:
        pairs: all photographs, sorted by name.
        division: see there; it says something.
        remarks: where remarks are added.

    Raises:
        DatasetError: there are no lists, or a share leaves a split without photographs.
    """
    if division.lists is None:
        return _by_share(pairs, division)
    lists = _read_lists(division.lists)
    by_stem = {_stem(pair): pair for pair in pairs}
    splits: dict[str, list[Pair]] = {}
    taken: dict[str, pathlib.Path] = {}
    for split, (path, stems) in lists.items():
        splits[split] = []
        for stem in stems:
            if stem not in by_stem:
                message = f"names {stem}, of which there is no photograph; remove the line"
                remarks.append(Remark("problem", "listed photograph missing", path, message))
            elif stem in taken:
                message = f"names {stem}, as {taken[stem].name} does; remove one of the lines"
                remarks.append(Remark("problem", "photograph listed twice", path, message))
            else:
                taken[stem] = path
                splits[split].append(by_stem[stem])
    for stem in sorted(by_stem.keys() - taken.keys()):
        message = f"is in no list of {division.lists}; the dataset is built without it"
        remarks.append(Remark("oddity", "photograph in no list", by_stem[stem].image, message))
    return splits


def _by_share(pairs: Sequence[Pair], division: Division) -> dict[str, list[Pair]]:
    """Divides by a number that belongs to each photograph's name, whatever others there are."""

    def drawn(pair: Pair) -> bytes:
        return hashlib.sha256(f"{division.seed}/{_stem(pair)}".encode()).digest()

    order = sorted(pairs, key=drawn)
    splits: dict[str, list[Pair]] = {}
    counts = {
        split: round(share * len(pairs))
        for split, share in (
            ("validation", division.validation_share),
            ("test", division.test_share),
        )
        if share > 0
    }
    counts = {"train": len(pairs) - sum(counts.values()), **counts}
    for split, count in counts.items():
        if count < 1:
            raise DatasetError(
                f"of {len(pairs)} photographs none is left for the split {split}; change "
                "--val_share and --test_share, or add photographs"
            )
        splits[split], order = sorted(order[:count], key=_stem), order[count:]
    return splits


def _read_lists(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, list[str]]]:
    lists = {}
    for split, names in NAMES.items():
        for path in (folder / f"{name}.txt" for name in names):
            if path.is_file():
                lines = path.read_text(encoding="utf-8-sig").splitlines()
                lists[split] = path, [_bare(line.strip()) for line in lines if line.strip()]
                break
    if "train" not in lists:
        raise DatasetError(
            f"{folder}: no train.txt; write the photographs of each split into a list"
        )
    return lists


def _bare(line: str) -> str:
    """Returns what a line of a list names: a stem, perhaps with folders and a suffix."""
    path = pathlib.PurePath(line)
    known = (*JPEG_SUFFIXES, *OTHER_FORMATS)
    return composed(path.stem if path.suffix.lower() in known else path.name)


def _stem(pair: Pair) -> str:
    return composed(pathlib.PurePath(pair.file_name).stem)


def split_folders(folder: pathlib.Path) -> Mapping[str, pathlib.Path]:
    """Returns the folders of splits in a folder, by the names of the splits in TFDS."""
    return {
        split: folder / name
        for split, names in NAMES.items()
        for name in reversed(names)
        if (folder / name).is_dir()
    }
