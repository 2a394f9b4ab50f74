"""A picture of one scene: the truth, what networks answer, and a fine boundary magnified."""

import pathlib
from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import UInt8

from massformer_jax.data.images import decode_mask
from massformer_jax.data.pipeline import Decode
from massformer_jax.report.overlay import colour
from scripts.benchmark.coordinate_scenes import record

SCENE = 0  # of those to evaluate on
# Bare twigs, a quarter of the scene along each side, which are magnified.
_ROWS, _COLUMNS = slice(95, 191), slice(96, 224)
_GAP, _HEAD = 8, 48  # between pictures, and above them


def picture(
    image: UInt8[np.ndarray, "h w 3"], labels: Mapping[str, UInt8[np.ndarray, "h w"]]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns the photograph and the label maps, and below each its magnified window.

    Args:
        image: the photograph, RGB.
        labels: label maps by what is written above them.
    """
    size = image.shape[1::-1]
    corners = (_COLUMNS.start, _ROWS.start), (_COLUMNS.stop, _ROWS.stop)
    columns = []
    for title, shown in {"photograph": image, **{k: colour(x) for k, x in labels.items()}}.items():
        marked = cv2.rectangle(shown.copy(), *corners, (255, 255, 255), 2)
        near = cv2.resize(shown[_ROWS, _COLUMNS], size, interpolation=cv2.INTER_NEAREST)
        head = np.full((_HEAD, size[0], 3), 255, np.uint8)
        place, font = (4, _HEAD - 14), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(head, title, place, font, 1.1, (0, 0, 0), 2, cv2.LINE_AA)
        gap = np.full((_GAP, size[0], 3), 255, np.uint8)
        columns.append(np.concatenate([head, marked, gap, near]))
    between = np.full((len(columns[0]), _GAP, 3), 255, np.uint8)
    joined = [part for column in columns for part in (column, between)]
    return np.concatenate(joined[:-1], 1)


def write_picture(path: pathlib.Path, folder: pathlib.Path, titles: Mapping[str, str]) -> None:
    """Writes the picture of all runs that are there, as JPEG of half its size.

    Args:
        path: of the picture.
        folder: of the runs.
        titles: what is written above each run's answers, by the run's name.
    """
    scene = Decode().map(record("val", SCENE))
    labels = {"truth": scene["label"]}
    for name, title in titles.items():
        answers = folder / f"{name}.png"
        if answers.exists():
            labels[title] = decode_mask(answers)
    h, w, _ = (drawn := picture(scene["image"], labels)).shape
    drawn = cv2.resize(drawn, (w // 2, h // 2), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
