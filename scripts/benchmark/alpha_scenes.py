"""Rendered photographs of thin things before a sky, whose coverage of every pixel is known.

A scene consists of strokes and leaves in continuous coordinates. They are painted at eight times the
size, without soft edges, and averaged over the 64 painted pixels of a pixel: the coverage is the
share of them that something was painted on. Light is added up as a camera does it, before the values
are encoded as sRGB; then come a lens, veiling light from the sky, noise and JPEG.

Scores of a network are made of the coverage, with the faults that networks have, by `scores_of`.
"""

import dataclasses
import math
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

SCALE = 8  # painted pixels per pixel, along each side
_TILE = 512
_SHIFT = 4  # bits of fractions of a painted pixel

Rgb = tuple[float, float, float]
Points = Float[np.ndarray, "n 2"]


@dataclasses.dataclass(frozen=True)
class Scene:
    """A photograph and what is true of it.

    Attributes:
        image: RGB, sRGB, uint8 [h, w, 3].
        coverage: the share of every pixel that the foreground covers, float32 [h, w] in 0..1.
        colours: those of the foreground alone, sRGB in 0..255, float32 [h, w, 3]; they mean
            something where the coverage is above 0.
    """

    image: UInt8[np.ndarray, "h w 3"]
    coverage: Float[np.ndarray, "h w"]
    colours: Float[np.ndarray, "h w 3"]


class _Painting:
    """The strokes and shapes of a foreground, from back to front, in pixels."""

    def __init__(self):
        self._shapes: list[tuple[Points, float, Rgb]] = []

    def stroke(self, points, width: float, rgb: Rgb) -> None:
        """Adds a line of this width through the points (x, y)."""
        self._shapes.append((np.asarray(points, np.float64), width, rgb))

    def fill(self, points, rgb: Rgb) -> None:
        """Adds a polygon with these corners."""
        self._shapes.append((np.asarray(points, np.float64), 0.0, rgb))

    def rasterised(self, height: int, width: int) -> Float[np.ndarray, "h w 4"]:
        """Returns the linear light of the foreground, times its coverage, and the coverage."""
        low = np.array([points.min(0) - line for points, line, _ in self._shapes])
        high = np.array([points.max(0) + line for points, line, _ in self._shapes])
        result = np.zeros((height, width, 4), np.float32)
        for top in range(0, height, _TILE):
            for left in range(0, width, _TILE):
                bottom, right = min(top + _TILE, height), min(left + _TILE, width)
                meets = (low < (right, bottom)).all(1) & (high > (left, top)).all(1)
                canvas = np.zeros(((bottom - top) * SCALE, (right - left) * SCALE, 4), np.uint16)
                for index in np.flatnonzero(meets):
                    self._draw(canvas, index, (left, top))
                size = (right - left, bottom - top)
                part = cv2.resize(canvas.astype(np.float32), size, interpolation=cv2.INTER_AREA)
                result[top:bottom, left:right] = part / 65535
        return result

    def _draw(self, canvas: np.ndarray, index: int, corner: tuple[int, int]) -> None:
        points, width, rgb = self._shapes[index]
        places = np.round((points - corner) * (SCALE << _SHIFT)).astype(np.int32)[None]
        value = tuple((65535 * c) for c in (*decoded(np.float32(rgb)).tolist(), 1.0))
        if width:
            thick = max(1, round(width * SCALE))
            cv2.polylines(canvas, places, False, value, thick, cv2.LINE_8, _SHIFT)
        else:
            cv2.fillPoly(canvas, places, value, cv2.LINE_8, _SHIFT)


def decoded(srgb: Float[np.ndarray, "*_"]) -> Float[np.ndarray, "*_"]:
    """Returns the linear light, in 0..1, of sRGB values in 0..255."""
    x = srgb / np.float32(255)
    return np.where(x <= 0.04045, x / 12.92, ((np.maximum(x, 0) + 0.055) / 1.055) ** 2.4)


def encoded(light: Float[np.ndarray, "*_"]) -> Float[np.ndarray, "*_"]:
    """Returns the sRGB values, in 0..255, of linear light in 0..1."""
    x = np.clip(light, 0, 1)
    return 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


def render(name: str, height: int, width: int, seed: int) -> Scene:
    """Renders a scene; equal arguments give equal scenes.

    Args:
        name: one of `SCENES`.
        height: number of rows.
        width: number of columns. Things are as large in pixels whatever the size of the picture is.
        seed: decides everything that is left to chance.
    """
    rng = np.random.default_rng([seed, sorted(SCENES).index(name)])
    painting = _Painting()
    SCENES[name](painting, rng, height, width)
    painted = painting.rasterised(height, width)
    shade = 0.75 + 0.5 * _noise(rng, height, width, 24, 3)
    painted[..., :3] *= shade[..., None]
    painted = cv2.GaussianBlur(painted, (0, 0), 0.5)  # the lens
    light, coverage = painted[..., :3], painted[..., 3]
    behind = decoded(_sky(rng, height, width))
    # Light of the sky that is scattered in the lens lies over everything: a blue fringe.
    veil = cv2.GaussianBlur((1 - coverage)[..., None] * behind, (0, 0), 8)
    whole = 0.96 * (light + (1 - coverage)[..., None] * behind) + 0.04 * veil
    image = encoded(whole) + rng.normal(0, 1.5, whole.shape)
    image = np.clip(np.round(image), 0, 255).astype(np.uint8)
    jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))[1]
    image = np.ascontiguousarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1])
    colours = encoded(light / np.maximum(coverage, 1e-3)[..., None])
    return Scene(image, np.ascontiguousarray(coverage), colours.astype(np.float32))


def scores_of(coverage: Float[np.ndarray, "h w"], seed: int) -> Float[np.ndarray, "h w 2"]:
    """Returns probabilities of (what is behind, foreground), such as a network would give.

    The coverage is (1) displaced by a smooth field of 1.5 pixels root mean square, (2) averaged over
    2x2 pixels, since the network predicts at half the size, and blurred there by a Gaussian of 1.5
    of these pixels, and (3) given to a logistic function of slope 10 and centre 0.5, with a smooth
    error of 0.6 added to its argument, and (4) resized to the full size, bilinearly. A twig of one
    pixel then has a probability of about 0.03 and is lost from the labels, and one of two pixels
    about 0.1; of four pixels, 0.5.
    """
    h, w = coverage.shape
    rng = np.random.default_rng([seed, 99])
    y, x = np.mgrid[:h, :w].astype(np.float32)
    moved = [axis + _field(rng, h, w, 16, 1.5 / math.sqrt(2)) for axis in (x, y)]
    half = cv2.remap(coverage, *moved, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    half = cv2.resize(half, (w // 2, h // 2), interpolation=cv2.INTER_AREA)
    half = cv2.GaussianBlur(half, (0, 0), 1.5)
    argument = 10 * (half - 0.5) + _field(rng, h // 2, w // 2, 12, 0.6)
    argument = cv2.resize(argument, (w, h), interpolation=cv2.INTER_LINEAR)
    foreground = 1 / (1 + np.exp(-argument))
    return np.stack([1 - foreground, foreground], -1).astype(np.float32)


def _field(rng, height: int, width: int, cell: int, rms: float) -> Float[np.ndarray, "h w"]:
    """Draws a smooth field with this root mean square; `cell` is the distance of its knots."""
    grid = rng.normal(size=(height // cell + 3, width // cell + 3)).astype(np.float32)
    size = (grid.shape[1] * cell, grid.shape[0] * cell)
    field = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)[cell:, cell:][:height, :width]
    return field * np.float32(rms / np.sqrt((field**2).mean()))


def _noise(rng, height: int, width: int, cell: int, octaves: int) -> Float[np.ndarray, "h w"]:
    """Draws fractal noise around 0.5; `cell` is the size of its largest structures in pixels."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        total += 0.5**octave * _field(rng, height, width, max(2, cell >> octave), 1.0)
    return np.clip(0.5 + 0.18 * total, 0, 1)


def _sky(rng, height: int, width: int) -> Float[np.ndarray, "h w 3"]:
    """Returns a blue sky that gets paler towards the horizon, with clouds, as sRGB."""
    t = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** 0.8
    sky = np.float32((62, 118, 200)) * (1 - t) + np.float32((186, 212, 238)) * t
    cloud = _noise(rng, height, width, max(64, height // 4), 5)
    cover = np.clip((cloud - 0.55) / 0.25, 0, 0.85)[..., None]
    return sky * (1 - cover) + np.float32((248, 248, 246)) * cover


def _vary(rng, rgb: Rgb, amount: float) -> Rgb:
    light = 1 + rng.uniform(-amount, amount)
    return tuple(min(255.0, max(0.0, c * light * (1 + rng.uniform(-0.1, 0.1)))) for c in rgb)


def _tree(painting: _Painting, rng, height: int, width: int) -> None:
    """Paints trees that fork down to twigs of half a pixel, some of them with leaves."""
    painting.fill([(0, height), (width, height), (width, 0.9 * height), (0, 0.93 * height)],
                  (92, 104, 60))  # fmt: skip
    leaves: list[tuple[Points, Rgb]] = []
    bark = _vary(rng, (84, 66, 50), 0.2)

    def grow(x, y, angle, length, thick, tone):
        steps = 3
        for _ in range(steps):
            angle += rng.normal(0, 0.08)
            end = x + length / steps * math.sin(angle), y - length / steps * math.cos(angle)
            painting.stroke([(x, y), end], thick, bark)
            (x, y), thick = end, thick * 0.93
        if thick < 4 and tone is not None:
            for _ in range(9):
                place = (x, y) + rng.normal(0, 14, 2)
                long, turn = rng.uniform(6, 16), rng.uniform(0, math.pi)
                along = long / 2 * np.array([math.cos(turn), math.sin(turn)])
                across = 0.3 * along[::-1] * (-1, 1)
                corners = (place - along, place + across, place + along, place - across)
                leaves.append((np.array(corners), _vary(rng, tone, 0.3)))
        if thick < 0.6 or length < 8:
            return
        for side in (-1, 1) if rng.random() < 0.75 else (-1, 0, 1):
            turn = side * rng.uniform(0.25, 0.75)
            grow(x, y, angle + turn, length * rng.uniform(0.7, 0.9), thick * 0.66, tone)

    count = max(1, width // 900)
    for i in range(count):
        tone = (None, (92, 124, 54), (150, 132, 52))[(i + int(rng.integers(3))) % 3]
        x = width * (i + rng.uniform(0.3, 0.7)) / count
        reach = min(height, 2 * width)
        grow(x, 0.94 * height, rng.normal(0, 0.06), 0.2 * reach, 0.022 * reach, tone)
    for corners, rgb in leaves:
        painting.fill(corners, rgb)


def _grass(painting: _Painting, rng, height: int, width: int) -> None:
    """Paints a meadow whose blades and stalks, up to four pixels wide, stand before the sky."""
    ground = 0.7 * height
    painting.fill([(0, height), (width, height), (width, ground), (0, ground)], (88, 112, 52))
    for y in np.sort(rng.uniform(-0.02, 0.3, width)):
        x, tall = rng.uniform(0, width), min(0.4 * height, 420) * rng.uniform(0.3, 1)
        foot = np.array((x, ground + y * height))
        lean, bend = rng.normal(0, 0.25), rng.normal(0, 0.35)
        t = np.linspace(0, 1, 9)[:, None]
        way = foot + tall * np.hstack([lean * t + bend * t**2, -t + 0.15 * abs(bend) * t**2])
        rgb = _vary(rng, ((104, 138, 58), (168, 158, 92), (74, 108, 46))[rng.integers(3)], 0.25)
        thick = rng.uniform(1, 4)
        for i in range(8):
            painting.stroke(way[i : i + 2], max(0.25, thick * (1 - i / 8)), rgb)


def _hair(painting: _Painting, rng, height: int, width: int) -> None:
    """Paints a head with strands of a quarter to two pixels, which the wind has loosened."""
    centre, radius = np.array((width / 2, 0.72 * height)), 0.26 * min(height, width)
    dark = _vary(rng, (58, 42, 32), 0.2)
    turn = np.linspace(0, 2 * math.pi, 180)[:, None]
    painting.fill(centre + radius * np.hstack([np.cos(turn), np.sin(turn)]), dark)
    painting.fill([(0.2 * width, height), (0.8 * width, height), centre + (radius, 0),
                   centre - (radius, 0)], (128, 52, 60))  # fmt: skip
    for _ in range(int(3.5 * radius)):
        start = rng.uniform(-0.6, math.pi + 0.6)
        way = [centre + 0.97 * radius * np.array((math.cos(start), -math.sin(start)))]
        heading = start + rng.normal(0, 0.6)
        for _ in range(int(rng.integers(8, 26))):
            heading += rng.normal(0, 0.12) - 0.03 * math.copysign(1, math.cos(start))
            step = 0.03 * radius * np.array((math.cos(heading), -math.sin(heading)))
            way.append(way[-1] + step)
        painting.stroke(way, rng.choice((0.25, 0.5, 1.0, 2.0)), _vary(rng, dark, 0.5))


def _wires(painting: _Painting, rng, height: int, width: int) -> None:
    """Paints a pale house with a railing, a mast of lattice, aerials and wires."""
    base = 0.62 * height
    painting.fill([(0.1 * width, height), (0.1 * width, base), (0.72 * width, base),
                   (0.72 * width, height)], (206, 200, 190))  # fmt: skip
    for x in np.arange(0.1 * width, 0.72 * width, 23):
        painting.stroke([(x, base), (x, base - 60)], 2.5, (222, 222, 224))
    painting.stroke([(0.1 * width, base - 60), (0.72 * width, base - 60)], 4, (222, 222, 224))
    left, right = 0.8 * width, 0.8 * width + 70
    steel = (86, 92, 100)
    for x in (left, right):
        painting.stroke([(x, height), (x, 0.1 * height)], 5, steel)
    for y in np.arange(0.1 * height, height, 70):
        painting.stroke([(left, y), (right, y + 70)], 2, steel)
        painting.stroke([(right, y), (left, y + 70)], 1.5, steel)
    t = np.linspace(0, 1, 60)
    for i in range(8):
        hang = 0.12 * height * rng.uniform(0.4, 1.2)
        way = np.stack([width * t, height * (0.08 + 0.05 * i) + hang * 4 * t * (1 - t)], 1)
        painting.stroke(way, rng.uniform(0.6, 3.5), (40, 42, 46))
    for x in rng.uniform(0.12 * width, 0.7 * width, 12):
        tip = base - rng.uniform(80, 0.4 * height)
        painting.stroke([(x, base), (x, tip)], rng.uniform(0.8, 4), _vary(rng, steel, 0.4))


SCENES: dict[str, Callable] = {"grass": _grass, "hair": _hair, "tree": _tree, "wires": _wires}
