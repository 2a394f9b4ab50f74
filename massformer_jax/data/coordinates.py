"""Coordinates of a photograph: the pixels around them, where they lie, and which are drawn.

A coordinate is (x, y), column and row. Whole numbers name pixels; others lie between their centres.
All of this is done on the host: devices get surroundings and places of a fixed number of
coordinates, never the photograph, so that no program depends on its size.
"""

from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from massformer_jax.errors import InputError


def squeezed(
    photograph: UInt8[np.ndarray, "h w 3"], side: int
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """Returns what the encoder sees: the whole photograph as a square, whatever its form was.

    Paper: how it is resized is not said. Where both sides shrink, pixels are means of those that
    they cover, so that thin structures leave a trace; else it is bilinear.
    """
    shrinks = min(photograph.shape[:2]) >= side
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(photograph, (side, side), interpolation=how)


def patches(
    photograph: UInt8[np.ndarray, "h w 3"], coordinates: Shaped[np.ndarray, "p 2"], side: int = 8
) -> Shaped[np.ndarray, "p {side} {side} 3"]:
    """Returns the pixels whose upper left is each coordinate.

    Paper: beyond the border it says nothing; the last row and column are repeated here.

    Args:
        photograph: RGB.
        coordinates: integers of pixels, or floats of places between them.
        side: of the surroundings.

    Returns:
        uint8 for integers, and float32, interpolated bilinearly, for floats.
    """
    if np.issubdtype(coordinates.dtype, np.integer):
        return _read(photograph, coordinates, side)
    inside = np.clip(coordinates, 0, np.array(photograph.shape[1::-1]) - 1)
    whole = np.floor(inside).astype(np.int64)
    right, down = (inside - whole).astype(np.float32).T.reshape(2, -1, 1, 1, 1)
    near = _read(photograph, whole, side + 1).astype(np.float32)
    rows = near[:, :-1] * (1 - down) + near[:, 1:] * down
    return rows[:, :, :-1] * (1 - right) + rows[:, :, 1:] * right


def _read(photograph: np.ndarray, coordinates: np.ndarray, side: int) -> np.ndarray:
    """Returns the pixels whose upper left is each coordinate; integers, see `patches`."""
    height, width, _ = photograph.shape
    inside = ((coordinates >= 0) & (coordinates <= (width - side, height - side))).all(-1)
    if inside.all():
        return _read_inside(photograph, coordinates, side)
    found = np.empty((len(coordinates), side, side, 3), np.uint8)
    if inside.any():
        found[inside] = _read_inside(photograph, coordinates[inside], side)
    steps, beyond = np.arange(side), coordinates[~inside]
    columns = np.clip(beyond[:, :1] + steps, 0, width - 1)
    rows = np.clip(beyond[:, 1:] + steps, 0, height - 1)
    found[~inside] = photograph[rows[:, :, None], columns[:, None]]
    return found


def _read_inside(photograph: np.ndarray, coordinates: np.ndarray, side: int) -> np.ndarray:
    """Reads what lies in the photograph, one row of pixels at a time: eight times as fast."""
    flat, pixel, row = photograph.reshape(-1), 3, 3 * photograph.shape[1]
    length = side * pixel
    runs = np.ndarray((flat.size - length + 1,), f"V{length}", flat, strides=(1,))
    x, y = coordinates.astype(np.int64).T
    first = y * row + x * pixel
    found = runs[first[:, None] + np.arange(side) * row]
    return found.view(np.uint8).reshape(-1, side, side, pixel)


def places(
    coordinates: Shaped[np.ndarray, "p 2"], size: tuple[int, int]
) -> Float[np.ndarray, "p 2"]:
    """Returns where coordinates lie, as fractions of the width and of the height, float32.

    Paper: it divides x by the width. Here the centre of pixel x is (x + 1/2) / width, as everywhere
    in this package where images are resized.

    Args:
        coordinates: (x, y).
        size: height and width of the photograph.
    """
    return ((coordinates + 0.5) / np.array(size[::-1])).astype(np.float32)


def draw_coordinates(
    rng: np.random.Generator, size: tuple[int, int], count: int
) -> Int[np.ndarray, "count 2"]:
    """Returns uniformly drawn pixels of a photograph of this height and width, int32."""
    x = rng.integers(size[1], size=count, dtype=np.int32)
    return np.stack([x, rng.integers(size[0], size=count, dtype=np.int32)], -1)


def coordinates_in(coordinates: Any, size: tuple[int, int]) -> Shaped[np.ndarray, "p 2"]:
    """Returns coordinates as they are given by users, int64 of pixels, or else float64.

    Args:
        coordinates: what NumPy makes an array [p, 2] of, each (x, y).
        size: height and width of the photograph.

    Raises:
        InputError: they are something else, or not all of them are in the photograph.
    """
    places = _array(coordinates)
    if not places.size and places.ndim:
        return np.zeros((0, 2))
    if places.ndim != 2 or places.shape[1] != 2 or places.dtype.kind not in "iuf":
        raise InputError(
            f"coordinates of shape {places.shape} and dtype {places.dtype}; pass numbers [n, 2], "
            "each (x, y)"
        )
    height, width = size
    # Pixels are squares, whose centres have whole numbers.
    inside = ((places >= -0.5) & (places <= (width - 0.5, height - 0.5))).all(-1)
    if not inside.all():
        x, y = places[np.argmin(inside)]
        raise InputError(
            f"({x:g}, {y:g}) is not in the photograph, which has {width}x{height} pixels"
        )
    return places.astype(np.int64 if places.dtype.kind in "iu" else np.float64)


def grid_in(
    box: Any, step: int | float, size: tuple[int, int]
) -> tuple[Shaped[np.ndarray, " i"], Shaped[np.ndarray, " j"]]:
    """Returns the rows and the columns of a rectangle of a photograph.

    With a step below 1/2 the last ones may be beyond the border, where they are moved to it.

    Args:
        box: (left, top, right, bottom): the first column and row, and those after the last.
        step: from one row or column to the next.
        size: height and width of the photograph.

    Raises:
        InputError: it is no such rectangle, or not in the photograph, or the step is none.
    """
    sides = _array(box)
    is_box = sides.shape == (4,) and sides.dtype.kind in "iuf"
    if not is_box or not (sides[:2] < sides[2:]).all():
        raise InputError(
            f"the box is {box!r}; pass (left, top, right, bottom), the first column and row, and "
            "those after the last"
        )
    if not 1 / 64 <= step < np.inf:
        raise InputError(f"step is {step}; it must be at least 1/64")
    left, top, right, bottom = sides.tolist()
    coordinates_in([(left, top), (right - 0.5, bottom - 0.5)], size)
    rows, columns = np.arange(top, bottom, step), np.arange(left, right, step)
    if rows.dtype.kind == "f":
        rows, columns = np.minimum(rows, size[0] - 0.5), np.minimum(columns, size[1] - 0.5)
    return rows, columns


def _array(numbers: Any) -> np.ndarray:
    """Returns an array of what is given; of lists of several lengths, one without dimensions."""
    try:
        return np.asarray(numbers)
    except ValueError:
        return np.zeros(())
