"""The objects in the foreground of the rendered scenes, and the stage that they are painted on.

The painter of an object takes the stage, the point (x, y) of the object's foot and the length of a
metre at its distance, both in painted pixels. Each stroke goes to the photograph and to the label
map.
"""

import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from massformer_jax.classes import CLASSES

BACKGROUND, PERSON, BUILDING, TREE, GROUND, SKY, WATER = range(len(CLASSES))

Number = int | float
Rgb = tuple[Number, Number, Number]

_CLOTHES: tuple[Rgb, ...] = (
    (176, 36, 44), (40, 66, 140), (232, 226, 216), (44, 44, 50), (226, 164, 40), (196, 92, 140),
    (120, 60, 130),
)  # fmt: skip
_SKINS: tuple[Rgb, ...] = ((232, 190, 160), (190, 140, 106), (128, 88, 66))
_PAINTS: tuple[Rgb, ...] = ((168, 28, 34), (220, 222, 226), (36, 66, 122), (60, 62, 68))
_LEAVES: tuple[Rgb, ...] = ((86, 128, 48), (62, 112, 52), (118, 140, 50), (146, 128, 44))


@dataclasses.dataclass(frozen=True)
class Stage:
    """The two pictures that are painted on, both of which the methods change in place.

    Attributes:
        colour: the photograph, RGB, 0..255.
        label: its label map.
        rng: decides everything that is left to chance.
        horizon: row of the horizon.
        sun: where the light comes from, from -1 (left) to 1 (right).
    """

    colour: Float[np.ndarray, "h w 3"]
    label: UInt8[np.ndarray, "h w"]
    rng: np.random.Generator
    horizon: int
    sun: float

    @property
    def height(self) -> int:
        """Number of painted rows."""
        return self.colour.shape[0]

    @property
    def width(self) -> int:
        """Number of painted columns."""
        return self.colour.shape[1]

    def fill(self, points, rgb: Rgb, label: int) -> None:
        """Fills the polygon with the corners `points` (x, y)."""
        polygon = [np.round(np.asarray(points)).astype(np.int32)]
        cv2.fillPoly(self.colour, polygon, rgb)
        cv2.fillPoly(self.label, polygon, label)

    def box(self, left: Number, top: Number, right: Number, bottom: Number, rgb: Rgb, label: int):
        """Fills a rectangle."""
        self.fill([(left, top), (right, top), (right, bottom), (left, bottom)], rgb, label)

    def stroke(self, points, rgb: Rgb, label: int, thickness: Number) -> None:
        """Draws a line through the points (x, y), at least one pixel thick."""
        line = [np.round(np.asarray(points)).astype(np.int32)]
        thickness = max(1, round(thickness))
        cv2.polylines(self.colour, line, False, rgb, thickness)
        cv2.polylines(self.label, line, False, label, thickness)

    def disc(self, x: Number, y: Number, radius: Number, rgb: Rgb, label: int) -> None:
        """Fills a circle."""
        centre, radius = (round(x), round(y)), max(0, round(radius))
        cv2.circle(self.colour, centre, radius, rgb, -1)
        cv2.circle(self.label, centre, radius, label, -1)

    def leaves(
        self,
        points: Float[np.ndarray, "n 2"],
        longest: float,
        colours: Float[np.ndarray, "n 3"],
        label: int,
    ) -> None:
        """Draws slender leaves, two pixels wide, from the points (x, y) in any direction."""
        count = len(points)
        angles = self.rng.uniform(0, np.pi, count)
        along = np.stack([np.cos(angles), np.sin(angles)], 1)
        across = along[:, ::-1] * (0.7, -0.7)
        lengths = longest * self.rng.uniform(0.2, 1.0, count)
        for side in (0.0, 1.0):
            for distance in np.arange(0.0, longest, 0.8):
                long_enough = lengths >= distance
                reached = points + distance * along + side * across
                x, y = np.round(reached)[long_enough].astype(int).T
                inside = (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
                self.colour[y[inside], x[inside]] = colours[long_enough][inside]
                self.label[y[inside], x[inside]] = label

    def cover(self, mask: np.ndarray, colour: np.ndarray, label: int, top: int = 0) -> None:
        """Paints the pixels of a boolean mask [h w], whose first row lies at the row `top`.

        Args:
            mask: which pixels are painted.
            colour: their colours, float [h w 3].
            label: their label.
            top: row of the stage.
        """
        rows = slice(top, top + mask.shape[0])
        np.copyto(self.colour[rows], colour, where=mask[..., None])
        np.copyto(self.label[rows], np.uint8(label), where=mask)

    def shadow(self, x: Number, y: Number, half_width: Number) -> None:
        """Darkens the ground around a point softly, in the photograph only."""
        half_height = max(2, round(half_width / 5))
        left, right = max(0, round(x - half_width)), max(0, round(x + half_width))
        top, bottom = max(0, round(y - half_height)), max(0, round(y + half_height))
        patch = self.colour[top:bottom, left:right]
        dy = (np.arange(top, top + patch.shape[0], dtype=np.float32) - y) / half_height
        dx = (np.arange(left, left + patch.shape[1], dtype=np.float32) - x) / half_width
        nearness = np.clip(1 - dy[:, None] ** 2 - dx[None, :] ** 2, 0, 1)
        patch *= 1 - np.float32(0.5) * np.sqrt(nearness)[..., None]


def vary(rng: np.random.Generator, rgb: Rgb, amount: Number) -> Rgb:
    """Returns a colour that is a little lighter or darker, with a slightly different hue."""
    *shifts, factor = rng.uniform(-amount, amount, 4).tolist()
    return tuple(
        min(255.0, max(0.0, c * (1 + factor) + 40 * shift))
        for c, shift in zip(rgb, shifts, strict=True)
    )


def paint_tree(stage: Stage, x: Number, y: Number, metre: Number) -> None:
    """Paints a trunk that forks down to twigs, and leaves around them; one tree in five is bare."""
    rng = stage.rng
    height = metre * rng.uniform(4.0, 6.5)
    bark = vary(rng, (88, 70, 54), 0.15)
    stage.shadow(x - stage.sun * height * 0.15, y, height * 0.4)
    twigs: list[tuple[float, float]] = []

    def grow(
        x: Number, y: Number, angle: Number, length: Number, width: Number, depth: int
    ) -> None:
        """Draws a branch that forks `depth` times, and notes where its twigs end."""
        end_x, end_y = x + length * math.sin(angle), y - length * math.cos(angle)
        stage.stroke([(x, y), (end_x, end_y)], bark, TREE, width)
        if depth <= 2:
            twigs.append((end_x, end_y))
        if depth == 0:
            return
        for side in (-1, 1) if rng.random() < 0.7 else (-1, 0, 1):
            turn = side * rng.uniform(0.25, 0.7) + rng.normal(0, 0.1)
            part = rng.uniform(0.62, 0.85)
            grow(end_x, end_y, angle + turn, length * part, max(1.0, width * 0.62), depth - 1)

    grow(x, y + 2, rng.normal(0, 0.05), height * 0.3, max(2.0, metre * 0.34), 5)
    if rng.random() < 0.2:
        return
    tone = _LEAVES[rng.integers(len(_LEAVES))]
    centres = np.asarray(twigs)
    # Clumps come first, dark and close to the twigs, then single leaves, lighter and further out.
    # This makes a crown with depth, a ragged edge and gaps to look through.
    for reach, size, count, light in ((0.04, 0.03, 2, 0.6), (0.055, 0.02, 3, 0.75)):
        points = _around(rng, centres, reach * height, count)
        radii = size * height * rng.uniform(0.3, 1.0, len(points))
        for (px, py), radius in zip(points, radii, strict=True):
            shade = light * rng.uniform(0.8, 1.2)
            stage.disc(px, py, radius, tuple(c * shade for c in tone), TREE)
    points = _around(rng, centres, 0.085 * height, 110)
    middle, extent = centres.mean(0), max(1.0, float(np.ptp(centres[:, 1])))
    towards = (stage.sun * (points[:, 0] - middle[0]) + (middle[1] - points[:, 1])) / extent
    shades = np.clip(1.0 + 0.35 * towards + rng.normal(0, 0.2, len(points)), 0.3, 1.7)
    stage.leaves(points, max(1.5, 0.014 * height), shades[:, None] * np.float32(tone), TREE)


def _around(
    rng: np.random.Generator, centres: Float[np.ndarray, "n 2"], reach: float, count: int
) -> Float[np.ndarray, "m 2"]:
    """Draws `count` points within `reach` of each centre, denser near it, in random order."""
    points = np.repeat(centres, count, axis=0)
    angle, distance = rng.uniform(0, 2 * np.pi, len(points)), reach * rng.random(len(points)) ** 0.7
    offsets = distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return rng.permutation(points + offsets)


def paint_person(stage: Stage, x: Number, y: Number, metre: Number) -> None:
    """Paints a walker of about 1.7 metres, with legs, torso, arms, head and hair."""
    rng = stage.rng
    h = metre * rng.uniform(1.55, 1.9)
    shirt, trousers = (vary(rng, _CLOTHES[i], 0.15) for i in rng.integers(len(_CLOTHES), size=2))
    skin = vary(rng, _SKINS[rng.integers(len(_SKINS))], 0.08)
    hair = vary(rng, ((52, 38, 30), (28, 24, 22), (156, 122, 76))[rng.integers(3)], 0.1)
    stage.shadow(x - stage.sun * h * 0.2, y, h * 0.32)
    stride, hip, neck = rng.uniform(0.03, 0.12) * h, y - 0.5 * h, y - 0.84 * h
    for side in (-1, 1):
        foot = (x + side * stride, y)
        knee = (x + side * stride * 0.8 + 0.02 * h, y - 0.26 * h)
        leg = trousers if side > 0 else tuple(0.8 * c for c in trousers)
        stage.stroke([(x + side * 0.03 * h, hip), knee, foot], leg, PERSON, 0.075 * h)
        toe = (foot[0] + 0.05 * h, foot[1] + 0.005 * h)
        stage.stroke([foot, toe], (40, 34, 32), PERSON, 0.04 * h)
    torso = [(-0.10, neck), (0.10, neck), (0.085, hip + 0.04 * h), (-0.085, hip + 0.04 * h)]
    stage.fill([(x + dx * h, ty) for dx, ty in torso], shirt, PERSON)
    lit = tuple(min(255.0, 1.18 * c) for c in shirt)
    edge = 0.10 * stage.sun * h
    stage.fill([(x + edge, neck), (x + 0.4 * edge, neck), (x + 0.6 * edge, hip)], lit, PERSON)
    for side in (-1, 1):
        elbow = (x + side * (0.13 + rng.uniform(0, 0.03)) * h, y - 0.66 * h)
        hand = (elbow[0] + rng.uniform(-0.04, 0.06) * h, y - 0.5 * h)
        stage.stroke(
            [(x + side * 0.095 * h, neck + 0.03 * h), elbow, hand], shirt, PERSON, 0.05 * h
        )
        stage.disc(*hand, 0.022 * h, skin, PERSON)
    stage.stroke([(x, neck + 0.01 * h), (x, y - 0.9 * h)], skin, PERSON, 0.055 * h)
    stage.disc(x, y - 0.935 * h, 0.062 * h, hair, PERSON)
    stage.disc(x + 0.012 * h, y - 0.92 * h, 0.052 * h, skin, PERSON)


def paint_car(stage: Stage, x: Number, y: Number, metre: Number) -> None:
    """Paints a parked car that is seen from its side."""
    rng = stage.rng
    paint = vary(rng, _PAINTS[rng.integers(len(_PAINTS))], 0.12)
    m, facing = metre, rng.choice([-1, 1])
    stage.shadow(x, y, 2.4 * m)

    def body(points, rgb: Rgb) -> None:
        """Fills a polygon, given in metres in front of and above the foot of the car."""
        stage.fill([(x + facing * px * m, y - py * m) for px, py in points], rgb, BACKGROUND)

    cabin = [(-1.5, 0.8), (-1.2, 1.42), (0.5, 1.42), (1.15, 0.8)]
    body(cabin, paint)
    body([(-1.3, 0.84), (-1.08, 1.32), (-0.4, 1.32), (-0.4, 0.84)], (54, 70, 84))
    body([(-0.3, 0.84), (-0.3, 1.32), (0.42, 1.32), (0.92, 0.84)], (74, 92, 108))
    body([(-2.1, 0.3), (-2.1, 0.8), (1.3, 0.86), (2.05, 0.66), (2.1, 0.3)], paint)
    body([(-2.1, 0.3), (-2.1, 0.42), (2.1, 0.42), (2.1, 0.3)], tuple(0.6 * c for c in paint))
    body([(1.92, 0.52), (2.08, 0.52), (2.08, 0.64), (1.92, 0.64)], (250, 240, 200))
    for wheel in (-1.3, 1.3):
        stage.disc(x + wheel * m, y - 0.32 * m, 0.34 * m, (30, 30, 32), BACKGROUND)
        stage.disc(x + wheel * m, y - 0.32 * m, 0.17 * m, (150, 152, 156), BACKGROUND)


def paint_lamp(stage: Stage, x: Number, y: Number, metre: Number) -> None:
    """Paints a street lamp, and a wire that hangs from it to the border of the picture."""
    steel: Rgb = (56, 60, 66)
    top, side = y - 5.2 * metre, stage.rng.choice([-1, 1])
    stage.shadow(x, y, 0.4 * metre)
    stage.stroke([(x, y), (x, y - 1.2 * metre)], steel, BACKGROUND, 0.16 * metre)
    stage.stroke([(x, y), (x, top)], steel, BACKGROUND, max(2.0, 0.09 * metre))
    arm = [
        (x, top),
        (x + side * 0.4 * metre, top - 0.25 * metre),
        (x + side * metre, top - 0.25 * metre),
    ]
    stage.stroke(arm, steel, BACKGROUND, max(2.0, 0.06 * metre))
    head_x, head_y = arm[-1]
    stage.box(
        head_x - 0.3 * metre,
        head_y,
        head_x + 0.3 * metre,
        head_y + 0.12 * metre,
        (236, 226, 190),
        BACKGROUND,
    )
    t = np.linspace(0, 1, 24)
    end = 0 if side > 0 else stage.width
    sag = 4 * t * (1 - t) * 0.05 * stage.height
    wire = np.stack([x + (end - x) * t, top + 0.3 * metre - 0.02 * stage.height * t + sag], 1)
    stage.stroke(wire, (44, 46, 50), BACKGROUND, 2)


def paint_sign(stage: Stage, x: Number, y: Number, metre: Number) -> None:
    """Paints a road sign on a pole."""
    rng = stage.rng
    stage.shadow(x, y, 0.3 * metre)
    stage.stroke(
        [(x, y), (x, y - 2.3 * metre)], (136, 140, 146), BACKGROUND, max(2.0, 0.07 * metre)
    )
    centre, radius = y - 2.55 * metre, 0.34 * metre
    colour = ((206, 30, 36), (28, 84, 170), (240, 190, 30))[rng.integers(3)]
    if rng.random() < 0.5:
        stage.disc(x, centre, radius, colour, BACKGROUND)
        stage.disc(x, centre, 0.7 * radius, (240, 240, 238), BACKGROUND)
    else:
        stage.box(
            x - 1.6 * radius, centre - radius, x + 1.6 * radius, centre + radius, colour, BACKGROUND
        )
        for line in (-0.35, 0.35):
            ends = [
                (x - 1.2 * radius, centre + line * radius),
                (x + radius, centre + line * radius),
            ]
            stage.stroke(ends, (244, 244, 240), BACKGROUND, 0.2 * radius)


def paint_bench(stage: Stage, x: Number, y: Number, metre: Number) -> None:
    """Paints a park bench: slats on thin legs, between which the ground shows."""
    wood = vary(stage.rng, (140, 86, 50), 0.15)
    stage.shadow(x, y, 1.1 * metre)
    for leg in (-0.8, 0.8):
        foot = x + leg * metre
        stage.stroke([(foot, y), (foot, y - 0.9 * metre)], (48, 50, 54), BACKGROUND, 0.07 * metre)
    for slat in (0.42, 0.5, 0.68, 0.84):
        ends = [(x - metre, y - slat * metre), (x + metre, y - slat * metre)]
        stage.stroke(ends, wood, BACKGROUND, 0.08 * metre)


def paint_grass(stage: Stage, base: Number, count: int, tallest: Number) -> None:
    """Paints tufts of grass, whose blades are thin and grow around the row `base`."""
    rng = stage.rng
    tufts = rng.uniform(0, stage.width, max(1, count // 40))
    roots = rng.choice(tufts, count) + rng.normal(0, 0.02 * stage.width, count)
    rows = base + rng.uniform(-0.3, 1.0, count) * tallest
    sizes, leans = tallest * rng.uniform(0.3, 1.0, count), rng.normal(0, 0.35, count)
    for root, row, size, lean in zip(roots, rows, sizes, leans, strict=True):
        middle = (root + 0.3 * lean * size, row - 0.6 * size)
        blade = [(root, row), middle, (root + lean * size, row - size)]
        stage.stroke(blade, vary(rng, (112, 142, 58), 0.3), TREE, int(rng.integers(1, 4)))
