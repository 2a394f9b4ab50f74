"""The folder layout of the release: finding its pairs of files, and checking every one of them."""

import dataclasses
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from massformer_jax.data.classes import CLASSES, IGNORE
from massformer_jax.data.images import ImageError, decode_image, decode_mask
from massformer_jax.errors import InputError

# TFDS name of a split: name of its folders in the release.
SPLITS = {"train": "train", "validation": "val", "test": "test"}

# Where a split's photographs lie: the first of these that exists. The released configuration reads
# train and val from images_pad, and test from images.
_IMAGE_FOLDERS = ("images_pad", "images")
_MASK_FOLDER = "annotations"
_IMAGE_SUFFIXES = (".jpg", ".jpeg")
_MASK_SUFFIXES = (".png",)

_LAYOUT = "images/{train,val,test}/*.jpg beside annotations/{train,val,test}/*.png"
_ALLOWED = np.isin(np.arange(256), [*range(len(CLASSES)), IGNORE])

_log = logging.getLogger(__name__)


class DatasetError(InputError):
    """The release's folder cannot become a dataset; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A photograph and its label map."""

    image: Path
    mask: Path


@dataclasses.dataclass(frozen=True)
class _Problem:
    kind: str
    message: str


def find_pairs(root: str | os.PathLike) -> dict[str, list[Pair]]:
    """Finds the pairs of every split that is there, sorted by name.

    Args:
      root: the folder that holds `images` (or `images_pad`) and `annotations`.

    Returns:
      Pairs by TFDS split name, in the order train, validation, test. A split without any folder is
      left out.

    Raises:
      DatasetError: no split at all, a split that is empty, or a photograph without its label map
        or the reverse.
    """
    root = Path(root)
    splits: dict[str, list[Pair]] = {}
    problems: list[_Problem] = []
    for split, folder in SPLITS.items():
        candidates = [root / name / folder for name in _IMAGE_FOLDERS]
        image_folder = next((path for path in candidates if path.is_dir()), candidates[-1])
        mask_folder = root / _MASK_FOLDER / folder
        if not image_folder.is_dir() and not mask_folder.is_dir():
            continue
        images = _files_by_stem(image_folder, _IMAGE_SUFFIXES, problems)
        masks = _files_by_stem(mask_folder, _MASK_SUFFIXES, problems)
        if not images and not masks:
            message = f"{image_folder}: the split is empty; fill the folder or remove it"
            problems.append(_Problem("empty", message))
        for stem in sorted(images.keys() - masks.keys()):
            message = f"{images[stem]}: no label map {mask_folder / stem}.png; add it or remove the"
            problems.append(_Problem("no mask", f"{message} image"))
        for stem in sorted(masks.keys() - images.keys()):
            message = f"{masks[stem]}: no image {image_folder / stem}.jpg; add it or remove the"
            problems.append(_Problem("no image", f"{message} label map"))
        both = sorted(images.keys() & masks.keys())
        splits[split] = [Pair(images[stem], masks[stem]) for stem in both]
    if not splits:
        raise DatasetError(f"{root}: no images found; expected {_LAYOUT}")
    _raise_first(problems)
    return splits


def check_pairs(splits: Mapping[str, Sequence[Pair]], num_threads: int | None = None) -> None:
    """Decodes every file once: labels of the image's size, in 0..6 or 255, and nothing damaged.

    A photograph turned by its EXIF tag counts upright, as it is decoded everywhere.

    Args:
      splits: what `find_pairs` found.
      num_threads: threads that decode; by default one a CPU.

    Raises:
      DatasetError: names the first problem, in the order of splits and names, and counts the rest.
    """
    pairs = [pair for split in splits.values() for pair in split]
    problems: list[_Problem] = []
    reported = time.monotonic()
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        for done, problem in enumerate(pool.map(_check_pair, pairs), start=1):
            if problem is not None:
                problems.append(problem)
            if time.monotonic() - reported > 10:
                reported = time.monotonic()
                _log.info("checked %d of %d images", done, len(pairs))
    _raise_first(problems)


def _check_pair(pair: Pair) -> _Problem | None:
    try:
        image_size = decode_image(pair.image).shape[:2]
    except ImageError as error:
        return _Problem("image", str(error))
    try:
        mask = decode_mask(pair.mask)
    except ImageError as error:
        return _Problem("mask", str(error))
    if mask.shape != image_size:
        (h, w), (image_h, image_w) = mask.shape, image_size
        return _Problem(
            "size",
            f"{pair.mask}: the label map is {w}x{h} pixels, its image {image_w}x{image_h}; export "
            "it again at the size of the image",
        )
    if not _ALLOWED[mask].all():
        values = ", ".join(str(v) for v in np.unique(mask[~_ALLOWED[mask]])[:5])
        return _Problem(
            "value",
            f"{pair.mask}: the label map holds {values}, allowed are 0..{len(CLASSES) - 1} and "
            f"{IGNORE}; correct its labels",
        )
    return None


def _files_by_stem(
    folder: Path, suffixes: Iterable[str], problems: list[_Problem]
) -> dict[str, Path]:
    """The folder's files of these types, hidden ones left out; {} if there is no such folder."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in files:
            message = f"{path}: {files[path.stem].name} has the same stem; remove one of them"
            problems.append(_Problem("twice", message))
        files[path.stem] = path
    return files


def _raise_first(problems: Sequence[_Problem]) -> None:
    if not problems:
        return
    first = problems[0]
    alike = Counter(problem.kind for problem in problems)[first.kind] - 1
    others = len(problems) - 1 - alike
    more = [f"{alike} more of this kind"] * (alike > 0) + [
        f"{others} other" + "s" * (others > 1)
    ] * (others > 0)
    raise DatasetError(first.message + (f" (and {', '.join(more)})" if more else ""))
