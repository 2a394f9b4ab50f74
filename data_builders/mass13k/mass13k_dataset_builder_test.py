"""Tests of the TFDS builder.

`tfds.testing.DatasetBuilderTestCase` needs TensorFlow, so most tests run the builder directly. The
class at the end runs where TensorFlow is installed.
"""

import importlib.util
import io
import json
import shutil
import time
import tracemalloc
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, ImageOps

from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.data.images import decode_image, decode_mask, encode_mask
from massformer_jax.data.png import read_labels
from massformer_jax.data_builders.mass13k import mass13k_dataset_builder, shards
from massformer_jax.data_builders.mass13k.report import DatasetError

DUMMY_DATA = Path(__file__).parent / "dummy_data"
SPLITS = {"train": ("train", 3), "validation": ("val", 2), "test": ("test", 1)}
ENCODED = {"image": tfds.decode.SkipDecoding(), "segmentation_mask": tfds.decode.SkipDecoding()}


def prepare(manual_dir, data_dir, file_format="array_record", **options):
    """Builds the dataset and returns its builder."""
    builder = mass13k_dataset_builder.Builder(data_dir=data_dir, **options)
    builder.download_and_prepare(
        download_dir=data_dir / "downloads",
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
        file_format=file_format,
    )
    return builder


def report(builder):
    """Reads the report of a build."""
    return json.loads((Path(builder.data_dir) / "build_report.json").read_text())


def by_name(builder, split, decoders=ENCODED):
    """Returns the records of a split by the name of the photograph's file."""
    source = builder.as_data_source(split, decoders=decoders)
    return {record["file_name"].decode(): record for record in source}


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    prepare(DUMMY_DATA, data_dir)
    return tfds.builder_from_directory(data_dir / "mass13k" / "1.1.0")


@pytest.fixture
def release(tmp_path):
    """Copies the dummy data to a folder that a test may change."""
    return Path(shutil.copytree(DUMMY_DATA, tmp_path / "release"))


def files(release, split="train"):
    """Returns the paths of a split's photographs and of its label maps, sorted by name."""
    images = sorted((release / "images" / split).iterdir())
    return images, [release / "annotations" / split / f"{p.stem}.png" for p in images]


def save(image, path, **options):
    """Overwrites the file of an image that may still be open."""
    buffer = io.BytesIO()
    image.save(buffer, **options)
    path.write_bytes(buffer.getvalue())


def test_records_hold_the_files_and_what_describes_them(builder):
    assert list(builder.info.splits) == list(SPLITS)
    for split, (folder, count) in SPLITS.items():
        records = by_name(builder, split)
        assert len(records) == count == builder.info.splits[split].num_examples
        assert sorted(records) == sorted(p.name for p in (DUMMY_DATA / "images" / folder).iterdir())
        for name, record in records.items():
            image = DUMMY_DATA / "images" / folder / name
            labels = decode_mask((DUMMY_DATA / "annotations" / folder / name).with_suffix(".png"))
            assert record["image"] == image.read_bytes()
            np.testing.assert_array_equal(decode_mask(record["segmentation_mask"]), labels)
            height, width = labels.shape
            assert decode_image(image).shape == (height, width, 3)
            assert (record["height"], record["width"]) == (height, width)
            assert record["megapixels"] == pytest.approx(height * width / 1e6)
            present = [(labels == label).any() for label in range(len(CLASSES))]
            assert record["class_present"].tolist() == present


def test_tfds_alone_decodes_images_and_labels(builder):
    record = builder.as_data_source("test")[0]
    assert record["image"].shape == (96, 128, 3)
    _, (mask,) = files(DUMMY_DATA, "test")
    np.testing.assert_array_equal(record["segmentation_mask"][..., 0], decode_mask(mask))


def test_features_and_metadata(builder):
    features = builder.info.features
    assert features["image"].shape == (None, None, 3)
    assert features["segmentation_mask"].shape == (None, None, 1)
    assert features["segmentation_mask"].names == list(CLASSES)
    assert features["class_present"].shape == (7,)
    assert builder.info.full_name == "mass13k/1.1.0"
    assert "matting-level" in builder.info.description
    assert "Xie2025mass13k" in builder.info.citation
    metadata = mass13k_dataset_builder.Builder.get_metadata()
    assert "ml.task.semantic-segmentation" in metadata.tags


def test_the_report_counts_what_is_there(builder):
    splits = report(builder)["splits"]
    assert list(splits) == list(SPLITS)
    for split, (folder, count) in SPLITS.items():
        maps = [decode_mask(mask) for mask in files(DUMMY_DATA, folder)[1]]
        assert splits[split]["examples"] == count and splits[split]["unlabelled"] == 0
        assert splits[split]["ignored_pixels"] == sum(int((m == 255).sum()) for m in maps)
        for label, name in enumerate(CLASSES):
            found = [int((m == label).sum()) for m in maps]
            assert splits[split]["class_pixels"][name] == sum(found)
            assert splits[split]["class_photographs"][name] == sum(n > 0 for n in found)
    assert splits["train"]["sizes"] == {"128x96": 2, "96x128": 1}
    assert splits["train"]["file_types"] == {".jpg": 3}


def test_the_same_files_give_the_same_bytes(builder, release, tmp_path):
    # Files in another folder do so, too: the report names them relative to it.
    (release / "images" / "train" / ".DS_Store").write_bytes(b"")
    first = prepare(release, tmp_path / "first")
    second = prepare(shutil.copytree(release, tmp_path / "again"), tmp_path / "second")
    first, second = Path(first.data_dir), Path(second.data_dir)
    names = sorted(p.name for p in first.iterdir())
    assert names == sorted(p.name for p in second.iterdir())
    assert names == sorted(p.name for p in Path(builder.data_dir).iterdir())
    assert "mass13k-validation.array_record-00000-of-00001" in names
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def many(release, count):
    """Fills a release with copies of one pair, and returns the size of a pair in bytes."""
    image, mask = (files(DUMMY_DATA)[i][0] for i in (0, 1))
    for folder, source in (("images", image), ("annotations", mask)):
        (release / folder / "train").mkdir(parents=True)
        for index in range(count):
            shutil.copy(source, release / folder / "train" / f"{index:05d}{source.suffix}")
    return image.stat().st_size + mask.stat().st_size


def test_shards_share_the_examples_evenly_in_shuffled_order(tmp_path, monkeypatch):
    size = many(tmp_path / "release", 10)
    monkeypatch.setattr(mass13k_dataset_builder, "_SHARD_BYTES", 3 * size)
    split = prepare(tmp_path / "release", tmp_path / "a").info.splits["train"]
    assert split.shard_lengths == [3, 3, 2, 2]
    monkeypatch.setattr(mass13k_dataset_builder, "_MAX_SHARDS", 2)
    builder = prepare(tmp_path / "release", tmp_path / "b")
    assert builder.info.splits["train"].shard_lengths == [5, 5]
    records = builder.as_data_source("train", decoders=ENCODED)
    order = [record["file_name"].decode() for record in records]
    assert order == [f"{index:05d}.jpg" for index in np.random.default_rng(13_000).permutation(10)]


def test_memory_does_not_grow_with_the_shard(tmp_path, monkeypatch):
    class SlowDisk(shards.ArrayRecordWriter):
        def write(self, record):
            time.sleep(0.02)
            super().write(record)

    monkeypatch.setattr(shards, "ArrayRecordWriter", SlowDisk)
    monkeypatch.setattr(mass13k_dataset_builder, "NUM_THREADS", 2)
    many(tmp_path / "release", 40)
    for image in (tmp_path / "release" / "images" / "train").iterdir():
        with image.open("ab") as file:  # cameras append such data
            file.write(bytes(2**20) + b"\xff\xd9")
    prepare(tmp_path / "release", tmp_path / "warm")
    tracemalloc.start()
    prepare(tmp_path / "release", tmp_path / "data")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_file_formats(release, tmp_path, monkeypatch):
    default = prepare(release, tmp_path / "default", file_format=None)
    assert default.info.file_format == tfds.core.FileFormat.ARRAY_RECORD
    with pytest.raises(DatasetError, match=r"^file_format=parquet; pass array_record or tfrecord$"):
        prepare(release, tmp_path / "data", file_format="parquet")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r"^TFRecords are written by TensorFlow; install it, or"):
        prepare(release, tmp_path / "data", file_format="tfrecord")


def test_padded_images_go_first_as_in_the_released_configuration(release, tmp_path):
    padded = release / "images_pad" / "train"
    shutil.copytree(release / "images" / "train", padded)
    for path in padded.iterdir():
        path.write_bytes(path.read_bytes() + b"\xff\xd9")
    builder = prepare(release, tmp_path)
    assert all(r["image"].endswith(b"\xff\xd9" * 2) for r in by_name(builder, "train").values())
    assert not any(r["image"].endswith(b"\xff\xd9" * 2) for r in by_name(builder, "test").values())
    (skipped,) = report(builder)["skipped"]
    assert skipped["file"] == "images/train" and "images_pad/train goes first" in skipped["message"]


def test_folders_of_the_archives_are_looked_through(release, tmp_path, builder):
    nested = tmp_path / "nested"
    for folder in ("images", "annotations"):
        (nested / "MaSS13K" / folder).mkdir(parents=True)
        (release / folder).rename(nested / "MaSS13K" / folder / folder)
    (nested / "__MACOSX" / "images" / "train").mkdir(parents=True)
    records = by_name(prepare(nested, tmp_path / "data"), "train")
    assert records.keys() == by_name(builder, "train").keys()


def test_suffixes_in_any_spelling(release, tmp_path):
    images, masks = files(release)
    images[0].rename(images[0].with_suffix(".JPG"))
    images[1].rename(images[1].with_suffix(".jpeg"))
    masks[2].rename(masks[2].with_suffix(".PNG"))
    builder = prepare(release, tmp_path, strict=True)
    assert sorted(Path(name).suffix for name in by_name(builder, "train")) == [
        ".JPG",
        ".jpeg",
        ".jpg",
    ]
    assert report(builder)["splits"]["train"]["file_types"] == {".JPG": 1, ".jpeg": 1, ".jpg": 1}


@pytest.mark.parametrize("folder_left", [True, False])
def test_a_test_split_without_label_maps_is_ignored_everywhere(release, tmp_path, folder_left):
    shutil.rmtree(release / "annotations" / "test")
    if folder_left:
        (release / "annotations" / "test").mkdir()
    builder = prepare(release, tmp_path)
    (record,) = by_name(builder, "test").values()
    labels = decode_mask(record["segmentation_mask"])
    assert labels.shape == (96, 128) and (labels == 255).all()
    assert not record["class_present"].any()
    counted = report(builder)["splits"]["test"]
    assert counted["unlabelled"] == 1 and counted["ignored_pixels"] == 96 * 128
    assert [o["kind"] for o in report(builder)["oddities"]] == ["unlabelled split"]


def test_absent_splits_are_left_out(release, tmp_path):
    for folder in ("images", "annotations"):
        shutil.rmtree(release / folder / "test")
    builder = prepare(release, tmp_path)
    assert list(builder.info.splits) == ["train", "validation"]
    assert [o["kind"] for o in report(builder)["oddities"]] == ["absent split"]


def encoded_as(kind, labels):
    """Encodes labels as a PNG file of one of the kinds that a release may hold."""
    buffer = io.BytesIO()
    if kind == "RGB":
        colours = np.concatenate([PALETTE, np.full((249, 3), 255, np.uint8)])
        Image.fromarray(colours[labels]).save(buffer, "PNG")
    elif kind == "palette":
        return encode_mask(labels)
    elif kind == "palette of 4 bits":
        image = Image.fromarray(labels)
        image.putpalette(PALETTE.tobytes())
        image.save(buffer, "PNG", bits=4)
    elif kind == "grey palette":
        image = Image.fromarray(labels)
        image.putpalette(bytes(np.repeat(np.arange(256, dtype=np.uint8), 3)))
        image.save(buffer, "PNG", transparency=3)
    else:
        Image.fromarray(labels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["grey", "palette", "palette of 4 bits", "grey palette", "RGB"])
def test_label_maps_of_every_kind_reach_any_reader(release, tmp_path, kind):
    _, masks = files(release)
    expected = {}
    for mask in masks:
        labels = decode_mask(mask)
        if kind == "palette of 4 bits":
            labels = np.where(labels == 255, 0, labels)
        expected[f"{mask.stem}.jpg"] = labels
        mask.write_bytes(encoded_as(kind, labels))
    builder = prepare(release, tmp_path)
    for name, record in by_name(builder, "train", decoders=None).items():
        np.testing.assert_array_equal(record["segmentation_mask"][..., 0], expected[name])
    for name, record in by_name(builder, "train").items():
        with Image.open(io.BytesIO(record["segmentation_mask"])) as image:
            assert image.mode == "L" and not image.info.keys() & {"transparency", "gamma"}
        if kind == "grey":
            mask = release / "annotations" / "train" / name
            assert record["segmentation_mask"] == mask.with_suffix(".png").read_bytes()
        else:
            # The fast reader takes it.
            assert read_labels(record["segmentation_mask"]) is not None
    odd = ["RGB label map"] * (3 if kind == "RGB" else 0)
    assert [o["kind"] for o in report(builder)["oddities"]] == odd


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("kind", ["palette", "RGB"])
def test_a_turned_photograph_and_its_label_map_agree(release, tmp_path, orientation, upright, kind):
    # A label map is turned if the sizes show that it was not. Otherwise it counts as upright, as in
    # the released reader.
    images, masks = files(release)
    labels = decode_mask(masks[0])  # 128x96
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(images[0]) as image:
        save(image, images[0], format="JPEG", exif=exif)
    tagged = Image.fromarray(labels)
    tagged.getexif()[0x0112] = orientation
    turned = np.asarray(ImageOps.exif_transpose(tagged))
    by_a_quarter = orientation >= 5
    expected = turned if by_a_quarter else labels
    masks[0].write_bytes(encoded_as(kind, expected if upright else labels))
    builder = prepare(release, tmp_path)

    record = by_name(builder, "train")[images[0].name]
    np.testing.assert_array_equal(decode_mask(record["segmentation_mask"]), expected)
    assert record["image"] == images[0].read_bytes()
    assert decode_image(record["image"]).shape[:2] == expected.shape
    assert (record["height"], record["width"]) == expected.shape
    messages = [o["message"] for o in report(builder)["oddities"] if "RGB" not in o["message"]]
    if orientation == 1:
        assert messages == []
    else:
        (message,) = messages
        assert f"EXIF tag ({orientation})" in message
        assert ("stored turned" in message) == (by_a_quarter and not upright)


def test_strict_takes_an_oddity_for_an_error(release, tmp_path):
    (release / "images" / "val" / "notes.txt").write_text("")
    prepare(release, tmp_path / "a")
    with pytest.raises(DatasetError, match=r"notes\.txt: no photograph .*\(--strict"):
        prepare(release, tmp_path / "b", strict=True)
    assert not any((tmp_path / "b").rglob("*mass13k-*"))


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="needs apache-beam")
def test_beam_writes_the_same_bytes(builder, release, tmp_path):
    written = mass13k_dataset_builder.Builder(data_dir=tmp_path / "data")
    config = tfds.download.DownloadConfig(manual_dir=release, beam_runner="DirectRunner")
    written.download_and_prepare(download_dir=tmp_path, download_config=config)
    expected = sorted(Path(builder.data_dir).iterdir())
    assert [p.name for p in expected] == sorted(p.name for p in Path(written.data_dir).iterdir())
    for file in expected:
        assert file.read_bytes() == (Path(written.data_dir) / file.name).read_bytes(), file.name

    mask = files(release)[1][0]
    mask.write_bytes(mask.read_bytes()[:-300] + bytes(288) + mask.read_bytes()[-12:])
    broken = mass13k_dataset_builder.Builder(data_dir=tmp_path / "broken")
    with pytest.raises(DatasetError, match=f"^{mask}: the label map is damaged"):
        broken.download_and_prepare(download_dir=tmp_path, download_config=config)
    assert not any((tmp_path / "broken").rglob("*mass13k-*"))


if all(map(importlib.util.find_spec, ("tensorflow", "dill"))):  # tfds.testing needs both

    class Mass13kTest(tfds.testing.DatasetBuilderTestCase):
        """The test that TFDS has for every builder; it reads TFRecords by `as_dataset`."""

        DATASET_CLASS = mass13k_dataset_builder.Builder
        SPLITS: ClassVar[dict] = {split: count for split, (_, count) in SPLITS.items()}

        def _make_builder(self, config=None):
            return self.dataset_class(data_dir=self.tmp_dir, file_format="tfrecord")
