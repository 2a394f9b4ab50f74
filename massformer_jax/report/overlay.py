"""Pictures of label maps: in the dataset's colours, over a photograph, and beside the truth."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from massformer_jax.classes import CLASSES, IGNORE, PALETTE

# Colour of pixels that belong to no class. The palette holds no grey, and its black is the
# background.
IGNORE_COLOUR = (160, 160, 160)

_GAP = 4  # width of the white gaps between the parts of a comparison, in pixels
_LEGEND_HEIGHT = 28
_WHITE = 255


def colour(
    labels: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "k 3"] = PALETTE
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an RGB picture of a label map: 0..k-1 in the colours of the palette, 255 in grey.

    Raises:
        ValueError: the label map holds another value.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[IGNORE] = IGNORE_COLOUR
    _check_values(labels, len(palette))
    return table[labels]


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    labels: UInt8[np.ndarray, "h w"],
    alpha: float = 0.5,
    palette: UInt8[np.ndarray, "k 3"] = PALETTE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Tints a photograph with the colours of its classes, and draws a line where they meet.

    Args:
        image: RGB, 0..255.
        labels: 0..k-1, or 255 where the photograph is left as it is.
        alpha: weight of the colour, from 0 (only the photograph) to 1 (only the colour).
        palette: RGB of the classes, those of MaSS13K by default.

    Returns:
        RGB. The line is white and one pixel wide. It lies on each pixel whose right or lower
        neighbour has another class, so thin structures keep most of their own pixels. It is drawn
        whatever alpha is.

    Raises:
        ValueError: a value is no label, or alpha is outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: pass a weight from 0 to 1")
    mixed = cv2.addWeighted(image, 1 - alpha, colour(labels, palette), alpha, 0)
    unlabelled = labels == IGNORE
    mixed[unlabelled] = image[unlabelled]
    mixed[_contour(labels)] = _WHITE
    return mixed


def overlay_jpeg(
    image: UInt8[np.ndarray, "h w 3"],
    labels: UInt8[np.ndarray, "h w"],
    alpha: float = 0.5,
    palette: UInt8[np.ndarray, "k 3"] = PALETTE,
    legend: Sequence[str] = (),
) -> bytes:
    """Returns `overlay` of the photograph as the bytes of a JPEG file.

    Args:
        image: see `overlay`.
        labels: see `overlay`.
        alpha: see `overlay`.
        palette: see `overlay`.
        legend: the names of all classes. If there are any, the colours of those that occur are
            named in a strip below the photograph.

    Raises:
        ValueError: see `overlay`.
    """
    picture = overlay(image, labels, alpha, palette)
    occurring = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=IGNORE)[:IGNORE])
    if legend and len(occurring):
        picture = with_legend(picture, [(legend[i], palette[i]) for i in occurring])
    return jpeg(picture)


def with_legend(
    picture: UInt8[np.ndarray, "h w 3"], entries: Sequence[tuple[str, UInt8[np.ndarray, "3"]]]
) -> UInt8[np.ndarray, "h2 w 3"]:
    """Returns an RGB picture above a strip that names colours, given as names and their RGB."""
    # Names stay legible where a photograph of 12 megapixels is shown on a screen.
    strip = _legend(picture.shape[1], entries, size=max(1, round(picture.shape[1] / 1400)))
    return np.concatenate([picture, strip], axis=0)


def jpeg(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Returns an RGB picture as the bytes of a JPEG file."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def comparison(
    image: UInt8[np.ndarray, "h w 3"],
    truth: UInt8[np.ndarray, "h w"],
    prediction: UInt8[np.ndarray, "h w"],
    *,
    class_names: Sequence[str] = CLASSES,
    palette: UInt8[np.ndarray, "k 3"] = PALETTE,
    alpha: float = 0.5,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Puts photograph, truth and prediction side by side, above a strip that names the colours.

    Args:
        image: RGB, 0..255.
        truth: the true labels, 0..k-1 or 255.
        prediction: the predicted labels, likewise.
        class_names: names of the k classes.
        palette: RGB of the classes.
        alpha: weight of the colour, see `overlay`.

    Returns:
        RGB. The three have the size of the image, with 4 white pixels between them, so the picture
        is 3 w + 8 wide. The strip has as many rows of 28 pixels as the names need.

    Raises:
        ValueError: a value is no label, or alpha is outside 0..1.
    """
    gap = np.full((image.shape[0], _GAP, 3), _WHITE, np.uint8)
    drawn = (overlay(image, labels, alpha, palette) for labels in (truth, prediction))
    picture = np.concatenate((image, gap, next(drawn), gap, next(drawn)), axis=1)
    entries = list(zip(class_names, palette, strict=True))
    entries.append(("ignored", np.array(IGNORE_COLOUR, np.uint8)))
    return np.concatenate([picture, _legend(picture.shape[1], entries)], axis=0)


def _check_values(labels: np.ndarray, classes: int) -> None:
    present = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=256))
    wrong = [int(value) for value in present if value >= classes and value != IGNORE]
    if wrong:
        raise ValueError(
            f"label map holds the value {wrong[0]}: labels are 0..{classes - 1} or {IGNORE}"
        )


def _contour(labels: np.ndarray) -> np.ndarray:
    line = np.zeros(labels.shape, bool)
    line[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    line[:-1] |= labels[:-1] != labels[1:]
    return line


def _legend(
    width: int, entries: Sequence[tuple[str, UInt8[np.ndarray, "3"]]], *, size: int = 1
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a white strip with colours and their names, in as many rows as the width asks for.

    Args:
        width: of the strip, in pixels. A name that is longer than that is cut off.
        entries: the names and the RGB of their colours.
        size: by how much larger than usual everything is drawn.
    """
    square, margin, height = 14 * size, 8 * size, _LEGEND_HEIGHT * size
    top = (height - square) // 2
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45 * size
    strip = np.full((height, width, 3), _WHITE, np.uint8)
    rows, left = [strip], margin
    for name, rgb in entries:
        needed = square + 3 * margin + cv2.getTextSize(name, font, scale, size)[0][0]
        if left + needed > width and left > margin:
            rows.append(np.full_like(strip, _WHITE))
            left = margin
        rows[-1][top : top + square, left : left + square] = rgb
        corner = (left + square + margin, top + square - 3 * size)
        cv2.putText(rows[-1], name, corner, font, scale, (40, 40, 40), size, cv2.LINE_AA)
        left += needed
    return np.concatenate(rows)
