"""Writing one shard: reading pairs of files, checking what is in them, and storing records."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from massformer_jax.classes import CLASSES, IGNORE
from massformer_jax.data.ahead import map_ahead
from massformer_jax.data.images import ImageError, decode_reduced
from massformer_jax.data_builders.mass13k.headers import Source
from massformer_jax.data_builders.mass13k.label_maps import grey_label_map, ignored_label_map
from massformer_jax.data_builders.mass13k.report import Counts, Remark
from massformer_jax.data_builders.mass13k.sources import Fingerprint, fingerprint
from massformer_jax.files import written_atomically

# Groups of one record, since a random read decodes a whole group. No compression, since it would
# take 20 ms per example and make JPEG and PNG files no smaller.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_TRIED_SCALE = 8  # photographs are tried at an eighth of their size

# Each thread holds one example and its decoded label map, so that six threads need at most 500 MB.
NUM_THREADS = min(os.cpu_count() or 1, 6)


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to be written, and the pairs of files that go into it, in order."""

    path: Path
    sources: tuple[Source, ...]
    file_format: tfds.core.FileFormat


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
        example, counted, found = read_example(source)
        if example is None:
            return None, counted, found
        mask = source.pair.mask.read_bytes() if source.pair.mask else None
        sources[source.pair.image.name] = fingerprint(example["image"], mask)
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
        "counts": counts.to_json(),
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


def read_example(source: Source) -> tuple[dict | None, Counts, list[Remark]]:
    """Reads a pair of files and checks their contents.

    Returns:
        The example, or None if a file has a problem; its counts; and remarks on the files.
    """
    pair, counts, remarks = source.pair, Counts(), []
    image = pair.image.read_bytes()
    if not _is_decodable(image, source):
        message = "the photograph cannot be decoded; copy or download it again"
        remarks.append(Remark("problem", "undecodable photograph", pair.image, message))
    if pair.mask is None:
        mask = ignored_label_map(source.height, source.width)
        histogram = [0] * IGNORE + [source.height * source.width]
        counts.unlabelled = 1
    else:
        try:
            mask, histogram = grey_label_map(pair.mask.read_bytes(), source.turn)
        except ImageError as error:
            remarks.append(Remark("problem", "damaged label map", pair.mask, str(error)))
            return None, counts, remarks
        remarks += _check_labels(pair.mask, histogram)
    if any(remark.level == "problem" for remark in remarks):
        return None, counts, remarks

    present = [histogram[label] > 0 for label in range(len(CLASSES))]
    counts.examples = 1
    counts.ignored_pixels = histogram[IGNORE]
    counts.class_pixels.update(dict(zip(CLASSES, histogram, strict=False)))
    counts.class_photographs.update(dict(zip(CLASSES, map(int, present), strict=True)))
    counts.sizes[f"{source.width}x{source.height}"] = 1
    counts.file_types[pair.image.suffix] = 1
    example = {
        "image": image,
        "segmentation_mask": mask,
        "file_name": pair.image.name,
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


def _check_labels(path: Path, histogram: list[int]) -> Iterator[Remark]:
    """Yields a remark on labels that are not allowed, or on a label map without any label."""
    wrong = [value for value in range(len(CLASSES), IGNORE) if histogram[value]]
    if wrong:
        values = ", ".join(map(str, wrong[:5])) + ", ..." * (len(wrong) > 5)
        message = f"the label map holds {values}, allowed are 0..{len(CLASSES) - 1} and {IGNORE}; "
        yield Remark("problem", "wrong label", path, message + "correct its labels")
    elif not any(histogram[:IGNORE]):
        yield Remark("oddity", "nothing labelled", path, f"all pixels are {IGNORE}, ignored")


def _findings_file(shard: Shard) -> Path:
    """Returns the path of the file with the findings, beside the shard."""
    return shard.path.with_name(f"{shard.path.name}.findings.json")
