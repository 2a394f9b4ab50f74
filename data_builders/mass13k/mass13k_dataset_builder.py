"""mass13k dataset."""

import functools
import importlib.util
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from data_builders.mass13k.headers import Source, read_headers
from data_builders.mass13k.release_folder import find_pairs
from data_builders.mass13k.report import Counts, DatasetError, Remark, Report, raise_problems
from data_builders.mass13k.shards import NUM_THREADS, Shard, read_findings, write_shard
from massformer_jax.data.classes import CLASSES

REPORT_FILE = "build_report.json"
# A reader holds one file open a shard and reads any record at random: few large shards serve best.
_SHARD_BYTES = 256 * 2**20
_MAX_SHARDS = 128
_SHUFFLE_SEED = 13_000


class Builder(FileReaderBuilder):
    """DatasetBuilder for mass13k: array_record files, or TFRecords where TensorFlow is installed.

    It writes its shards itself: the stock writer of `GeneratorBasedBuilder` spills a split of more
    than 1000 MiB through TensorFlow, and that of `ShardBasedBuilder` keeps the examples of a whole
    shard in memory, and runs in one thread.

    Before the first record is written, the names and headers of all files are checked; label maps
    are decoded and photographs tried while records are written. A `DatasetError` (a ValueError)
    lists everything that is wrong, and then no dataset is left.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "Initial release.",
        "1.1.0": "Features height, width, megapixels and class_present; label maps are grey PNGs.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Download the dataset from the link at https://github.com/xiechenxi99/MaSS13K and extract it.
    The manual directory is the folder that holds `images` (or `images_pad`) and `annotations`,
    each with `train`, `val` and `test`, or a folder around it.
    """

    def __init__(self, *, strict: bool = False, file_format: Any = "array_record", **kwargs: Any):
        """See `tfds.core.DatasetBuilder`.

        Args:
          strict: whether an oddity of the release stops the build, as an error does.
          file_format: "array_record", for `tfds.data_source`, or "tfrecord", for `tfds.load`.
          **kwargs: `data_dir`, and what else TFDS passes.
        """
        super().__init__(file_format=file_format, **kwargs)
        self._strict = strict

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
                        doc="Labels 0..6, 255 is ignored, as grey values; fits the upright image.",
                    ),
                    "file_name": tfds.features.Text(doc="Name of the JPEG file in the release."),
                    "height": tfds.features.Scalar(np.int32, doc="Pixels of the upright image."),
                    "width": tfds.features.Scalar(np.int32, doc="Pixels of the upright image."),
                    "megapixels": tfds.features.Scalar(np.float32, doc="height * width / 1e6."),
                    "class_present": tfds.features.Tensor(
                        shape=(len(CLASSES),),
                        dtype=np.bool_,
                        doc="Whether any pixel has the label, in the order of the labels.",
                    ),
                }
            ),
            supervised_keys=("image", "segmentation_mask"),
            homepage="https://github.com/xiechenxi99/MaSS13K",
        )

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        """Checks the release, and writes shards and report to the folder that TFDS will rename."""
        _check_format(self.info.file_format)
        root, folder = Path(dl_manager.manual_dir), Path(self.data_dir)
        splits, remarks = _check_release(root)
        raise_problems(remarks, self._strict)
        _check_disk(folder, splits)

        shards = {split: self._shards(split, sources) for split, sources in splits.items()}
        config = download_config or tfds.download.DownloadConfig()
        if config.beam_runner or config.beam_options:
            _write_with_beam(shards, self.info.features, config)
        else:
            _write_here(shards, self.info.features)

        counts = {split: Counts() for split in shards}
        infos = []
        for split, parts in shards.items():
            lengths = []
            for shard in parts:
                found = read_findings(shard)
                counts[split].add(found.counts)
                remarks.extend(found.remarks)
                lengths.append(found.counts.examples)
            info = tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=sum(shard.path.stat().st_size for shard in parts),
                filename_template=self._get_filename_template(split),
            )
            infos.append(info)
        raise_problems(remarks, self._strict)
        report = Report(counts, remarks)
        (folder / REPORT_FILE).write_text(report.to_json(root))
        print(report)
        self.info.set_splits(tfds.core.SplitDict(infos))

    def _shards(self, split: str, sources: Sequence[Source]) -> list[Shard]:
        """The sources in shuffled order, dealt to shards that differ by at most one example."""
        order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(sources))
        size = sum(source.num_bytes for source in sources)
        count = min(len(sources), _MAX_SHARDS, math.ceil(size / _SHARD_BYTES))
        template = self._get_filename_template(split)
        return [
            Shard(
                Path(template.sharded_filepath(shard_index=index, num_shards=count)),
                tuple(sources[i] for i in part),
                self.info.file_format,
            )
            for index, part in enumerate(np.array_split(order, count))
        ]


def _check_format(file_format: tfds.core.FileFormat) -> None:
    if file_format == tfds.core.FileFormat.TFRECORD:
        if not importlib.util.find_spec("tensorflow"):
            raise DatasetError(
                "TFRecords are written by TensorFlow; install it, or pass file_format=array_record"
            )
    elif file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise DatasetError(f"file_format={file_format.value}; pass array_record or tfrecord")


def _check_release(root: Path) -> tuple[dict[str, list[Source]], list[Remark]]:
    pairs, remarks = find_pairs(root)
    splits = {}
    for split, found in pairs.items():
        splits[split], more = read_headers(found)
        remarks += more
    return splits, remarks


def _check_disk(folder: Path, splits: dict[str, list[Source]]) -> None:
    needed = sum(source.num_bytes for sources in splits.values() for source in sources)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DatasetError(
            f"{folder.parent}: {free / 1e9:.1f} GB are free, and the dataset takes "
            f"{needed / 1e9:.1f} GB; make room or name another --data_dir"
        )


def _write_here(shards: dict[str, list[Shard]], features: tfds.features.FeaturesDict) -> None:
    """Writes one shard after the other, its examples prepared by threads."""
    for split, parts in shards.items():
        with tqdm.tqdm(
            desc=split,
            total=sum(len(shard.sources) for shard in parts),
            unit=" images",
            delay=1,  # a build of seconds needs no bar
            mininterval=0.5 if sys.stderr.isatty() else 30,  # a log gets a line now and then
        ) as bar:
            for shard in parts:
                write_shard(shard, features, NUM_THREADS, progress=bar.update)


def _write_with_beam(
    shards: dict[str, list[Shard]],
    features: tfds.features.FeaturesDict,
    config: tfds.download.DownloadConfig,
) -> None:
    """Writes the shards on Beam's workers, which have to see the folders by the same paths."""
    import apache_beam as beam

    write = functools.partial(write_shard, features=features, num_threads=1)
    with beam.Pipeline(runner=config.beam_runner, options=config.beam_options) as pipeline:
        _ = (
            pipeline
            | beam.Create([shard for parts in shards.values() for shard in parts])
            | beam.Reshuffle()  # or Beam fuses the list and its use, on one worker
            | beam.Map(write)
        )
