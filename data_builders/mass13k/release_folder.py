"""The folder layout of the release: finding its splits and the pairs of files in them."""

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from massformer_jax.data_builders.mass13k.report import DatasetError, Remark
from massformer_jax.files import composed

# For the name of a split in TFDS, the name of its folders in the release.
SPLITS = {"train": "train", "validation": "val", "test": "test"}

# The photographs of a split lie in the first of these folders that there is. The released
# configuration reads train and val from images_pad, and test from images.
_IMAGE_FOLDERS = ("images_pad", "images")
_MASK_FOLDER = "annotations"
JPEG_SUFFIXES = (".jpg", ".jpeg")
MASK_SUFFIXES = (".png",)
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz", ".bz2")
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")

_LAYOUT = "images/{train,val,test}/*.jpg beside annotations/{train,val,test}/*.png"
# How many levels below the manual directory the folder of a split may lie. This also ends a search
# in a loop of links.
_DEPTH = 5


@dataclasses.dataclass(frozen=True)
class Pair:
    """A photograph and its label map, if it has one.

    Attributes:
        image: file of the photograph.
        mask: file of the label map.
        values: for each of the 256 values of the label map the label that it stands for, 0..255,
            or -1 for a value that stands for none; None where values are labels. Colours of an RGB
            label map are not looked up here.
        layers: files of further label maps of the photograph, which are of one class each, with
            their labels; see `layers.py`. `mask` is then the first of these.
        name: what the photograph is called in the records; "" for the name of its file.
    """

    image: Path
    mask: Path | None
    values: tuple[int, ...] | None = None
    layers: tuple[tuple[Path, int], ...] = ()
    name: str = ""

    @property
    def file_name(self) -> str:
        """The name of the photograph in the records."""
        return self.name or self.image.name

    @property
    def masks(self) -> tuple[Path, ...]:
        """All files that say which class a pixel is of."""
        return tuple(path for path, _ in self.layers) or ((self.mask,) if self.mask else ())


FindPairs = Callable[[Path], tuple[dict[str, list[Pair]], list[Remark]]]


def find_pairs(root: str | os.PathLike) -> tuple[dict[str, list[Pair]], list[Remark]]:
    """Finds the pairs of files in every split, sorted by name.

    Args:
        root: a folder that holds `images` (or `images_pad`) and `annotations`, each with the
            folders `train`, `val` and `test`. They may lie deeper, as archives leave them.

    Returns:
        The pairs for the name of each split that there is, in the order train, validation, test;
        and remarks on everything that is wrong, odd or passed over.

    Raises:
        DatasetError: there are no photographs at all.
    """
    root = Path(root)
    folders = _split_folders(root)
    if not any(kind in _IMAGE_FOLDERS for kind, _ in folders):
        archives = [p.name for p in sorted(root.iterdir()) if p.suffix.lower() in _ARCHIVES]
        if archives:
            raise DatasetError(f"{root}: holds {archives[0]} as an archive; extract it first")
        raise DatasetError(f"{root}: no photographs found; expected {_LAYOUT}")
    splits: dict[str, list[Pair]] = {}
    remarks: list[Remark] = []
    for split, folder in SPLITS.items():
        for found in folders.values():
            for second in [path for path in found[1:] if path.name == folder]:
                message = f"{found[0]} holds this split too; keep one of them"
                remarks.append(Remark("problem", "folder twice", second, message))
        images = [folders[name, folder][0] for name in _IMAGE_FOLDERS if (name, folder) in folders]
        masks = folders.get((_MASK_FOLDER, folder), [None])[0]
        if images:
            splits[split] = pair_up(images[0], masks, split == "test", remarks)
        elif masks:
            message = f"no photographs to go with them; expected images/{folder} beside annotations"
            remarks.append(Remark("problem", "label maps only", masks, message))
        else:
            message = f"there is no split {folder}; the dataset is built without it"
            remarks.append(Remark("oddity", "absent split", root, message))
        for unused in images[1:]:
            message = f"passed over, since {images[0]} goes first"
            remarks.append(Remark("skipped", "unused folder", unused, message))
    return splits, remarks


def _split_folders(root: Path) -> dict[tuple[str, str], list[Path]]:
    """Finds all folders of splits by their last two names, such as ('images', 'train').

    Of several with the same names, the uppermost comes first.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    queue = deque([(root, 0)])
    while queue:
        folder, depth = queue.popleft()
        for path in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
            if path.name.startswith((".", "__MACOSX")):
                continue
            if folder.name in (*_IMAGE_FOLDERS, _MASK_FOLDER) and path.name in SPLITS.values():
                found.setdefault((folder.name, path.name), []).append(path)
            elif depth + 1 < _DEPTH:
                queue.append((path, depth + 1))
    return found


def pair_up(
    image_folder: Path,
    mask_folder: Path | None,
    may_lack_masks: bool,
    remarks: list[Remark],
    suffixes: Sequence[str] = JPEG_SUFFIXES,
) -> list[Pair]:
    """Pairs the files of one split by their stems, and adds a remark on all others.

    Args:
        image_folder: holds the photographs.
        mask_folder: holds the label maps, if there is such a folder.
        may_lack_masks: whether a split without any label map is odd, and not wrong.
        remarks: where remarks are added.
        suffixes: of photographs, in lower case.
    """
    images = files_by_stem(image_folder, suffixes, "photograph", remarks)
    masks = files_by_stem(mask_folder, MASK_SUFFIXES, "label map", remarks) if mask_folder else {}
    if not images and not masks:
        message = f"the split is empty; put its photographs ({', '.join(suffixes)}) here"
        remarks.append(Remark("problem", "empty split", image_folder, f"{message}, or remove it"))
        return []
    if not masks and may_lack_masks:
        message = f"no label maps for these {len(images)} photographs; all their pixels become 255"
        remarks.append(Remark("oddity", "unlabelled split", image_folder, message))
        return [Pair(images[stem], None) for stem in sorted(images)]
    if not masks:
        where = mask_folder or f"annotations/{image_folder.name} beside images"
        message = f"no label maps for these photographs; expected *.png in {where}"
        remarks.append(Remark("problem", "split without label maps", image_folder, message))
        return []
    for stem in sorted(images.keys() - masks.keys()):
        message = f"no label map {mask_folder / stem}.png; add it or remove the photograph"
        remarks.append(Remark("problem", "missing label map", images[stem], message))
    for stem in sorted(masks.keys() - images.keys()):
        message = f"no photograph {image_folder / stem}.jpg; add it or remove the label map"
        remarks.append(Remark("problem", "missing photograph", masks[stem], message))
    return [Pair(images[stem], masks[stem]) for stem in sorted(images.keys() & masks.keys())]


def files_by_stem(
    folder: Path, suffixes: Sequence[str], what: str, remarks: list[Remark]
) -> dict[str, Path]:
    """Finds the files with these suffixes, in upper or lower case, and remarks on all others.

    Their stems are in composed letters, see `files.composed`.

    Args:
        folder: is searched, without the folders in it.
        suffixes: in lower case.
        what: what a remark calls such a file.
        remarks: where remarks are added.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES:
            remarks.append(Remark("skipped", "system file", path, "passed over"))
        elif path.is_dir():
            message = "a folder inside a split; what is in it was not read"
            remarks.append(Remark("oddity", "folder inside a split", path, message))
        elif path.suffix.lower() not in suffixes:
            message = f"no {what} by its name (*{', *'.join(suffixes)}); passed over"
            remarks.append(Remark("oddity", "other file", path, message))
        elif not path.exists():
            message = "a link to a file that is not there; copy the file here"
            remarks.append(Remark("problem", "broken link", path, message))
        elif (stem := composed(path.stem)) in files:
            message = f"{files[stem].name} has the same stem; remove one of them"
            remarks.append(Remark("problem", "stem twice", path, message))
        else:
            files[stem] = path
    return files
