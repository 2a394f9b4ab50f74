"""The input pipeline: from the dataset's records to batches of crops, and to whole photographs.

Decoding, resizing and cropping run in threads (OpenCV, Pillow and the record reader release
Python's lock); what leaves is uint8. Normalisation and edge maps are made on the device.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds

from massformer_jax.data import transforms
from massformer_jax.data.bad_records import BadRecords, RecordError
from massformer_jax.data.crops import ResizedCrop
from massformer_jax.data.images import ImageError, decode_image, decode_mask
from massformer_jax.errors import InputError

_BUILD_COMMAND = "python -m massformer_jax.data.build --manual_dir RELEASE --data_dir"
_KEPT_ENCODED = {
    "image": tfds.decode.SkipDecoding(),
    "segmentation_mask": tfds.decode.SkipDecoding(),
}


class PipelineError(InputError):
    """A dataset or a setting that cannot be used; the message is one line."""


def open_split(data_dir: str | os.PathLike, split: str) -> Sequence[dict[str, Any]]:
    """Opens the records of a split for reading in any order.

    Args:
      data_dir: the folder given to the build command; the newest version below it is read.
      split: "train", "validation", "test", or a slice of one as TFDS writes it ("train[:10%]").

    Returns:
      A sequence of {'image': JPEG bytes, 'segmentation_mask': PNG bytes, 'file_name': bytes, ...}.

    Raises:
      PipelineError: no complete dataset there, or no such split in it.
    """
    builder = _newest(data_dir)
    name = re.split(r"[\[+]", split)[0]
    if name not in builder.info.splits:
        present = ", ".join(builder.info.splits)
        raise PipelineError(f"{builder.data_dir}: no split {name!r}; it has {present}")
    return builder.as_data_source(split, decoders=_KEPT_ENCODED)


def split_names(data_dir: str | os.PathLike) -> list[str]:
    """The splits that the dataset has.

    Raises:
      PipelineError: no complete dataset there.
    """
    return list(_newest(data_dir).info.splits)


def _newest(data_dir: str | os.PathLike) -> tfds.core.DatasetBuilder:
    versions = [
        info.parent
        for info in Path(data_dir).glob("mass13k/*/dataset_info.json")
        # What a killed build leaves is called incomplete.A1B2C3_1.0.0 or the like.
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    if not versions:
        raise PipelineError(
            f"{data_dir}: no mass13k dataset; build it with `{_BUILD_COMMAND} {data_dir}`"
        )
    newest = max(versions, key=lambda path: tfds.core.Version(path.name))
    return tfds.builder_from_directory(newest)


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
) -> grain.IterDataset:
    """Endless batches of augmented crops.

    The stream of crops is a function of the seed alone, and each batch the next part of it: host
    `i` of `n` takes the i-th of n equal pieces of each batch. So no two hosts see one photograph in
    an epoch, every photograph is seen once an epoch, and the batches of all hosts, one after the
    other, are the same whatever the number of hosts and threads. The order is drawn anew each
    epoch.

    Args:
      data_dir: the folder given to the build command.
      split: which photographs.
      batch_size: crops a step over all hosts; each host delivers its equal share.
      seed: decides order and augmentation.
      crop_size: edge of the square crops, pixels.
      short_edges: the short edges a photograph is resized to, one drawn for each crop, pixels.
      max_long_edge: bound of the long edge then, pixels.
      host_index, host_count: `jax.process_index()` and `jax.process_count()`.
      num_threads: threads of this host that decode and crop.
      on_bad_record: what a record that cannot be read or decoded does. "fail" raises. "skip" takes
        the record stored after it in its place, and logs its name; so the number of crops delivered
        tells the position in the stream as ever.
      max_bad_share: skipping fails too once this share of the split's records has been found bad.
      crops_per_decode: crops taken of one decoded photograph, all in one batch. More are faster,
        and less diverse: 1 as released.
      exact: crops equal OpenCV's on the whole photograph bit for bit; see `ResizedCrop`.

    Returns:
      A dataset of {'image': uint8 [b s s 3], 'label': uint8 [b s s]}, b = batch_size / host_count
      and s = crop_size. Its iterator is resumed exactly by `get_state` and `set_state`, or by
      `grain.checkpoint.CheckpointSave` and `CheckpointRestore`; the state holds, for one host,
      nothing but the number of photographs it has delivered: `stream_position` of any step.

    Raises:
      PipelineError: no such dataset or split, or a batch that hosts cannot share equally. From the
        iterator: a bad record, or too many.
    """
    photographs = _photographs(batch_size, host_count, crops_per_decode)
    records = open_split(data_dir, split)
    crop = ResizedCrop(
        crop_size, tuple(short_edges), max_long_edge, crops=crops_per_decode, exact=exact
    )
    pad = transforms.PadToSquare(crop_size)
    bad_records = BadRecords(len(records), on_bad_record, max_bad_share)
    crops = (
        grain.MapDataset.range(len(records))
        .seed(seed)
        .shuffle()
        .repeat(None)
        .random_map(Read(records, crop, bad_records))
        .random_map(transforms.Each(transforms.RandomFlip()))
        .random_map(transforms.Each(transforms.PhotometricDistortion()))
        .map(lambda crops: [pad.map(crop) for crop in crops])
    )
    # Shared among hosts after the random maps: before them, the hosts' n-th crops would be drawn
    # with the same random numbers.
    places = range(host_index * photographs, (host_index + 1) * photographs)
    local = grain.MapDataset.mix([crops[place :: photographs * host_count] for place in places])
    buffer = max(photographs, 2 * num_threads)  # 4 MB a crop of 1024 pixels
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=buffer)
    return local.to_iter_dataset(options).batch(photographs, batch_fn=_joined)


def stream_position(
    step: int, *, batch_size: int, host_count: int, crops_per_decode: int = 1
) -> dict[str, int]:
    """The state of a host's `train_dataset` iterator after `step` steps.

    It is the same for all hosts, and does not depend on how many there were before: training goes
    on exactly where it was when a run is continued on another number of hosts.

    Raises:
      PipelineError: a batch that hosts cannot share equally.
    """
    return {"next_index": step * _photographs(batch_size, host_count, crops_per_decode)}


def _photographs(batch_size: int, host_count: int, crops_per_decode: int) -> int:
    """Photographs a step and host."""
    shares = host_count * crops_per_decode
    if batch_size < 1 or batch_size % shares:
        times = f" times {crops_per_decode} crops a photograph" if crops_per_decode > 1 else ""
        raise PipelineError(
            f"batch_size={batch_size} cannot be shared by {host_count} hosts{times}; "
            f"take a multiple of {shares}"
        )
    return batch_size // shares


def _joined(photographs: Sequence[Sequence[transforms.Element]]) -> transforms.Element:
    """The crops of all photographs as one batch."""
    crops = [crop for photograph in photographs for crop in photograph]
    return {key: np.stack([crop[key] for crop in crops]) for key in ("image", "label")}


def eval_examples(
    data_dir: str | os.PathLike,
    *,
    split: str,
    host_index: int = 0,
    host_count: int = 1,
    num_threads: int = 4,
) -> Iterator[dict]:
    """Whole photographs with their label maps, each once over all hosts.

    Args:
      data_dir: the folder given to the build command.
      split: which photographs.
      host_index, host_count: this host takes every `host_count`-th; hosts' shares differ by one.
      num_threads: threads that decode; as many decoded photographs wait in memory (48 MB each at
        12 megapixels).

    Yields:
      {'image': uint8 [h w 3], 'label': uint8 [h w], 'file_name': str}.

    Raises:
      PipelineError: no such dataset or split (at the call, not at the first element).
    """
    records = open_split(data_dir, split)
    if host_index >= len(records):
        return iter(())
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
    dataset = grain.MapDataset.source(records)[host_index::host_count].map(Decode(keep_name=True))
    return iter(dataset.to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class Read(grain.transforms.RandomMap):
    """Turns the number of a record into crops of it, or where it is bad, of the one after it."""

    records: grain.sources.RandomAccessDataSource
    crop: ResizedCrop
    bad_records: BadRecords

    def random_map(self, element: int, rng: np.random.Generator) -> list[transforms.Element]:
        for step in range(len(self.records)):
            number = (int(element) + step) % len(self.records)
            try:
                return self.crop.random_map(self._record(number), rng)
            except (ImageError, RecordError) as error:
                self.bad_records.add(number, error)
        raise PipelineError("no record of the split can be read; build the dataset again")

    def _record(self, number: int) -> dict[str, Any]:
        try:
            return self.records[number]
        except Exception as error:  # the reader's own types are many, and none is documented
            raise RecordError(f"record {number} of the split cannot be read: {error}") from error


@dataclasses.dataclass(frozen=True)
class Decode(grain.transforms.Map):
    """Turns a record into {'image', 'label'}, with 'file_name' if that is kept."""

    keep_name: bool = False

    def map(self, element: dict[str, Any]) -> dict:
        name = element["file_name"].decode()
        decoded = {
            "image": decode_image(element["image"], name),
            "label": decode_mask(element["segmentation_mask"], f"label map of {name}"),
        }
        return {**decoded, "file_name": name} if self.keep_name else decoded
