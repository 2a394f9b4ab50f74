"""Label maps in layers: files of one class each, which are put together to one label map."""

import numpy as np

from massformer_jax.classes import IGNORE
from massformer_jax.data.images import ImageError
from massformer_jax.data.png import open_png
from massformer_jax.data_builders.mass13k.label_maps import encode_label_map, turned
from massformer_jax.data_builders.mass13k.release_folder import Pair
from massformer_jax.data_builders.mass13k.report import Remark


def merged_layers(pair: Pair, turn: int, remarks: list[Remark]) -> tuple[bytes, list[int]]:
    """Puts the layers of a photograph together, and adds a remark where classes overlap.

    A pixel is of the class of a layer where the layer is not 0. Where several are not, it is of the
    class with the highest label. Where none is, it is of the class that `pair.values` names for 0,
    or ignored.

    Args:
        pair: its layers are 8-bit grey PNG files of one size, upright or all turned alike.
        turn: see `label_maps.grey_label_map`.
        remarks: where the remark is added.

    Returns:
        As `label_maps.grey_label_map` does.

    Raises:
        ImageError: a layer is damaged.
    """
    labels, several = None, 0
    rest = IGNORE if pair.values is None else pair.values[0]
    for path, label in sorted(pair.layers, key=lambda layer: layer[1]):
        try:
            painted = np.asarray(turned(open_png(path.read_bytes()), turn)) > 0
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"{path.name} is damaged; copy or download it again") from error
        if labels is None:
            labels = np.full(painted.shape, -1, np.int16)
        several += int((painted & (labels >= 0) & (labels != label)).sum())
        labels[painted] = label
    merged = np.where(labels < 0, rest, labels).astype(np.uint8)
    if several:
        message = (
            f"{several} pixels are in masks of several classes; each is stored as the class that "
            "is listed last"
        )
        remarks.append(Remark("oddity", "overlapping masks", pair.mask, message))
    return encode_label_map(merged), np.bincount(merged.ravel(), minlength=256).tolist()
