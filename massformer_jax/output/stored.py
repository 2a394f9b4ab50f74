"""Masks for programs that read photographs as they are stored, whichever side is up.

COLMAP, nerfstudio, Metashape and darktable do not turn a photograph by its EXIF orientation before
they lay a mask over it. Each mask here is therefore turned back from the upright prediction.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Shaped

from massformer_jax.data.orientation import upright
from massformer_jax.errors import InputError
from massformer_jax.output.pictures import png
from massformer_jax.output.prediction import Prediction

USED, IGNORED = 255, 0


def as_stored(
    pixels: Shaped[np.ndarray, "h w *c"], orientation: int
) -> Shaped[np.ndarray, "h2 w2 *c"]:
    """Turns upright pixels as the photograph is stored: the reverse of `orientation.upright`.

    Args:
        pixels: a mask or a photograph, see `orientation.upright`.
        orientation: the EXIF orientation of the stored photograph.
    """
    # A quarter to the right is undone by a quarter to the left. The others undo themselves.
    return upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def used_png(prediction: Prediction, reduction: int = 1) -> bytes:
    """Returns a grey PNG: 0 where features are ignored, on all groups, and 255 elsewhere.

    Args:
        prediction: of the photograph; its hard labels count.
        reduction: each side is shrunk by this factor and rounded down, at least to 1. Then the
            majority of the pixels decides.
    """
    table = np.full(256, USED, np.uint8)
    for group in prediction.groups:
        table[list(group.members)] = IGNORED
    mask = as_stored(table[prediction.labels], prediction.orientation)
    if reduction > 1:
        h, w = (max(1, side // reduction) for side in mask.shape)
        mask = cv2.resize(mask, (w, h), interpolation=cv2.INTER_AREA)
        mask = np.where(mask > USED // 2, USED, IGNORED).astype(np.uint8)
    return png(mask)


def alpha_pfm(prediction: Prediction, group: str) -> bytes:
    """Returns the alpha of a group as a PFM file, of one float32 in 0..1 for each pixel."""
    alpha = as_stored(prediction.alphas[group], prediction.orientation)
    return cv2.imencode(".pfm", alpha)[1].tobytes()


def masked_transforms(
    transforms: pathlib.Path,
    masks: Mapping[pathlib.Path, pathlib.PurePath],
    output: pathlib.Path,
) -> bytes:
    """Returns nerfstudio's `transforms.json`, in which every frame names its mask.

    Args:
        transforms: the file as nerfstudio wrote it.
        masks: for each photograph, the path of its mask relative to the output.
        output: the folder that the masks are written to.

    Raises:
        InputError: the file is none of nerfstudio's, is not in the output folder, or a frame shows
            a photograph that gets no mask.
    """
    if transforms.resolve().parent != output.resolve():
        raise InputError(
            f"{transforms} is not in the folder {output}, but nerfstudio looks for masks below the "
            f"folder of this file; use --output {transforms.parent}"
        )
    content = _read(transforms)
    by_place = {os.path.realpath(photograph): mask for photograph, mask in masks.items()}
    for frame in content["frames"]:
        mask = by_place.get(os.path.realpath(output / frame["file_path"]))
        if mask is None:
            raise InputError(
                f"{transforms} shows {frame['file_path']}, which is not among the photographs, and "
                "nerfstudio needs a mask for every frame; pass the whole folder"
            )
        frame["mask_path"] = mask.as_posix()
    return json.dumps(content, indent=4).encode()


def _read(transforms: pathlib.Path) -> dict[str, Any]:
    """Reads `transforms.json`, and checks what is needed of it.

    Raises:
        InputError: it is another kind of file.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(transforms.read_bytes())
        if all(isinstance(frame["file_path"], str) for frame in content["frames"]):
            return content
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise InputError(
        f"{transforms} is no transforms.json of nerfstudio, which has a list `frames`, each with a "
        "text `file_path`"
    )
