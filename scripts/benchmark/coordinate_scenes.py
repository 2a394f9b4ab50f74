"""Rendered scenes as files of photographs and labels, and what each family is trained with of them.

A scene of 512x384 pixels is to the square of 256 pixels that an encoder sees what a photograph of
4096x3072 is to the square of 2048. Twigs, blades and railings are one to three pixels wide.
"""

import functools
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from massformer_jax.data.crops import ResizedCrop
from massformer_jax.data.images import encode_mask
from massformer_jax.data.sample.scenes import render_scene
from massformer_jax.data.transforms import Element, PadToSquare, PhotometricDistortion, RandomFlip
from massformer_jax.data.whole import WithCoordinates

HEIGHT, WIDTH = 384, 512
SIDE = 256  # of crops, and of the square that the encoder sees
COORDINATES = 8192  # that are drawn of each photograph
# Short edges to which photographs are resized before they are cut. The whole photograph as a square
# is shrunk to two thirds of its height and to half of its width.
SHORT_EDGES = (256, 288, 320, 352, 384)

_SPLITS = ("train", "val")
_JPEG_QUALITY = 95

Record = dict[str, bytes]  # of a dataset: encoded files, and the name


@functools.cache
def record(split: str, index: int) -> Record:
    """Returns a scene as a record of a dataset; it is a function of the arguments alone."""
    rng = np.random.default_rng((30, _SPLITS.index(split), index))
    image, label = render_scene(rng, HEIGHT, WIDTH, water=index % 2 == 0)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, jpeg = cv2.imencode(".jpg", image[..., ::-1], quality)
    name = f"{split}_{index}.jpg".encode()
    return {"image": jpeg.tobytes(), "segmentation_mask": encode_mask(label), "file_name": name}


def crop(found: Record, rng: np.random.Generator) -> Element:
    """Returns what MaSSFormer is trained with: a crop of a resized photograph."""
    resized = ResizedCrop(SIDE, SHORT_EDGES, max_long_edge=2 * WIDTH)
    (element,) = resized.random_map(found, rng)
    element = RandomFlip().random_map(element, rng)
    return PadToSquare(SIDE).map(PhotometricDistortion().random_map(element, rng))


def whole(found: Record, rng: np.random.Generator) -> Element:
    """Returns what CoordFormer is trained with: a whole photograph, and coordinates of it."""
    (element,) = WithCoordinates(SIDE, COORDINATES, PhotometricDistortion()).random_map(found, rng)
    return element


def batches(
    records: list[Record],
    example: Callable[[Record, np.random.Generator], Element],
    size: int,
    seed: int,
) -> Iterator[Element]:
    """Yields endless batches; which photographs they show depends on the seed alone.

    Args:
        records: of the photographs.
        example: `crop` or `whole`.
        size: number of photographs in a batch.
        seed: decides their order, and what is drawn of them.
    """
    order, rng = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    waiting = []
    while True:
        while len(waiting) < size:
            waiting += order.permutation(len(records)).tolist()
        drawn = [example(records[i], rng) for i in waiting[:size]]
        waiting = waiting[size:]
        yield {key: np.stack([x[key] for x in drawn]) for key in drawn[0]}
