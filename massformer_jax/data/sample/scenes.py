"""Rendered street and park scenes with exact label maps, for the sample data and for tests.

A scene is painted from back to front: sky, hills, buildings, water with its reflections and ground,
then objects, trees and people by distance. Each stroke goes to the photograph and to the label map,
at twice the final resolution. Then the photograph is averaged down, so that its edges are soft, and
every second pixel of the label map is taken, so that its edges are hard. Leaves, blades and twigs
are one pixel wide, as in photographs that are labelled to matting quality.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from massformer_jax.classes import IGNORE
from massformer_jax.data.sample import objects
from massformer_jax.data.sample.objects import (
    BUILDING,
    GROUND,
    SKY,
    TREE,
    WATER,
    Number,
    Rgb,
    Stage,
    vary,
)

_SCALE = 2  # painted pixels per final pixel, along each side
_SKIES: tuple[tuple[Rgb, Rgb], ...] = (  # colour at the top and at the horizon
    ((70, 125, 205), (188, 214, 238)),
    ((96, 142, 200), (214, 224, 232)),
    ((88, 108, 160), (244, 202, 164)),
    ((150, 168, 190), (222, 226, 230)),
)
_FACADES: tuple[Rgb, ...] = (
    (178, 152, 128), (150, 84, 68), (196, 190, 178), (128, 132, 142), (206, 178, 138),
    (158, 116, 98),
)  # fmt: skip


def render_scene(
    rng: np.random.Generator, height: int, width: int, *, water: bool
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Renders one scene.

    Args:
        rng: decides everything; the same state gives the same scene.
        height, width: size in pixels.
        water: whether a river or lake with reflections lies before the far bank.

    Returns:
        The photograph (RGB, 0..255) and its label map. Labels are 0..6, and 255 where haze hides
        whether a pixel is hill or sky.
    """
    h, w = height * _SCALE, width * _SCALE
    stage = Stage(
        colour=np.zeros((h, w, 3), np.float32),
        label=np.full((h, w), SKY, np.uint8),
        rng=rng,
        horizon=int(h * rng.uniform(0.42, 0.56)),
        sun=float(rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 1.0)),
    )
    _paint_sky(stage)
    _paint_hills(stage)
    near = int(stage.horizon + h * (rng.uniform(0.16, 0.26) if water else 0.01))
    _paint_buildings(stage, base=stage.horizon + int(0.012 * h))
    _paint_hedge(stage, base=stage.horizon + int(0.02 * h), tallest=0.1 * h)
    if water:
        _paint_water(stage, shore=stage.horizon + int(0.015 * h))
    _paint_ground(stage, near)
    if not water:
        _paint_road(stage)

    # What stands lower in the picture is nearer, and is painted later.
    room = h - near
    painters = [objects.paint_lamp, objects.paint_sign, objects.paint_car, objects.paint_bench]
    things = [(near + room * rng.uniform(0.1, 0.6), painters[i]) for i in rng.permutation(4)[:3]]
    things += [
        (near + room * rng.uniform(0.15, 0.92), objects.paint_person)
        for _ in range(rng.integers(3, 7))
    ]
    things += [
        (near + room * rng.uniform(0.02, 0.7), objects.paint_tree)
        for _ in range(rng.integers(2, 5))
    ]
    things.sort(key=lambda thing: thing[0])
    lanes = rng.permutation(len(things))
    for lane, (y, painter) in zip(lanes, things, strict=True):
        x = w * (lane + rng.uniform(0.15, 0.85)) / len(things)
        # A metre at the foot of the picture is about a seventh of it.
        metre = h * 0.14 * (y - 0.75 * stage.horizon) / (h - 0.75 * stage.horizon)
        painter(stage, x, y, metre)
    objects.paint_grass(stage, base=0.99 * h, count=500, tallest=0.07 * h)
    return _develop(stage), np.ascontiguousarray(stage.label[::_SCALE, ::_SCALE])


def _noise(
    rng: np.random.Generator, height: int, width: int, cells: tuple[Number, Number], octaves: int
) -> Float[np.ndarray, "h w"]:
    """Draws fractal noise of about 0..1 with mean 0.5.

    Args:
        rng: decides everything.
        height: number of rows.
        width: number of columns.
        cells: (rows, columns) of the coarsest grid.
        octaves: number of grids, each twice as fine as the one before.
    """
    total = np.zeros((height, width), np.float32)
    weights = 0.0
    for octave in range(octaves):
        rows = min(height, max(2, round(cells[0] * 2**octave)))
        columns = min(width, max(2, round(cells[1] * 2**octave)))
        grid = rng.random((rows, columns), np.float32)
        weight = 0.55**octave
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        weights += weight
    return np.clip(0.5 + (total / weights - 0.5) * 1.6, 0, 1)


def _ridge(stage: Stage, cells: Number, octaves: int) -> Float[np.ndarray, " w"]:
    """Draws a ragged profile over the full width, of heights 0..1."""
    return _noise(stage.rng, 2, stage.width, (2, cells), octaves)[0]


def _paint_sky(stage: Stage) -> None:
    """Paints a sky with clouds down to a little below the horizon."""
    top, low = _SKIES[stage.rng.integers(len(_SKIES))]
    height, width = int(stage.horizon + 0.05 * stage.height), stage.width
    t = (np.linspace(0, 1, height, dtype=np.float32) ** 0.8)[:, None, None]
    sky = np.float32(top) * (1 - t) + np.float32(low) * t
    small = (height // 2, width // 2)
    cloud = _noise(stage.rng, *small, (5, 3), 6)
    cover = np.clip((cloud - stage.rng.uniform(0.45, 0.7)) / 0.25, 0, 1)
    # The light comes from above, so that a cloud is darker where there is more cloud over it.
    body = np.clip(1.05 - 0.25 * cv2.blur(np.roll(cover, small[0] // 30, axis=0), (31, 31)), 0, 1)
    cover = cv2.resize(cover, (width, height))[..., None] * np.float32(0.9)
    body = cv2.resize(body, (width, height))[..., None] * np.float32((250, 249, 247))
    stage.colour[:height] = sky * (1 - cover) + body * cover


def _paint_hills(stage: Stage) -> None:
    """Paints two ridges of wooded hills, the further one in haze."""
    top, bottom = (int(stage.horizon + part * stage.height) for part in (-0.14, 0.05))
    height = bottom - top  # the rest is covered by sky, ground or water
    rows = np.arange(top, bottom)[:, None]
    haze = stage.colour[stage.horizon - 4].mean(0)
    for depth, (green, reach) in enumerate((((96, 124, 128), 0.13), ((74, 106, 78), 0.08))):
        ridge = stage.horizon - stage.height * reach * _ridge(stage, 3 + 2 * depth, 7)
        texture = _noise(stage.rng, height // 4, stage.width // 4, (12, 90), 3)
        texture = cv2.resize(texture, (stage.width, height))[..., None]
        colour = (np.float32(green) * (0.75 + 0.5 * texture)) * 0.65 + haze * 0.35
        stage.cover(rows > ridge, colour, TREE, top)
        if depth == 0:
            # Along the hazy ridge nobody can tell what is hill and what is sky.
            stage.label[top:bottom][np.abs(rows - ridge) < 0.005 * stage.height] = IGNORE


def _paint_buildings(stage: Stage, base: int) -> None:
    """Paints houses side by side, which stand on the row `base`."""
    rng = stage.rng
    x = rng.uniform(-0.05, 0.2) * stage.width
    while x < stage.width * rng.uniform(0.7, 1.0):
        width = stage.width * rng.uniform(0.08, 0.2)
        height = stage.height * rng.uniform(0.09, 0.34)
        facade = vary(rng, _FACADES[rng.integers(len(_FACADES))], 0.12)
        top = base - height
        stage.fill([(x, base), (x, top), (x + width, top), (x + width, base)], facade, BUILDING)
        side = width * rng.uniform(0.15, 0.35)  # width of the wall in the shade
        left = x + width - side if stage.sun < 0 else x
        dark = tuple(0.68 * c for c in facade)
        box = [(left, base), (left, top), (left + side, top), (left + side, base)]
        stage.fill(box, dark, BUILDING)
        roof = tuple(0.5 * c for c in facade)
        if rng.random() < 0.4:
            peak = top - height * rng.uniform(0.1, 0.25)
            stage.fill([(x - 4, top), (x + width / 2, peak), (x + width + 4, top)], roof, BUILDING)
        else:
            ledge = [(x - 3, top), (x - 3, top - 6), (x + width + 3, top - 6), (x + width + 3, top)]
            stage.fill(ledge, roof, BUILDING)
            for mast in rng.uniform(x, x + width, rng.integers(0, 4)):
                tip = top - height * rng.uniform(0.1, 0.3)
                stage.stroke([(mast, top), (mast, tip)], (70, 70, 74), BUILDING, 2)
        _paint_windows(stage, x, top, width, height, facade)
        x += width * rng.uniform(1.0, 1.7)


def _paint_windows(
    stage: Stage, x: Number, top: Number, width: Number, height: Number, facade: Rgb
) -> None:
    """Paints rows of windows on a house whose upper left corner is (x, top)."""
    rng = stage.rng
    step_x, step_y = rng.uniform(16, 24), rng.uniform(20, 30)
    for row in range(max(1, int(height / step_y))):
        for column in range(max(1, int(width / step_x))):
            left = x + (column + 0.25) * step_x
            upper = top + (row + 0.3) * step_y
            if left + 0.55 * step_x > x + width:
                continue
            glass = (58, 72, 92) if rng.random() < 0.75 else (150, 176, 200)
            right, lower = left + 0.55 * step_x, upper + 0.5 * step_y
            frame = tuple(min(255, 1.18 * c) for c in facade)
            pane = [(left, upper), (right, upper), (right, lower), (left, lower)]
            stage.fill(pane, vary(rng, glass, 0.15), BUILDING)
            stage.stroke([(left - 1, lower + 2), (right + 1, lower + 2)], frame, BUILDING, 2)


def _foliage(stage: Stage, height: int, tone: Rgb) -> Float[np.ndarray, "h w 3"]:
    """Draws a texture of lit leaves and dark gaps over the full width."""
    leaves = stage.rng.random((max(2, height // 3), stage.width // 3), np.float32)
    leaves = cv2.resize(leaves, (stage.width, height), interpolation=cv2.INTER_LINEAR)
    clumps = _noise(stage.rng, height, stage.width, (max(2, height / 40), stage.width / 40), 2)
    return np.float32(tone) * (0.35 + 0.7 * leaves * clumps + 0.5 * clumps)[..., None]


def _paint_hedge(stage: Stage, base: int, tallest: Number) -> None:
    """Paints bushes and small trees along the far edge of the ground, ragged at the top."""
    profile = tallest * (0.15 + np.clip(_ridge(stage, 7, 5) * 1.7 - 0.6, 0, 1))
    top = int(base - 1.4 * tallest)
    rows = np.arange(top, base)[:, None]
    ragged = _noise(stage.rng, base - top, stage.width, (14, stage.width / 14), 4)
    mask = (base - rows) < profile * (0.55 + 0.9 * ragged)
    tone = vary(stage.rng, (92, 132, 62), 0.12)
    stage.cover(mask, _foliage(stage, base - top, tone), TREE, top)


def _paint_water(stage: Stage, shore: int) -> None:
    """Paints water below the row `shore`, whose ripples mirror what stands above."""
    rng = stage.rng
    height = stage.height - shore
    depth = np.arange(height, dtype=np.float32)[:, None]  # rows below the shore
    x = np.broadcast_to(np.arange(stage.width, dtype=np.float32), (height, stage.width))
    ripple = _noise(rng, height, stage.width, (height / 9, stage.width / 90), 3) - 0.5
    reach = 0.3 + depth / height
    source_y = shore - 1 - depth * 1.05 + ripple * 46 * reach
    mirrored = cv2.remap(
        stage.colour,
        x + ripple * 22 * reach,
        np.clip(source_y, 0, None),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    tint = np.float32(vary(rng, (50, 92, 104), 0.1)) * (0.8 + 0.5 * ripple[..., None])
    share = np.clip(0.72 - 0.35 * depth / height, 0, 1)[..., None]
    water = mirrored * share + tint * (1 - share)
    water += 70 * np.clip(ripple - 0.26, 0, 1)[..., None] * (0.5 + reach[..., None])
    bank = 3 * _noise(rng, 2, stage.width, (2, 30), 3)[0]
    stage.cover(depth > bank, water, WATER, shore)


def _paint_ground(stage: Stage, near: int) -> None:
    """Paints soil, gravel or paving with tufts, from the row `near` to the foot of the picture."""
    rng = stage.rng
    height = stage.height - near + 24
    top = stage.height - height
    rows = np.arange(height, dtype=np.float32)[:, None]
    tone = np.float32(
        vary(rng, ((150, 132, 106), (158, 150, 138), (134, 112, 88))[rng.integers(3)], 0.08)
    )
    coarse = _noise(rng, height, stage.width, (7, 5), 4)
    fine = _noise(rng, height, stage.width, (height / 3, stage.width / 8), 2)
    colour = tone * (0.72 + 0.3 * coarse + 0.26 * fine + 0.1 * (rows / height))[..., None]
    edge = 24 + 10 * (_noise(rng, 2, stage.width, (2, 9), 5)[0] - 0.5)
    stage.cover(rows > edge, colour, GROUND, top)
    for distance in rng.uniform(0.03, 0.8, 5):
        size = 0.012 + 0.03 * distance
        base = near + distance * (stage.height - near)
        objects.paint_grass(stage, base=base, count=90, tallest=size * stage.height)


def _paint_road(stage: Stage) -> None:
    """Paints an asphalt road to the horizon, with a dashed line along its middle."""
    rng = stage.rng
    top = int(stage.horizon + 0.02 * stage.height)
    height = stage.height - top
    t = np.arange(height, dtype=np.float32)[:, None] / height
    x = np.arange(stage.width, dtype=np.float32)[None, :] / stage.width
    centre = rng.uniform(0.35, 0.65) * (1 - t) + rng.uniform(0.2, 0.8) * t
    half = 0.012 + rng.uniform(0.25, 0.4) * t
    mask = np.abs(x - centre) < half
    grain = _noise(rng, height, stage.width, (height / 2, stage.width / 4), 2)[..., None]
    grey = np.float32(vary(rng, (112, 112, 116), 0.1)) * (0.8 + 0.35 * grain)
    dash = (np.abs(x - centre) < 0.03 * half) & (np.sin(22 / (t + 0.25)) > 0.1)
    kerb = np.abs(np.abs(x - centre) - half) < 0.02 * half
    colour = np.where(
        (dash | kerb)[..., None], np.float32((206, 204, 196)) * (0.85 + 0.2 * grain), grey
    )
    stage.cover(mask, colour.astype(np.float32), GROUND, top)


def _develop(stage: Stage) -> UInt8[np.ndarray, "h w 3"]:
    """Makes the photograph of a stage, as light, lens and sensor would."""
    rng = stage.rng
    size = (stage.width // _SCALE, stage.height // _SCALE)
    image = cv2.resize(stage.colour, size, interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.45, 0.65))
    y = np.linspace(-1, 1, size[1], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[0], dtype=np.float32)[None, :]
    light = rng.uniform(0.88, 1.1) * (1 + 0.05 * stage.sun * x) * (1 - 0.09 * (x**2 + y**2))
    balance = 1 + rng.uniform(-0.035, 0.035, 3)
    image *= light[..., None] * balance.astype(np.float32)
    image += rng.normal(0, 2.2, image.shape).astype(np.float32)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
