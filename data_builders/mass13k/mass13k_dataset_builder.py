"""mass13k dataset."""

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from data_builders.mass13k import release_folder
from data_builders.mass13k.release_folder import DatasetError, Pair
from massformer_jax.data.classes import CLASSES

# A reader holds one file open a shard and reads any record at random: few large shards serve best.
_SHARD_BYTES = 256 * 2**20
_MAX_SHARDS = 128
# One record a group, since a group is what a random read decodes; and no compression, which would
# cost 20 ms an example to gain nothing on JPEG and PNG files.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_SHUFFLE_SEED = 13_000


class Builder(tfds.core.ShardBasedBuilder):
    """DatasetBuilder for mass13k: array_record files, written with or without TensorFlow.

    Based on shards, because the stock writer of `GeneratorBasedBuilder` spills a split of more than
    1000 MiB through TensorFlow.

    Every file of the release is checked before the first record is written; a `DatasetError` (a
    ValueError) names what is wrong.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Initial release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Download the dataset from the link at https://github.com/xiechenxi99/MaSS13K and extract it.
    The manual directory is the folder that holds `images` (or `images_pad`) and `annotations`,
    each with `train`, `val` and `test`.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        """Returns the dataset metadata."""
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(None, None, 3),
                        encoding_format="jpeg",
                        doc="The release's JPEG file, byte for byte.",
                    ),
                    "segmentation_mask": tfds.features.LabeledImage(
                        labels=list(CLASSES),
                        shape=(None, None, 1),
                        encoding_format="png",
                        doc="The release's PNG file, byte for byte: labels 0..6, 255 is ignored.",
                    ),
                    "file_name": tfds.features.Text(doc="Name of the JPEG file in the release."),
                }
            ),
            supervised_keys=("image", "segmentation_mask"),
            homepage="https://github.com/xiechenxi99/MaSS13K",
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        """Returns one generator of examples a shard, after a check of all files."""
        if self.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            raise DatasetError("the files would be TFRecords; pass file_format='array_record'")
        splits = release_folder.find_pairs(dl_manager.manual_dir)
        release_folder.check_pairs(splits)
        return {
            split: [functools.partial(_examples, shard) for shard in _shards(pairs)]
            for split, pairs in splits.items()
        }

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return _VerbatimWriter(self.info.file_format)


class _VerbatimWriter(tfds.core.ExampleWriter):
    """Writes array_record files for random reads of records that are compressed already."""

    def write(self, path, examples) -> None:
        writer = ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
        for _, serialized in examples:
            writer.write(serialized)
        writer.close()


def _shards(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs in shuffled order, dealt to shards that differ by at most one example."""
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(pairs))
    size = sum(pair.image.stat().st_size + pair.mask.stat().st_size for pair in pairs)
    count = min(len(pairs), _MAX_SHARDS, math.ceil(size / _SHARD_BYTES))
    return [[pairs[index] for index in part] for part in np.array_split(order, count)]


def _examples(pairs: Sequence[Pair]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (key, example). Files go in as paths: TFDS reads each when it writes its record, so
    that memory holds one example, not the shard.
    """
    for pair in pairs:
        yield (
            pair.image.name,
            {
                "image": pair.image,
                "segmentation_mask": pair.mask,
                "file_name": pair.image.name,
            },
        )
