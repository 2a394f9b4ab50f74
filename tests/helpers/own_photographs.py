"""A small folder of photographs and label maps with any number of classes."""

import pathlib

import numpy as np
from PIL import Image

SIZE = 256  # pixels along each side
_ACROSS = 16  # squares along each side, so that there is room for 255 classes


def names(classes: int) -> list[str]:
    return [f"thing {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(classes)]


def labels(classes: int, seed: int = 0) -> np.ndarray:
    """Returns a label map in which each class has squares, and a corner is ignored."""
    rng = np.random.default_rng(seed)
    squares = rng.permutation(np.arange(_ACROSS**2) % classes).reshape(_ACROSS, _ACROSS)
    large = np.kron(squares, np.ones((SIZE // _ACROSS,) * 2, int)).astype(np.uint8)
    large[:5, :5] = 255
    return large


def photograph(found: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns RGB that tells the labels, with noise."""
    rng = np.random.default_rng(seed)
    colours = np.stack([found, found * np.uint8(7), found * np.uint8(31)], -1)
    return (colours // 2 + rng.integers(0, 60, colours.shape)).astype(np.uint8)


def write_folder(root: pathlib.Path, classes: int, photographs: int = 10) -> pathlib.Path:
    """Writes images/, labels/ and classes.txt, and returns the folder."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for i in range(photographs):
        found = labels(classes, i)
        Image.fromarray(photograph(found, i)).save(root / "images" / f"{i:03}.jpg", quality=95)
        Image.fromarray(found).save(root / "labels" / f"{i:03}.png")
    colours = [f"#{40 + i * 65 % 256 * 800:06x}" for i in range(classes)]
    lines = [f"{name} {colour}" for name, colour in zip(names(classes), colours, strict=True)]
    (root / "classes.txt").write_text("\n".join(lines) + "\n")
    return root


def save(path: pathlib.Path, array: np.ndarray, palette: list | None = None) -> None:
    """Writes an image, in the colours of a palette if there is one; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(bytes(np.array(palette, np.uint8)))
    image.save(path)
