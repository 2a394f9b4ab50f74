"""Writing one shard: reading pairs of files, checking what is in them, and storing records."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from massformer_jax.classes import IGNORE, MASS13K, Class, names_of
from massformer_jax.data.ahead import map_ahead
from massformer_jax.data.images import ImageError, decode_reduced
from massformer_jax.data_builders.mass13k.headers import Source
from massformer_jax.data_builders.mass13k.label_maps import (
    grey_label_map,
    ignored_label_map,
    is_coloured,
    relabelled,
)
from massformer_jax.data_builders.mass13k.layers import merged_layers
from massformer_jax.data_builders.mass13k.photographs import as_jpeg
from massformer_jax.data_builders.mass13k.report import Counts, Remark
from massformer_jax.data_builders.mass13k.sources import Fingerprint, fingerprint
from massformer_jax.files import written_atomically

# Groups of one record, since a random read decodes a whole group. No compression, since it would
# take 20 ms per example and make JPEG and PNG files no smaller.
_WRITER_OPTIONS = "group_size:1,uncompressed"
# The kind of a label map whose only wrong value is the number of classes: perhaps its values are
# 1..K and not 0..K-1.
TOO_HIGH = "label one too high"
_TRIED_SCALE = 8  # photographs are tried at an eighth of their size

# Each thread holds one example and its decoded label map, so that six threads need at most 500 MB.
NUM_THREADS = min(os.cpu_count() or 1, 6)


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to be written, the pairs of files that go into it, in order, and their classes."""

    path: Path
    sources: tuple[Source, ...]
    file_format: tfds.core.FileFormat
    classes: tuple[Class, ...] = MASS13K


@dataclasses.dataclass(frozen=True)
class Findings:
    """The counts, remarks and sources of a shard, found while it was written."""

    counts: Counts
    remarks: list[Remark]
    sources: dict[str, Fingerprint]  # by the name of the photograph


def write_shard(
    shard: Shard,
    features: tfds.features.FeaturesDict,
    num_threads: int,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Writes the records of a shard, and beside it what was found, for `read_findings`.

    A pair with a problem is left out; then the caller has to refuse the dataset.

    Args:
        shard: what to write, and where. The file appears when it is complete.
        features: those of the dataset.
        num_threads: number of threads that read and check. One example more is in memory.
        progress: is called after each example.
    """
    serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
    counts, remarks, sources = Counts(), [], {}

    def prepare(source: Source) -> tuple[bytes | None, Counts, list[Remark]]:
        """Makes the record of a pair, or None if it has a problem."""
        example, counted, found = read_example(source, shard.classes)
        if example is None:
            return None, counted, found
        masks = [path.read_bytes() for path in source.pair.masks]
        image = source.pair.image.read_bytes() if source.as_jpeg else example["image"]
        sources[source.pair.file_name] = fingerprint(image, b"".join(masks) if masks else None)
        proto = serializer.get_tf_example(features.encode_example(example))
        # Features in a fixed order, so that the same files give the same bytes everywhere.
        return proto.SerializeToString(deterministic=True), counted, found

    def records() -> Iterator[bytes]:
        """Yields the records, and keeps what was found."""
        for record, counted, found in map_ahead(prepare, shard.sources, threads=num_threads):
            remarks.extend(found)
            if record is not None:
                yield record
                counts.add(counted)
            progress()

    with written_atomically(shard.path) as part:
        if shard.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            writer = ArrayRecordWriter(str(part), _WRITER_OPTIONS)
            for record in records():
                writer.write(record)
            writer.close()
        else:
            stock = tfds.core.ExampleWriter(shard.file_format)
            stock.write(part, enumerate(records()))
    findings = {
        "counts": counts.to_json(names_of(shard.classes)),
        "remarks": [{**dataclasses.asdict(r), "path": str(r.path)} for r in remarks],
        "sources": sources,
    }
    _findings_file(shard).write_text(json.dumps(findings))


def read_findings(shard: Shard) -> Findings:
    """Reads what `write_shard` found, perhaps on another machine, and removes that file."""
    file = _findings_file(shard)
    findings = json.loads(file.read_text())
    file.unlink()
    remarks = [Remark(**{**r, "path": Path(r["path"])}) for r in findings["remarks"]]
    sources = {name: tuple(found) for name, found in findings["sources"].items()}
    return Findings(Counts.from_json(findings["counts"]), remarks, sources)


def read_example(
    source: Source, classes: Sequence[Class] = MASS13K
) -> tuple[dict | None, Counts, list[Remark]]:
    """Reads a pair of files and checks their contents.

    Args:
        source: the files.
        classes: of the dataset.

    Returns:
        The example, or None if a file has a problem; its counts; and remarks on the files.
    """
    pair, counts, remarks = source.pair, Counts(), []
    image = as_jpeg(pair.image) if source.as_jpeg else pair.image.read_bytes()
    if not _is_decodable(image, source):
        message = "the photograph cannot be decoded; copy or download it again"
        remarks.append(Remark("problem", "undecodable photograph", pair.image, message))
    if pair.mask is None:
        mask = ignored_label_map(source.height, source.width)
        histogram = [0] * IGNORE + [source.height * source.width]
        counts.unlabelled = 1
    else:
        try:
            mask, histogram = _read_labels(source, classes, remarks)
        except ImageError as error:
            remarks.append(Remark("problem", "damaged label map", pair.mask, str(error)))
            return None, counts, remarks
    if any(remark.level == "problem" for remark in remarks):
        return None, counts, remarks

    names = names_of(classes)
    present = [histogram[label] > 0 for label in range(len(classes))]
    counts.examples = 1
    counts.ignored_pixels = histogram[IGNORE]
    counts.class_pixels.update(dict(zip(names, histogram, strict=False)))
    counts.class_photographs.update(dict(zip(names, map(int, present), strict=True)))
    counts.sizes[f"{source.width}x{source.height}"] = 1
    counts.file_types[pair.image.suffix] = 1
    example = {
        "image": image,
        "segmentation_mask": mask,
        "file_name": pair.file_name,
        "height": source.height,
        "width": source.width,
        "megapixels": source.height * source.width / 1e6,
        "class_present": np.array(present),
    }
    return example, counts, remarks


def _is_decodable(image: bytes, source: Source) -> bool:
    """Tells whether the readers make an upright photograph of the size in the header.

    Single damaged blocks are not noticed, since OpenCV fills them in.
    """
    try:
        reduced = decode_reduced(image)
    except ImageError:
        return False
    return reduced.shape[:2] == (
        -(-source.height // _TRIED_SCALE),
        -(-source.width // _TRIED_SCALE),
    )


def _read_labels(
    source: Source, classes: Sequence[Class], remarks: list[Remark]
) -> tuple[bytes, list[int]]:
    """Reads the label map of a photograph, and adds remarks on its labels.

    Returns:
        An 8-bit grey PNG file of labels, and the number of pixels for each of the 256 labels.

    Raises:
        ImageError: see `grey_label_map`.
    """
    pair = source.pair
    if pair.layers:
        mask, histogram = merged_layers(pair, source.turn, remarks)
        remarks += _check_labels(pair.mask, histogram, len(classes))
        return mask, histogram
    data = pair.mask.read_bytes()
    mask, histogram = grey_label_map(data, source.turn, classes)
    values = None if is_coloured(data) else pair.values
    remarks += _check_labels(pair.mask, histogram, len(classes), values)
    if values is not None and not any(remark.level == "problem" for remark in remarks):
        mask, histogram = relabelled(mask, histogram, values)
    return mask, histogram


def _check_labels(
    path: Path, histogram: list[int], classes: int, values: Sequence[int] | None = None
) -> Iterator[Remark]:
    """Yields a remark on labels that are not allowed, or on a label map without any label.

    Args:
        path: the label map.
        histogram: the number of pixels for each of its 256 values.
        classes: number of classes.
        values: for each value the label that it stands for, see `Pair`; None where they are equal.
    """
    labels = values or [*range(classes), *[-1] * (IGNORE - classes), IGNORE]
    found = [value for value, count in enumerate(histogram) if count]
    wrong = [value for value in found if labels[value] < 0]
    if wrong:
        shown = ", ".join(map(str, wrong[:5])) + ", ..." * (len(wrong) > 5)
        allowed = _ranges([value for value, label in enumerate(labels) if label >= 0])
        kind = TOO_HIGH if values is None and wrong == [classes] else "wrong label"
        message = f"the label map holds {shown}, allowed are {allowed}; correct its labels"
        yield Remark("problem", kind, path, message)
    elif all(labels[value] == IGNORE for value in found):
        yield Remark("oddity", "nothing labelled", path, f"all pixels are {IGNORE}, ignored")


def _ranges(values: Sequence[int]) -> str:
    """Returns numbers in order as text, `0..6 and 255`."""
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][-1] == value - 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    texts = [f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def _findings_file(shard: Shard) -> Path:
    """Returns the path of the file with the findings, beside the shard."""
    return shard.path.with_name(f"{shard.path.name}.findings.json")
