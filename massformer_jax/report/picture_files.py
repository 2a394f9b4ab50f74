"""Pictures of photographs, label maps and predictions that lie in folders."""

import mimetypes
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from massformer_jax.classes import Class, class_palette, palette_of
from massformer_jax.data.images import decode_image, decode_mask, image_size, mask_size
from massformer_jax.errors import InputError
from massformer_jax.files import composed, files_below, pngs_below
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
            by_stem.setdefault(composed(path.with_suffix("")), []).append(path)
    found, problems = {}, []
    for name, label in pngs_below(labels).items() if labels.is_dir() else ():
        candidates = by_stem.get(str(pathlib.Path(name).with_suffix("")), [])
        if len(candidates) != 1:
            several = " and ".join(map(str, candidates))
            problems.append(f"{name}: {several or 'no photograph'} in {images}")
            continue
        photograph = found[name] = images / candidates[0]
        try:
            (h, w), (i, j) = image_size(photograph), mask_size(label)
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
    classes: Sequence[Class] = (),
) -> dict[str, Picture]:
    """Reads the files of some images, one after the other, and draws each; returns the pictures.

    Args:
        names: paths of the label maps and predictions below their folders, as `files.pngs_below`
            names them.
        labels: folder of the label maps.
        predictions: folders of predictions, by the suffix of their layers (see `pictures.draw`).
        photographs: what `find_photographs` returned, or nothing.
        boundary_ratio: see `metrics.counts.image_counts`.
        num_classes: number of classes.
        classes: what is known of them; nothing for names and colours by their number.

    Raises:
        InputError: a file is no image.
        OSError: a file cannot be read.
    """
    truths, known = pngs_below(labels), classes or num_classes
    ours = {suffix: pngs_below(folder) for suffix, folder in predictions.items()}
    return {
        name: draw(
            decode_image(photographs[name]) if name in photographs else None,
            decode_mask(truths[name], classes=known),
            {suffix: decode_mask(files[name], classes=known) for suffix, files in ours.items()},
            boundary_ratio=boundary_ratio,
            palette=palette_of(classes) or class_palette(num_classes),
        )
        for name in names
    }
