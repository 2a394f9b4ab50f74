"""Pictures of photographs, label maps and predictions that lie in folders."""

import mimetypes
import os
import pathlib
from collections.abc import Iterable, Mapping

from massformer_jax.classes import class_palette
from massformer_jax.data.images import decode_image, decode_mask, image_size
from massformer_jax.errors import InputError
from massformer_jax.files import files_below
from massformer_jax.report.pictures import Picture, draw


def find_photographs(
    images: str | os.PathLike, labels: str | os.PathLike
) -> dict[str, pathlib.Path]:
    """Returns the photograph of each label map, by the path of the label map below its folder.

    Args:
        images: folder of the photographs. Their paths are those of the label maps except for the
            suffix.
        labels: folder of the label maps; if it does not exist, nothing is found.

    Raises:
        InputError: there is no such folder; or a label map has no photograph, or more than one, or
            one that is no image or of another size. All of these are named, one per line.
    """
    images, labels = pathlib.Path(images), pathlib.Path(labels)
    if not images.is_dir():
        raise InputError(f"{images} is no folder; --images names the one of the photographs")
    by_stem = {}
    for path in files_below(images):
        if (mimetypes.guess_type(path)[0] or "").startswith("image/"):
            by_stem.setdefault(path.with_suffix(""), []).append(path)
    found, problems = {}, []
    for path in files_below(labels):
        if path.suffix.lower() != ".png":
            continue
        candidates = by_stem.get(path.with_suffix(""), [])
        if len(candidates) != 1:
            several = " and ".join(map(str, candidates))
            problems.append(f"{path}: {several or 'no photograph'} in {images}")
            continue
        photograph = found[str(path)] = images / candidates[0]
        try:
            (h, w), (i, j) = image_size(photograph), image_size(labels / path)
        except (InputError, OSError) as error:
            problems.append(str(error))
            continue
        if (h, w) != (i, j):
            problems.append(f"{photograph}: {h} rows of {w}, its label map has {i} of {j}")
    if problems:
        raise InputError(
            f"nothing was scored; {len(problems)} photographs to mend:\n  " + "\n  ".join(problems)
        )
    return found


def read_pictures(
    names: Iterable[str],
    labels: str | os.PathLike,
    predictions: Mapping[str, str | os.PathLike],
    photographs: Mapping[str, pathlib.Path],
    *,
    boundary_ratio: float,
    num_classes: int,
) -> dict[str, Picture]:
    """Reads the files of some images, one after the other, and draws each; returns the pictures.

    Args:
        names: paths of the label maps and predictions below their folders.
        labels: folder of the label maps.
        predictions: folders of predictions, by the suffix of their layers (see `pictures.draw`).
        photographs: what `find_photographs` returned, or nothing.
        boundary_ratio: see `metrics.counts.image_counts`.
        num_classes: number of classes.

    Raises:
        InputError: a file is no image.
        OSError: a file cannot be read.
    """
    return {
        name: draw(
            decode_image(photographs[name]) if name in photographs else None,
            decode_mask(pathlib.Path(labels, name)),
            {suffix: decode_mask(pathlib.Path(path, name)) for suffix, path in predictions.items()},
            boundary_ratio=boundary_ratio,
            palette=class_palette(num_classes),
        )
        for name in names
    }
