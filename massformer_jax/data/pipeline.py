"""The input pipeline: from the dataset's records to batches of crops, and to whole photographs.

Decoding, resizing and cropping run in threads, since OpenCV, Pillow and the record reader release
Python's lock. The arrays stay uint8: normalisation and edge maps are made on the device.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from massformer_jax.data import transforms
from massformer_jax.data.annotations import Annotations, WatchedAnnotations
from massformer_jax.data.bad_records import BadRecords, RecordError
from massformer_jax.data.crops import ResizedCrop, check_size
from massformer_jax.data.images import ImageError, decode_image, decode_mask
from massformer_jax.data.records import PipelineError, open_split, read_record


def train_dataset(
    data_dir: str | os.PathLike,
    *,
    split: str = "train",
    batch_size: int,
    seed: int,
    crop_size: int,
    short_edges: Sequence[int],
    max_long_edge: int,
    host_index: int = 0,
    host_count: int = 1,
    num_threads: int = 8,
    on_bad_record: str = "fail",
    max_bad_share: float = 0.01,
    crops_per_decode: int = 1,
    exact: bool = True,
    annotations: Annotations | None = None,
) -> grain.IterDataset:
    """Returns endless batches of augmented crops.

    The stream of crops is a function of the seed alone, and each batch is the next part of it: host
    `i` of `n` takes the i-th of n equal pieces of each batch. So each photograph is seen once per
    epoch, by one host; and the batches of all hosts, one after the other, are the same whatever the
    number of hosts and threads is. Each epoch has an order of its own.

    Args:
        data_dir: the folder given to the build command.
        split: which photographs, see `records.open_split`.
        batch_size: number of crops per step over all hosts; each host delivers an equal share.
        seed: decides order and augmentation.
        crop_size: edge of the square crops, in pixels.
        short_edges: the short edges that photographs are resized to, in pixels; one of them is
            drawn for each crop.
        max_long_edge: the largest long edge of a resized photograph, in pixels.
        host_index: `jax.process_index()`.
        host_count: `jax.process_count()`.
        num_threads: number of this host's threads that decode and crop.
        on_bad_record: what happens at a record that cannot be read or decoded. "fail" raises an
            error. "skip" logs its name and takes the record that is stored after it; so the number
            of crops delivered still tells the position in the stream.
        max_bad_share: "skip" raises an error, too, once more than this share of the split's records
            has been found bad.
        crops_per_decode: number of crops per decoded photograph, all of them in one batch. The
            release takes 1; more are faster and less diverse.
        exact: whether crops equal OpenCV's on the whole photograph, see `ResizedCrop`.
        annotations: which classes were annotated in which photographs; None for all in all.

    Returns:
        A dataset of {'image': uint8 [b s s 3], 'label': uint8 [b s s]}, where b = batch_size /
        host_count and s = crop_size; with `annotations` also of {'annotated': bool [b k]}. Its
        iterator is resumed exactly by `get_state` and `set_state`, or by
        `grain.checkpoint.CheckpointSave` and `CheckpointRestore`. Its state holds nothing but the
        number of photographs that this host has delivered, which `stream_position` gives for any
        step.

    Raises:
        PipelineError: there is no such dataset or split, or the hosts cannot share the batch
            equally.
        InputError: from the iterator, at a bad record or at one too many.
    """
    photographs = photographs_per_host(batch_size, host_count, crops_per_decode)
    records = open_split(data_dir, split)
    resized_crop = ResizedCrop(
        crop_size, tuple(short_edges), max_long_edge, crops=crops_per_decode, exact=exact
    )
    pad = transforms.PadToSquare(crop_size)
    bad_records = BadRecords(len(records), on_bad_record, max_bad_share)
    watched = WatchedAnnotations(annotations, len(records)) if annotations else None
    crops = (
        grain.MapDataset.range(len(records))
        .seed(seed)
        .shuffle()
        .repeat(None)
        .random_map(Read(records, resized_crop, bad_records, watched))
        .random_map(transforms.Each(transforms.RandomFlip()))
        .random_map(transforms.Each(transforms.PhotometricDistortion()))
        .map(lambda crops: [pad.map(crop) for crop in crops])
    )
    return shared_batches(
        crops,
        photographs,
        host_index=host_index,
        host_count=host_count,
        num_threads=num_threads,
    )


def shared_batches(
    examples: grain.MapDataset,
    photographs: int,
    *,
    host_index: int,
    host_count: int,
    num_threads: int,
) -> grain.IterDataset:
    """Returns a host's pieces of batches, made in threads.

    Args:
        examples: for each photograph a list of elements, dicts of arrays.
        photographs: number of them per step and host.
        host_index: see `train_dataset`.
        host_count: see `train_dataset`.
        num_threads: see `train_dataset`.
    """
    # The hosts take their pieces after the random maps. If they took them before, the n-th crops of
    # all hosts would be drawn with the same random numbers.
    positions = range(host_index * photographs, (host_index + 1) * photographs)
    local = grain.MapDataset.mix([examples[i :: photographs * host_count] for i in positions])
    buffer = max(photographs, 2 * num_threads)  # a crop of 1024 pixels takes 4 MB
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=buffer)
    return local.to_iter_dataset(options).batch(photographs, batch_fn=_joined)


def stream_position(
    step: int, *, batch_size: int, host_count: int, crops_per_decode: int = 1
) -> dict[str, int]:
    """Returns the state of a host's `train_dataset` iterator after `step` steps.

    It is the same for all hosts and does not depend on how many hosts there were before. So a run
    that is continued on another number of hosts goes on exactly where it was.

    Args:
        step: number of steps done.
        batch_size: see `train_dataset`.
        host_count: see `train_dataset`.
        crops_per_decode: see `train_dataset`.

    Raises:
        PipelineError: the hosts cannot share the batch equally.
    """
    return {"next_index": step * photographs_per_host(batch_size, host_count, crops_per_decode)}


def photographs_per_host(batch_size: int, host_count: int, crops_per_decode: int = 1) -> int:
    """Returns the number of photographs per step that each host decodes.

    Raises:
        PipelineError: the hosts cannot share the batch equally.
    """
    pieces = host_count * crops_per_decode
    if batch_size < 1 or batch_size % pieces:
        times = f" times {crops_per_decode} crops per photograph" if crops_per_decode > 1 else ""
        raise PipelineError(
            f"batch_size={batch_size} cannot be shared by {host_count} hosts{times}; "
            f"take a multiple of {pieces}"
        )
    return batch_size // pieces


def _joined(photographs: Sequence[Sequence[transforms.Element]]) -> transforms.Element:
    """Puts the elements of all photographs into one batch."""
    elements = [element for photograph in photographs for element in photograph]
    return {key: np.stack([element[key] for element in elements]) for key in elements[0]}


def eval_examples(
    data_dir: str | os.PathLike,
    *,
    split: str,
    host_index: int = 0,
    host_count: int = 1,
    num_threads: int = 4,
    bad_records: BadRecords | None = None,
) -> Iterator[dict]:
    """Returns this host's whole photographs with their label maps; all hosts see each one once.

    Args:
        data_dir: the folder given to the build command.
        split: which photographs, see `records.open_split`.
        host_index: `jax.process_index()`.
        host_count: `jax.process_count()`; this host takes every `host_count`-th photograph.
        num_threads: number of threads that decode. As many decoded photographs wait in memory, each
            of which takes 48 MB at 12 megapixels.
        bad_records: gets the records that cannot be used, which are then left out; or raises an
            error. If it is None, the first such record is an error.

    Returns:
        An iterator over {'image': uint8 [h w 3], 'label': uint8 [h w], 'file_name': str}.

    Raises:
        PipelineError: there is no such dataset or split. This is raised by the call itself, not by
            the iterator.
        InputError: from the iterator, see `BadRecords.add`.
    """
    records = open_split(data_dir, split)
    if host_index >= len(records):
        return iter(())
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
    bad_records = bad_records or BadRecords(len(records), "fail", 0.0)
    numbers = grain.MapDataset.range(len(records))[host_index::host_count]
    return iter(numbers.map(ReadWhole(records, bad_records)).to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class Read(grain.transforms.RandomMap):
    """The transform from the number of a record to crops of it, or of the next one if it is bad."""

    records: grain.sources.RandomAccessDataSource
    crop: grain.transforms.RandomMap  # from a record to a list of elements
    bad_records: BadRecords
    annotations: WatchedAnnotations | None = None

    def random_map(self, element: int, rng: np.random.Generator) -> list[transforms.Element]:
        """Reads the record `element`, or the first usable one after it, and makes its crops.

        Raises:
            InputError: see `BadRecords.add`.
            PipelineError: no record of the split is usable.
        """
        for offset in range(len(self.records)):
            number = (int(element) + offset) % len(self.records)
            try:
                record = read_record(self.records, number)
                crops = self.crop.random_map(record, rng)
                if self.annotations is None:
                    return crops
                annotated = self.annotations.of(record["file_name"].decode())
                return [{**crop, "annotated": annotated} for crop in crops]
            except (ImageError, RecordError) as error:
                self.bad_records.add(number, error)
        raise PipelineError("no record of the split can be read; build the dataset again")


@dataclasses.dataclass(frozen=True)
class ReadWhole(grain.transforms.Map):
    """The transform from the number of a record to what `Decode` makes of it, None if it is bad."""

    records: grain.sources.RandomAccessDataSource
    bad_records: BadRecords

    def map(self, element: int) -> dict[str, Any] | None:
        """Reads and decodes the record `element`.

        Raises:
            InputError: see `BadRecords.add`.
        """
        try:
            return Decode().map(read_record(self.records, int(element)))
        except (ImageError, RecordError) as error:
            self.bad_records.add(int(element), error)
            return None  # grain leaves it out


@dataclasses.dataclass(frozen=True)
class Decode(grain.transforms.Map):
    """The transform from a record to a photograph, its label map and its name."""

    def map(self, element: dict[str, Any]) -> dict[str, Any]:
        """Decodes a record to {'image', 'label', 'file_name'}, see `eval_examples`.

        Raises:
            ImageError: one of the files is damaged, or their sizes differ. It names the file.
        """
        name = element["file_name"].decode()
        image = decode_image(element["image"], name)
        label = decode_mask(element["segmentation_mask"], f"label map of {name}")
        check_size(element["image"], name, label.shape)
        return {"image": image, "label": label, "file_name": name}
