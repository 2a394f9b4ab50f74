"""Pictures of files: photographs, label maps and predictions that lie in folders."""

import mimetypes
import os
import pathlib
from collections.abc import Iterable, Mapping

from massformer_jax.data.classes import class_palette
from massformer_jax.data.images import decode_image, decode_mask, image_size
from massformer_jax.errors import InputError
from massformer_jax.report.pictures import Picture, draw


def find_photographs(
    images: str | os.PathLike, labels: str | os.PathLike
) -> dict[str, pathlib.Path]:
    """The photograph of every label map, by the latter's path below its folder.

    Args:
      images: folder of photographs, which have the paths of the label maps but for the suffix.
      labels: folder of the label maps; if there is none, nothing is found.

    Raises:
      InputError: no such folder; or some label maps have no photograph, or more than one, or one
        that is no image or of another size: names all, a line each.
    """
    images, labels = pathlib.Path(images), pathlib.Path(labels)
    if not images.is_dir():
        raise InputError(f"{images} is no folder; --images names the one of the photographs")
    by_stem = {}
    for path in sorted(images.rglob("*")):
        below = path.relative_to(images)
        kind = mimetypes.guess_type(path)[0] or ""
        if kind.startswith("image/") and not any(part[0] == "." for part in below.parts):
            by_stem.setdefault(below.with_suffix(""), []).append(path)
    found, problems = {}, []
    for path in sorted(labels.rglob("*")):
        below = path.relative_to(labels)
        if path.suffix.lower() != ".png" or any(part[0] == "." for part in below.parts):
            continue
        candidates = by_stem.get(below.with_suffix(""), [])
        if len(candidates) != 1:
            several = " and ".join(str(c.relative_to(images)) for c in candidates)
            problems.append(f"{below}: {several or 'no photograph'} in {images}")
            continue
        found[str(below)] = candidates[0]
        try:
            size, labelled = image_size(candidates[0]), image_size(path)
        except (InputError, OSError) as error:
            problems.append(str(error))
            continue
        if size != labelled:
            problems.append(
                f"{candidates[0]}: {size[0]} rows of {size[1]}, its label map has {labelled[0]} of "
                f"{labelled[1]}"
            )
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
    """Pictures of some images, whose files are read for it one after the other.

    Args:
      names: paths of the label maps and predictions below their folders.
      labels: folder of the label maps.
      predictions: folders of predictions, by the suffix of their layers (see `pictures.draw`).
      photographs: of `find_photographs`, or none.
      boundary_ratio: see `metrics.image_counts`.
      num_classes: number of classes.

    Raises:
      InputError, OSError: a file cannot be read.
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
