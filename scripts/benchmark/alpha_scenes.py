"""Rendered photographs whose true coverage is known for every pixel, and scores as of a network.

Shapes are drawn at eight times the size along each side, and the coverage of a pixel is the share
of its 64 samples that they hold. What is in front and what is behind have textures of their own,
and are mixed as light. Noise of a sensor is added to the light, then it is encoded as sRGB and as a
JPEG file of quality 92.

The scores are simulated: no trained weights of the size of the released ones are at hand. See
`simulated_scores` for what they get wrong.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

SAMPLES = 8  # along each side of a pixel
_STRIP = 128  # rows that are drawn at a time: 67 MB of samples for 4096 columns
_FRACTION = 4  # binary digits of coordinates that OpenCV draws with

Light = Float[np.ndarray, "h w 3"]
Shape = Float[np.ndarray, "n 2"]


class Scene(NamedTuple):
    """A photograph and what is true of it.

    Attributes:
        image: the photograph, RGB, sRGB.
        truth: the share of each pixel that is covered, float32 in 0..1.
        front: the light of what covers it, without noise, float32 in 0..1.
        probabilities: of what is behind and of what is in front, float32 in 0..1.
    """

    image: UInt8[np.ndarray, "h w 3"]
    truth: Float[np.ndarray, "h w"]
    front: Light
    probabilities: Float[np.ndarray, "h w 2"]


def render(name: str, height: int, width: int, seed: int) -> Scene:
    """Returns the scene that `SCENES` names; it is a function of the arguments alone."""
    rng = np.random.default_rng([seed, *name.encode()])
    shapes, front, behind = SCENES[name](rng, height, width)
    truth = coverage_of(shapes, height, width)
    share = truth[..., None]
    image = photographed(rng, share * front + (1 - share) * behind)
    return Scene(image, truth, front, simulated_scores(rng, truth))


def coverage_of(shapes: Sequence[Shape], height: int, width: int) -> Float[np.ndarray, "h w"]:
    """Returns the share of every pixel that the union of polygons covers.

    Args:
        shapes: corners (x, y) in pixels; the first pixel reaches from 0 to 1.
        height: in pixels.
        width: in pixels.
    """
    spans = np.array([(shape[:, 1].min(), shape[:, 1].max()) for shape in shapes])
    rows = []
    for top in range(0, height, _STRIP):
        count = min(_STRIP, height - top)
        samples = np.zeros((SAMPLES * count, SAMPLES * width), np.uint8)
        for i in np.nonzero((spans[:, 1] >= top - 1) & (spans[:, 0] <= top + count + 1))[0]:
            corners = SAMPLES * (shapes[i] - (0, top)) - 0.5
            points = np.round(corners * (1 << _FRACTION)).astype(np.int32)
            cv2.fillPoly(samples, [points], 255, cv2.LINE_8, _FRACTION)
        small = samples.reshape(count, SAMPLES, width, SAMPLES)
        rows.append(small.mean((1, 3), dtype=np.float32) / 255)
    return np.concatenate(rows)


def photographed(rng: np.random.Generator, light: Light) -> UInt8[np.ndarray, "h w 3"]:
    """Returns what a camera's file shows of light in 0..1."""
    noise = rng.standard_normal(light.shape, np.float32)
    seen = np.clip(light + noise * np.sqrt(1e-5 + 2e-4 * light), 0, 1)
    jpeg = cv2.imencode(".jpg", encoded(seen)[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 92))[1]
    return np.ascontiguousarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1])


def encoded(light: Light) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the sRGB values of light in 0..1."""
    curve = 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return np.round(255 * np.where(light <= 0.0031308, 12.92 * light, curve)).astype(np.uint8)


def simulated_scores(
    rng: np.random.Generator, truth: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 2"]:
    """Returns probabilities of behind and in front, as a network might give them.

    They are computed at a quarter of the size and enlarged bilinearly. The coverage there is
    displaced by up to about four pixels, differently from place to place, and blurred by a Gaussian
    of five pixels. Its logit, which is off by a random field, goes through a sigmoid. So edges are
    soft and in wrong places, and what is thinner than about eight pixels has scores below one half:
    the label loses it.
    """
    h, w = truth.shape
    rows, columns = -(-h // 4), -(-w // 4)
    coarse = cv2.resize(truth, (columns, rows), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    away = [0.5 * noise(rng, rows, columns, 12) for _ in "xy"]
    moved = cv2.remap(
        coarse, x + away[0], y + away[1], cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE
    )
    soft = cv2.GaussianBlur(moved, (0, 0), 1.25)
    logits = 10 * (soft - 0.5) + 0.7 * noise(rng, rows, columns, 6)
    large = cv2.resize(1 / (1 + np.exp(-logits)), (w, h), interpolation=cv2.INTER_LINEAR)
    return np.stack([1 - large, large], -1)


def noise(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 1
) -> Float[np.ndarray, "h w"]:
    """Returns smooth noise of mean 0 and about unit variance, whose waves are `cell` pixels long.

    Each further octave has waves half as long, and 0.6 of the amplitude.
    """
    total, power = np.zeros((height, width), np.float32), 0.0
    for octave in range(octaves):
        size = max(cell / 2**octave, 1)
        grid = rng.standard_normal((int(height / size) + 3, int(width / size) + 3), np.float32)
        large = cv2.resize(grid, None, fx=size, fy=size, interpolation=cv2.INTER_CUBIC)
        total += 0.6**octave * large[:height, :width]
        power += 0.36**octave
    # Between the grid's points, the interpolation has less variance.
    return total / np.float32(0.75 * np.sqrt(power))


def texture(
    rng: np.random.Generator,
    height: int,
    width: int,
    colours: Sequence[tuple[float, float, float]],
    cell: float,
    octaves: int,
    contrast: float,
) -> Light:
    """Returns light that wanders between colours, brighter and darker by the share `contrast`."""
    tones = np.array(colours, np.float32)
    place = 0.5 + 0.3 * noise(rng, height, width, cell, octaves)
    place = np.clip(place, 0, 1 - 1e-6) * (len(tones) - 1)
    low = place.astype(np.int32)
    share = (place - low)[..., None]
    light = tones[low] * (1 - share) + tones[np.minimum(low + 1, len(tones) - 1)] * share
    detail = noise(rng, height, width, max(cell / 8, 6), 3)
    return np.clip(light * np.exp(contrast * detail)[..., None], 0, 1)


def strand(
    start: tuple[float, float],
    angle: float,
    length: float,
    widths: tuple[float, float],
    bends: Float[np.ndarray, " n"],
) -> tuple[Shape, tuple[float, float], float]:
    """Returns a curved stroke that gets thinner, its end, and its angle there.

    Args:
        start: x and y.
        angle: of the start, in radians; 0 is to the right, and positive ones are downwards.
        length: in pixels.
        widths: at the start and at the end, in pixels.
        bends: by how much it turns at each step.
    """
    angles = angle + np.cumsum(bends)
    steps = np.stack([np.cos(angles), np.sin(angles)], -1) * (length / len(bends))
    middle = np.concatenate([[start], start + np.cumsum(steps, 0)])
    across = np.concatenate([steps[:1], steps])[:, ::-1] * (-1, 1)
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    half = np.linspace(widths[0], widths[1], len(middle))[:, None] / 2
    outline = np.concatenate([middle + half * across, (middle - half * across)[::-1]])
    return outline, tuple(middle[-1]), float(angles[-1])


def tree(
    rng: np.random.Generator, root: tuple[float, float], length: float, width: float
) -> list[Shape]:
    """Returns the trunk, branches and twigs of a bare tree."""
    shapes, waiting = [], [(root, -np.pi / 2, length, width)]
    while waiting:
        start, angle, length, width = waiting.pop()
        bends = rng.normal(0, 0.05, 8)
        shape, end, angle = strand(start, angle, length, (width, 0.72 * width), bends)
        shapes.append(shape)
        if width < 0.9 or length < 8:
            continue
        for side in (-1, 1):
            turned = angle + side * rng.uniform(0.12, 0.62)
            waiting.append((end, turned, length * rng.uniform(0.7, 0.92), width * 0.68))
    return shapes


def ellipse(x: float, y: float, across: float, down: float) -> Shape:
    """Returns an ellipse of these half axes."""
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return np.stack([x + across * np.cos(turn), y + down * np.sin(turn)], -1)


def branches(rng: np.random.Generator, h: int, w: int):
    """Bare trees against a sky with clouds."""
    shapes = []
    for i in range(4):
        root = (w * (i + rng.uniform(0.3, 0.7)) / 4, h + 10)
        shapes += tree(rng, root, h * rng.uniform(0.17, 0.22), h * rng.uniform(0.018, 0.03))
    bark = texture(rng, h, w, [(0.02, 0.016, 0.012), (0.07, 0.055, 0.04)], 40, 5, 0.35)
    sky = texture(rng, h, w, [(0.13, 0.26, 0.6), (0.3, 0.42, 0.7), (0.8, 0.8, 0.8)], h / 3, 5, 0.02)
    return shapes, bark, sky


def grass(rng: np.random.Generator, h: int, w: int):
    """Blades of grass in front of a meadow that is out of focus."""
    shapes = [np.array([(0, h), (0, 0.8 * h), (w, 0.8 * h), (w, h)], float)]
    for _ in range(w // 2):
        start = (rng.uniform(-0.05, 1.05) * w, h * rng.uniform(0.75, 0.95))
        bends = rng.normal(0, 0.02, 12) + rng.normal(0, 0.06)
        widths = (rng.uniform(4, 14), 0.4)
        angle = -np.pi / 2 + rng.normal(0, 0.2)
        shapes.append(strand(start, angle, h * rng.uniform(0.1, 0.45), widths, bends)[0])
    blades = texture(
        rng, h, w, [(0.03, 0.08, 0.01), (0.14, 0.25, 0.04), (0.3, 0.33, 0.1)], 60, 4, 0.2
    )
    far = texture(rng, h, w, [(0.1, 0.1, 0.04), (0.22, 0.2, 0.1), (0.5, 0.55, 0.6)], h / 6, 2, 0.03)
    return shapes, blades, far


def hair(rng: np.random.Generator, h: int, w: int):
    """A head of loose hair in a street that is out of focus."""
    x, y, size = 0.5 * w, 0.72 * h, 0.3 * h
    shapes = [ellipse(x, y, 0.9 * size, size), ellipse(x, h, 1.6 * size, 0.3 * size)]
    for _ in range(6000):
        turn = rng.uniform(0, 2 * np.pi)
        start = (x + 0.88 * size * np.cos(turn), y + 0.97 * size * np.sin(turn))
        bends = rng.normal(0, 0.03, 20) + rng.normal(0, 0.05)
        widths = (rng.uniform(1.2, 3), rng.uniform(0.5, 1.2))
        length = size * rng.exponential(0.3)
        shapes.append(strand(start, turn + rng.normal(0, 0.5), length, widths, bends)[0])
    locks = texture(
        rng, h, w, [(0.02, 0.012, 0.008), (0.1, 0.05, 0.02), (0.25, 0.15, 0.07)], 30, 3, 0.3
    )
    street = texture(
        rng,
        h,
        w,
        [(0.08, 0.1, 0.16), (0.3, 0.28, 0.25), (0.2, 0.4, 0.3), (0.75, 0.7, 0.6)],
        h / 8,
        2,
        0.03,
    )
    return shapes, locks, street


def fence(rng: np.random.Generator, h: int, w: int):
    """A fence of wire and its posts in front of foliage."""
    shapes = []
    for x in np.arange(0.1, 1.1, 0.28) * w:
        shapes.append(np.array([(x, 0.1 * h), (x + 60, 0.1 * h), (x + 64, h), (x - 4, h)]))
    for start in np.arange(-h, w + h, 95):
        for side in (-1, 1):
            angle = np.pi / 2 - side * np.pi / 4
            bends = rng.normal(0, 0.006, 40)
            bends -= bends.mean()
            width = rng.uniform(3, 6)
            shapes.append(strand((start, 0.15 * h), angle, 1.3 * h, (width, width), bends)[0])
    wire = texture(rng, h, w, [(0.2, 0.2, 0.2), (0.4, 0.41, 0.43), (0.55, 0.55, 0.55)], 50, 3, 0.12)
    leaves = texture(
        rng, h, w, [(0.01, 0.03, 0.01), (0.06, 0.14, 0.02), (0.2, 0.3, 0.08)], 120, 5, 0.3
    )
    return shapes, wire, leaves


def person(rng: np.random.Generator, h: int, w: int):
    """A person in a coloured coat, with wisps of hair, in front of a wall and plants."""
    x, y, size = 0.5 * w, 0.32 * h, 0.13 * h
    left = [(-1.1, 7), (-2.3, 6.5), (-2.1, 3.2), (-1.6, 1.6), (-0.45, 1.1), (-0.4, 0.5)]
    outline = np.array(left + [(-across, down) for across, down in left[::-1]])
    shapes = [ellipse(x, y, 0.8 * size, size), outline * size + (x, y)]
    for _ in range(900):
        turn = rng.uniform(0.9 * np.pi, 2.1 * np.pi)
        start = (x + 0.78 * size * np.cos(turn), y + 0.97 * size * np.sin(turn))
        bends = rng.normal(0, 0.03, 20) + rng.normal(0, 0.07)
        length = size * rng.exponential(0.3)
        widths = (rng.uniform(1, 2.5), 0.5)
        shapes.append(strand(start, turn + rng.normal(0, 0.6), length, widths, bends)[0])
    for _ in range(3000):  # the fluff of the coat
        side, down = rng.choice((-1, 1)), rng.uniform(1.6, 6)
        across = np.interp(down, (1.6, 3.2, 6.5), (1.6, 2.1, 2.3))
        start = (x + side * across * size, y + down * size)
        angle = (0 if side > 0 else np.pi) + rng.normal(0, 0.6)
        bends = rng.normal(0, 0.1, 8)
        shapes.append(strand(start, angle, rng.exponential(18), (2, 0.6), bends)[0])
    skin = [(0.05, 0.03, 0.03), (0.35, 0.06, 0.05), (0.5, 0.3, 0.2), (0.12, 0.1, 0.25)]
    body = texture(rng, h, w, skin, h / 8, 5, 0.15)
    wall = texture(
        rng, h, w, [(0.05, 0.1, 0.04), (0.3, 0.32, 0.3), (0.55, 0.5, 0.42)], h / 5, 5, 0.1
    )
    return shapes, body, wall


def house(rng: np.random.Generator, h: int, w: int):
    """A house with aerials and windows that mirror the sky, in front of that sky."""
    left, right, eaves, ridge = 0.1 * w, 0.9 * w, 0.45 * h, 0.25 * h
    shapes = [
        np.array([(left, h), (left, eaves), (0.5 * w, ridge), (right, eaves), (right, h)]),
    ]
    for x in rng.uniform(0.15, 0.85, 12) * w:
        foot = eaves - (eaves - ridge) * (1 - abs(x - 0.5 * w) / (0.4 * w)) + 20
        pole = strand((x, foot), -np.pi / 2, 0.1 * h, (7, 4), np.zeros(2))
        shapes.append(pole[0])
        for up in np.linspace(0.04, 0.1, 6) * h:
            start = (x - 60, foot - up)
            shapes.append(strand(start, rng.normal(0, 0.02), 120, (3, 2), np.zeros(2))[0])
    wall = texture(rng, h, w, [(0.25, 0.12, 0.08), (0.4, 0.3, 0.22)], 80, 5, 0.12)
    sky = texture(rng, h, w, [(0.13, 0.26, 0.6), (0.3, 0.42, 0.7), (0.8, 0.8, 0.8)], h / 3, 5, 0.02)
    for y in np.arange(ridge + 60, h - 90, 150):
        for x in np.arange(left + 30, right - 70, 110):
            inside = abs(x + 20 - 0.5 * w) / (0.4 * w) < (y - ridge - 50) / (eaves - ridge)
            if inside:
                place = np.s_[int(y) : int(y) + 80, int(x) : int(x) + 50]
                wall[place] = 0.9 * sky[place]
    return shapes, wall, sky


SCENES: dict[str, Callable[[np.random.Generator, int, int], tuple[list[Shape], Light, Light]]] = {
    "branches": branches,
    "grass": grass,
    "hair": hair,
    "fence": fence,
    "person": person,
    "house": house,
}
