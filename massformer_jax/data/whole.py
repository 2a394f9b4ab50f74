"""Whole photographs to train the coordinate decoder with, and what is drawn of them.

A batch holds no photograph, only what is computed with: the photograph as the encoder sees it, and
the surroundings, places and labels of the coordinates that were drawn. At 2048x2048 pixels and
16,384 coordinates these are 12.6 and 3.3 MB instead of 50 MB at 12 megapixels.
"""

import dataclasses
import os
from typing import Any

import cv2
import grain
import numpy as np

from massformer_jax.data.bad_records import BadRecords
from massformer_jax.data.coordinates import draw_coordinates, patches, places, squeezed
from massformer_jax.data.pipeline import Decode, Read, photographs_per_host, shared_batches
from massformer_jax.data.records import open_split
from massformer_jax.data.transforms import Element, PhotometricDistortion


def coordinate_dataset(
    data_dir: str | os.PathLike,
    *,
    split: str = "train",
    batch_size: int,
    seed: int,
    side: int,
    coordinates: int,
    host_index: int = 0,
    host_count: int = 1,
    num_threads: int = 8,
    on_bad_record: str = "fail",
    max_bad_share: float = 0.01,
) -> grain.IterDataset:
    """Returns endless batches of whole photographs with drawn coordinates.

    Order, epochs, hosts and what an iterator's state holds are as in `pipeline.train_dataset`.

    Args:
        data_dir: the folder given to the build command.
        split: which photographs, see `records.open_split`.
        batch_size: number of photographs per step over all hosts.
        seed: decides order, augmentation and coordinates.
        side: of the square that the encoder sees, in pixels.
        coordinates: how many are drawn of each photograph.
        host_index: `jax.process_index()`.
        host_count: `jax.process_count()`.
        num_threads: number of this host's threads, each of which holds a photograph.
        on_bad_record: see `pipeline.train_dataset`.
        max_bad_share: likewise.

    Returns:
        A dataset of {'image': uint8 [b s s 3], 'patches': uint8 [b p 8 8 3], 'places': float32
        [b p 2], 'label': uint8 [b p]}, where b = batch_size / host_count.

    Raises:
        PipelineError: there is no such dataset or split, or the hosts cannot share the batch.
        InputError: from the iterator, at a bad record or at one too many.
    """
    photographs = photographs_per_host(batch_size, host_count)
    records = open_split(data_dir, split)
    bad_records = BadRecords(len(records), on_bad_record, max_bad_share)
    transform = WithCoordinates(side, coordinates, PhotometricDistortion())
    examples = (
        grain.MapDataset.range(len(records))
        .seed(seed)
        .shuffle()
        .repeat(None)
        .random_map(Read(records, transform, bad_records))
    )
    return shared_batches(
        examples,
        photographs,
        host_index=host_index,
        host_count=host_count,
        num_threads=num_threads,
    )


@dataclasses.dataclass(frozen=True)
class WithCoordinates(grain.transforms.RandomMap):
    """The transform from a record to what is trained with; mirrored with probability 1/2.

    Colours are changed by `distortion`, alike in what the encoder sees and in the surroundings.
    """

    side: int
    coordinates: int
    distortion: grain.transforms.RandomMap

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> list[Element]:
        """Decodes a record and returns the one element that is made of it.

        Raises:
            ImageError: one of the files is damaged, or their sizes differ. It names the file.
        """
        decoded = Decode().map(element)
        photograph, label = decoded["image"], decoded["label"]
        if rng.random() < 0.5:
            photograph, label = cv2.flip(photograph, 1), cv2.flip(label, 1)
        drawn = draw_coordinates(rng, label.shape, self.coordinates)
        seen, surroundings = squeezed(photograph, self.side), patches(photograph, drawn)
        colours = int(rng.integers(2**63))

        def distorted(image: np.ndarray) -> np.ndarray:
            # The same numbers for both: none of them depends on the image.
            made = self.distortion.random_map({"image": image}, np.random.default_rng(colours))
            return made["image"]

        # The surroundings of all coordinates as one long row: at the ends of rows, OpenCV may round
        # colours otherwise.
        changed = distorted(surroundings.reshape(1, -1, 3)).reshape(surroundings.shape)
        return [
            {
                "image": distorted(seen),
                "patches": changed,
                "places": places(drawn, label.shape),
                "label": label[drawn[:, 1], drawn[:, 0]],
            }
        ]
