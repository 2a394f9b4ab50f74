"""The TFDS builder of the dataset MaSS13K, and of other folders of photographs and label maps."""

import functools
import importlib.util
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from etils import epath
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from massformer_jax.classes import names_of, palette_of
from massformer_jax.data_builders.mass13k.headers import Source, read_headers
from massformer_jax.data_builders.mass13k.layout import RELEASE, Layout
from massformer_jax.data_builders.mass13k.report import (
    Counts,
    DatasetError,
    Remark,
    Report,
    raise_problems,
)
from massformer_jax.data_builders.mass13k.shards import (
    NUM_THREADS,
    TOO_HIGH,
    Shard,
    read_findings,
    write_shard,
)
from massformer_jax.data_builders.mass13k.sources import write_sources

REPORT_FILE = "build_report.json"
# A reader keeps each shard's file open and can read any record of it, so few large shards are best.
_SHARD_BYTES = 256 * 2**20
_MAX_SHARDS = 128
_SHUFFLE_SEED = 13_000


class Builder(FileReaderBuilder):
    """The DatasetBuilder of mass13k, which writes array_record files, or TFRecords with TensorFlow.

    It does not use the writers of TFDS. The one of `GeneratorBasedBuilder` needs TensorFlow for a
    split of more than 1000 MiB, and the one of `ShardBasedBuilder` keeps all examples of a shard in
    memory and runs in one thread.

    Before the first record is written, the names and headers of all files are checked. While the
    records are written, label maps are decoded and photographs tried. A `DatasetError` (a
    ValueError) lists everything that is wrong, and then there is no dataset.
    """

    # The files that describe the dataset lie beside this one. TFDS would look for them by the name
    # of the module, which does not lead there in a checkout.
    pkg_dir_path = epath.Path(__file__).parent
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

    def __init__(
        self,
        *,
        strict: bool = False,
        file_format: Any = "array_record",
        layout: Layout = RELEASE,
        **kwargs: Any,
    ):
        """Makes a builder, see `tfds.core.DatasetBuilder`.

        Args:
            strict: whether an oddity of the release stops the build, as a problem does.
            file_format: "array_record" for `tfds.data_source`, or "tfrecord" for `tfds.load`.
            layout: which dataset this is, if it is not MaSS13K.
            **kwargs: `data_dir`, and whatever else TFDS passes.
        """
        self._layout, self._strict = layout, strict
        if layout.name != self.name:
            self.name = layout.name
            self.RELEASE_NOTES = {}
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        """Returns the metadata of the dataset."""
        names = names_of(self._layout.classes)
        facts = {
            "features": tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(None, None, 3),
                        encoding_format="jpeg",
                        doc="A JPEG file, byte for byte.",
                    ),
                    "segmentation_mask": tfds.features.LabeledImage(
                        labels=list(names),
                        shape=(None, None, 1),
                        encoding_format="png",
                        doc="Labels as grey values, 255 is ignored; fits the upright image.",
                    ),
                    "file_name": tfds.features.Text(doc="Name of the photograph's file."),
                    "height": tfds.features.Scalar(np.int32, doc="Pixels of the upright image."),
                    "width": tfds.features.Scalar(np.int32, doc="Pixels of the upright image."),
                    "megapixels": tfds.features.Scalar(np.float32, doc="height * width / 1e6."),
                    "class_present": tfds.features.Tensor(
                        shape=(len(names),),
                        dtype=np.bool_,
                        doc="Whether any pixel has the label, in the order of the labels.",
                    ),
                }
            ),
            "supervised_keys": ("image", "segmentation_mask"),
            # TFDS keeps the names with the features, and this as metadata.json.
            "metadata": tfds.core.MetadataDict(
                palette=[list(rgb) for rgb in palette_of(self._layout.classes)],
                settings=dict(self._layout.settings),
            ),
        }
        if self._layout is RELEASE:
            homepage = "https://github.com/xiechenxi99/MaSS13K"
            return self.dataset_info_from_configs(**facts, homepage=homepage)
        description = f"Photographs with label maps of {len(names)} classes."
        return tfds.core.DatasetInfo(builder=self, description=description, **facts)

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        """Checks the release, and writes shards and report to the folder that TFDS then renames.

        Raises:
            DatasetError: the release has problems, the disk is full, or the format is not possible.
        """
        _check_format(self.info.file_format)
        root, folder = Path(dl_manager.manual_dir), Path(self.data_dir)
        splits, remarks = self._check_files(root)
        raise_problems(remarks, self._strict)
        _check_disk(folder, splits)

        shards = {split: self._shards(split, sources) for split, sources in splits.items()}
        config = download_config or tfds.download.DownloadConfig()
        if config.beam_runner or config.beam_options:
            _write_with_beam(shards, self.info.features, config)
        else:
            _write_here(shards, self.info.features)

        counts = {split: Counts() for split in shards}
        sources = {split: {} for split in shards}
        split_infos = []
        for split, split_shards in shards.items():
            lengths = []
            for shard in split_shards:
                findings = read_findings(shard)
                counts[split].add(findings.counts)
                remarks.extend(findings.remarks)
                sources[split] |= findings.sources
                lengths.append(findings.counts.examples)
            split_info = tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=sum(shard.path.stat().st_size for shard in split_shards),
                filename_template=self._get_filename_template(split),
            )
            split_infos.append(split_info)
        self._raise_one_too_high(root, remarks)
        remarks += self._empty_classes(root, counts)
        raise_problems(remarks, self._strict)
        report = Report(counts, remarks, names_of(self._layout.classes))
        (folder / REPORT_FILE).write_text(report.to_json(root))
        write_sources(folder, sources)
        print(report)
        self.info.set_splits(tfds.core.SplitDict(split_infos))

    def _check_files(self, root: Path) -> tuple[dict[str, list[Source]], list[Remark]]:
        """Checks names and headers; returns the usable pairs of each split and all remarks."""
        pairs, remarks = self._layout.find(root)
        coloured = self._layout.classes if self._layout.stated_colours else None
        splits = {}
        for split, split_pairs in pairs.items():
            splits[split], header_remarks = read_headers(split_pairs, classes=coloured)
            remarks += header_remarks
        return splits, remarks

    def _raise_one_too_high(self, root: Path, remarks: Sequence[Remark]) -> None:
        """Raises DatasetError if all that is wrong may be that labels begin with 1."""
        problems = [remark for remark in remarks if remark.level == "problem"]
        if not self._layout.first_label_flag or not problems:
            return
        if all(remark.kind == TOO_HIGH for remark in problems):
            count = len(self._layout.classes)
            raise DatasetError(
                f"{root}: label maps hold {count}, and the labels of {count} classes are "
                f"0..{count - 1}; if their values are 1..{count}, and 0 is unlabelled, pass "
                f"{self._layout.first_label_flag}; otherwise a class is missing in the list "
                f"({len(problems)} label maps, the first is {problems[0].path})"
            )

    def _empty_classes(self, root: Path, counts: Mapping[str, Counts]) -> list[Remark]:
        """Returns remarks on classes that no pixel has, or none of the training split."""
        if self._layout is RELEASE:
            return []
        remarks = []
        for one in self._layout.classes:
            photographs = {split: c.class_photographs[one.name] for split, c in counts.items()}
            if not any(photographs.values()):
                message = f"no pixel is of the class {one.name}; correct the list of classes, or "
                message += "it is never learned"
                remarks.append(Remark("oddity", "empty class", root, message))
            elif not photographs.get("train", 1):
                message = f"no pixel of the training photographs is of the class {one.name}, "
                message += "so it is never learned"
                remarks.append(Remark("oddity", "class that is not trained", root, message))
        return remarks

    def _shards(self, split: str, sources: Sequence[Source]) -> list[Shard]:
        """Shuffles the sources and deals them to shards, whose lengths differ by one at most."""
        order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(sources))
        size = sum(source.num_bytes for source in sources)
        count = min(len(sources), _MAX_SHARDS, math.ceil(size / _SHARD_BYTES))
        template = self._get_filename_template(split)
        return [
            Shard(
                Path(template.sharded_filepath(shard_index=index, num_shards=count)),
                tuple(sources[i] for i in part),
                self.info.file_format,
                self._layout.classes,
            )
            for index, part in enumerate(np.array_split(order, count))
        ]


def _check_format(file_format: tfds.core.FileFormat) -> None:
    """Raises DatasetError unless records can be written in this format."""
    if file_format == tfds.core.FileFormat.TFRECORD:
        if not importlib.util.find_spec("tensorflow"):
            raise DatasetError(
                "TFRecords are written by TensorFlow; install it, or pass file_format=array_record"
            )
    elif file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise DatasetError(f"file_format={file_format.value}; pass array_record or tfrecord")


def _check_disk(folder: Path, splits: dict[str, list[Source]]) -> None:
    """Raises DatasetError if the disk has less space than the dataset takes."""
    needed = sum(source.num_bytes for sources in splits.values() for source in sources)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DatasetError(
            f"{folder.parent}: {free / 1e9:.1f} GB are free, and the dataset takes "
            f"{needed / 1e9:.1f} GB; make room or name another --data_dir"
        )


def _write_here(shards: dict[str, list[Shard]], features: tfds.features.FeaturesDict) -> None:
    """Writes one shard after the other, while threads prepare its examples."""
    for split, split_shards in shards.items():
        with tqdm.tqdm(
            desc=split,
            total=sum(len(shard.sources) for shard in split_shards),
            unit=" images",
            delay=1,  # a short build shows no bar
            mininterval=0.5 if sys.stderr.isatty() else 30,  # a log gets a line per half minute
        ) as bar:
            for shard in split_shards:
                write_shard(shard, features, NUM_THREADS, progress=bar.update)


def _write_with_beam(
    shards: dict[str, list[Shard]],
    features: tfds.features.FeaturesDict,
    config: tfds.download.DownloadConfig,
) -> None:
    """Writes the shards on Beam's workers, for which the folders have to have the same paths."""
    import apache_beam as beam

    write = functools.partial(write_shard, features=features, num_threads=1)
    with beam.Pipeline(runner=config.beam_runner, options=config.beam_options) as pipeline:
        _ = (
            pipeline
            | beam.Create([shard for split_shards in shards.values() for shard in split_shards])
            | beam.Reshuffle()  # otherwise Beam does all the work where the list is, on one worker
            | beam.Map(write)
        )
