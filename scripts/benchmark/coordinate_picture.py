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
_WINDOW = np.s_[140:236, 200:328]  # rows and columns that are magnified, a quarter along each side
_GAP = 6


def picture(
    image: UInt8[np.ndarray, "h w 3"], labels: Mapping[str, UInt8[np.ndarray, "h w"]]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns the photograph and the label maps, and below each its magnified window.

    Args:
        image: the photograph, RGB.
        labels: label maps by what is written above them.
    """
    columns = []
    for title, shown in {"photograph": image, **{k: colour(x) for k, x in labels.items()}}.items():
        whole = shown.copy()
        rows, columns_of = _WINDOW
        cv2.rectangle(
            whole, (columns_of.start, rows.start), (columns_of.stop, rows.stop), (255, 255, 255), 2
        )
        size = image.shape[1::-1]
        near = cv2.resize(shown[_WINDOW], size, interpolation=cv2.INTER_NEAREST)
        head = np.full((28, size[0], 3), 255, np.uint8)
        place, font = (4, 20), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(head, title, place, font, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
        gap = np.full((_GAP, size[0], 3), 255, np.uint8)
        columns.append(np.concatenate([head, whole, gap, near]))
    between = np.full((len(columns[0]), _GAP, 3), 255, np.uint8)
    joined = [part for column in columns for part in (column, between)]
    return np.concatenate(joined[:-1], 1)


def write_picture(path: pathlib.Path, folder: pathlib.Path, titles: Mapping[str, str]) -> None:
    """Writes the picture of all runs that are there, as JPEG.

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
    drawn = picture(scene["image"], labels)
    cv2.imwrite(str(path), drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
