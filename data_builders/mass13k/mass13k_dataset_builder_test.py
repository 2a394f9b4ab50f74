"""mass13k dataset.

`tfds.testing.DatasetBuilderTestCase` needs TensorFlow, so the builder is run directly.
"""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_builders.mass13k import mass13k_dataset_builder, release_folder
from data_builders.mass13k.release_folder import DatasetError
from massformer_jax.data.classes import CLASSES
from massformer_jax.data.images import decode_image, decode_mask, encode_mask

DUMMY_DATA = Path(__file__).parent / "dummy_data"
SPLITS = {"train": ("train", 3), "validation": ("val", 2), "test": ("test", 1)}


def prepare(manual_dir, data_dir, file_format="array_record"):
    builder = mass13k_dataset_builder.Builder(data_dir=data_dir)
    builder.download_and_prepare(
        download_dir=data_dir / "downloads",
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
        file_format=file_format,
    )
    return builder


def records(builder, split):
    return builder.as_data_source(
        split,
        decoders={
            "image": tfds.decode.SkipDecoding(),
            "segmentation_mask": tfds.decode.SkipDecoding(),
        },
    )


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    prepare(DUMMY_DATA, data_dir)
    return tfds.builder_from_directory(data_dir / "mass13k" / "1.0.0")


@pytest.fixture
def release(tmp_path):
    """A copy of the dummy data, to be spoiled."""
    return Path(shutil.copytree(DUMMY_DATA, tmp_path / "release"))


def files(release, split="train"):
    """The split's photographs and label maps, sorted by name."""
    images = sorted((release / "images" / split).iterdir())
    return images, [release / "annotations" / split / f"{p.stem}.png" for p in images]


def check(release):
    release_folder.check_pairs(release_folder.find_pairs(release))


def save(image, path, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    path.write_bytes(buffer.getvalue())


def test_splits_and_files(builder):
    assert list(builder.info.splits) == list(SPLITS)
    for split, (folder, count) in SPLITS.items():
        source = records(builder, split)
        assert len(source) == count == builder.info.splits[split].num_examples
        by_name = {record["file_name"].decode(): record for record in source}
        assert sorted(by_name) == sorted(p.name for p in (DUMMY_DATA / "images" / folder).iterdir())
        for name, record in by_name.items():
            image = DUMMY_DATA / "images" / folder / name
            mask = (DUMMY_DATA / "annotations" / folder / name).with_suffix(".png")
            assert record["image"] == image.read_bytes()
            assert record["segmentation_mask"] == mask.read_bytes()
            assert decode_mask(mask).shape == decode_image(image).shape[:2]


def test_features_and_metadata(builder):
    features = builder.info.features
    assert set(features) == {"image", "segmentation_mask", "file_name"}
    assert features["image"].shape == (None, None, 3)
    assert features["segmentation_mask"].shape == (None, None, 1)
    assert features["segmentation_mask"].names == list(CLASSES)
    assert builder.info.full_name == "mass13k/1.0.0"
    assert "matting-level" in builder.info.description
    assert "Xie2025mass13k" in builder.info.citation
    metadata = mass13k_dataset_builder.Builder.get_metadata()
    assert "ml.task.semantic-segmentation" in metadata.tags


def test_tfds_alone_decodes_images(builder):
    source = builder.as_data_source("test")
    assert source[0]["image"].shape == (96, 128, 3)


def test_the_same_files_give_the_same_bytes(builder, tmp_path):
    prepare(DUMMY_DATA, tmp_path)
    first, second = Path(builder.data_dir), tmp_path / "mass13k" / "1.0.0"
    names = sorted(p.name for p in first.iterdir())
    assert names == sorted(p.name for p in second.iterdir())
    assert "mass13k-validation.array_record-00000-of-00001" in names
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_shards_share_the_examples_evenly_in_shuffled_order(tmp_path, monkeypatch):
    release = tmp_path / "release"
    image, mask = (files(DUMMY_DATA)[i][0] for i in (0, 1))
    for folder, source in (("images", image), ("annotations", mask)):
        (release / folder / "train").mkdir(parents=True)
        for index in range(10):
            shutil.copy(source, release / folder / "train" / f"{index:05d}{source.suffix}")
    size = image.stat().st_size + mask.stat().st_size
    monkeypatch.setattr(mass13k_dataset_builder, "_SHARD_BYTES", 3 * size)
    split = prepare(release, tmp_path / "a").info.splits["train"]
    assert split.shard_lengths == [3, 3, 2, 2]
    monkeypatch.setattr(mass13k_dataset_builder, "_MAX_SHARDS", 2)
    builder = prepare(release, tmp_path / "b")
    assert builder.info.splits["train"].shard_lengths == [5, 5]
    order = [record["file_name"].decode() for record in records(builder, "train")]
    assert sorted(order) == [f"{index:05d}.jpg" for index in range(10)] != order


def test_only_array_record_is_written(release, tmp_path):
    with pytest.raises(DatasetError, match="TFRecords; pass file_format='array_record'"):
        prepare(release, tmp_path / "data", file_format=None)


def test_a_bad_file_stops_the_build_before_it_writes(release, tmp_path):
    images, _ = files(release, "test")
    images[0].write_bytes(images[0].read_bytes()[:-100])
    with pytest.raises(DatasetError, match="truncated"):
        prepare(release, tmp_path / "data")
    assert not any((tmp_path / "data").rglob("*mass13k-*"))
    assert not any((tmp_path / "data").rglob("*incomplete*"))


def test_absent_splits_are_left_out(release):
    for folder in ("images", "annotations"):
        shutil.rmtree(release / folder / "test")
    assert list(release_folder.find_pairs(release)) == ["train", "validation"]


def test_padded_images_go_first_as_in_the_released_configuration(release):
    shutil.copytree(release / "images" / "train", release / "images_pad" / "train")
    pairs = release_folder.find_pairs(release)
    assert {pair.image.parent.parent.name for pair in pairs["train"]} == {"images_pad"}
    assert {pair.image.parent.parent.name for pair in pairs["test"]} == {"images"}


def test_what_is_no_pair_is_passed_over(release):
    (release / "images" / "train" / ".DS_Store").write_bytes(b"")
    (release / "images" / "train" / "._00000.jpg").write_bytes(b"")
    (release / "annotations" / "train" / "Thumbs.db").write_bytes(b"")
    assert len(release_folder.find_pairs(release)["train"]) == 3


def test_no_release_at_all(tmp_path):
    with pytest.raises(
        DatasetError, match=r": no images found; expected images/\{train,val,test\}"
    ):
        release_folder.find_pairs(tmp_path)


def test_an_empty_split(release):
    for folder in ("images", "annotations"):
        for path in (release / folder / "val").iterdir():
            path.unlink()
    with pytest.raises(DatasetError, match=r"images/val: the split is empty; fill .* remove it$"):
        release_folder.find_pairs(release)


def test_an_image_without_its_mask(release):
    images, masks = files(release)
    masks[0].unlink()
    message = f"^{images[0]}: no label map {masks[0]}; add it or remove the image$"
    with pytest.raises(DatasetError, match=message):
        check(release)


def test_a_mask_without_its_image(release):
    images, masks = files(release)
    images[2].unlink()
    message = f"^{masks[2]}: no image {images[2]}; add it or remove the label map$"
    with pytest.raises(DatasetError, match=message):
        check(release)


def test_images_without_any_masks(release):
    shutil.rmtree(release / "annotations" / "val")
    with pytest.raises(DatasetError, match=r"no label map .*\(and 1 more of this kind\)$"):
        check(release)


def test_two_images_of_one_name(release):
    images, _ = files(release)
    shutil.copy(images[0], images[0].with_suffix(".jpeg"))
    with pytest.raises(DatasetError, match="has the same stem; remove one of them"):
        check(release)


def test_a_mask_of_another_size(release):
    _, masks = files(release)
    masks[0].write_bytes(encode_mask(decode_mask(masks[0])[:-1]))
    message = f"^{masks[0]}: the label map is 128x95 pixels, its image 128x96; export it again"
    with pytest.raises(DatasetError, match=message):
        check(release)


@pytest.mark.parametrize(("value", "named"), [(7, "7"), (254, "254"), (6, None), (255, None)])
def test_values_of_a_mask(release, value, named):
    _, masks = files(release)
    labels = decode_mask(masks[1])
    labels[5, 9] = value
    masks[1].write_bytes(encode_mask(labels))
    if named is None:
        return check(release)
    message = f"^{masks[1]}: the label map holds {named}, allowed are 0..6 and 255; correct its"
    with pytest.raises(DatasetError, match=message):
        check(release)


def test_a_mask_of_colours(release):
    _, masks = files(release)
    save(Image.fromarray(np.zeros((96, 128, 3), np.uint8)), masks[0], format="PNG")
    with pytest.raises(DatasetError, match=f"^{masks[0]}: the label map holds RGB pixels"):
        check(release)


@pytest.mark.parametrize("kept", [0, 300, -2])
def test_a_truncated_image(release, kept):
    images, _ = files(release)
    images[1].write_bytes(images[1].read_bytes()[:kept])
    with pytest.raises(
        DatasetError, match=f"^{images[1]}: .*(download it again|replace the file)$"
    ):
        check(release)


def test_a_truncated_mask(release):
    _, masks = files(release)
    masks[1].write_bytes(masks[1].read_bytes()[:200])
    with pytest.raises(DatasetError, match=f"^{masks[1]}: the label map is truncated"):
        check(release)


def test_a_turned_photograph_needs_an_upright_mask(release):
    images, masks = files(release)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    with Image.open(images[0]) as image:
        save(image, images[0], format="JPEG", exif=exif)
    with pytest.raises(DatasetError, match="128x96 pixels, its image 96x128"):
        check(release)
    masks[0].write_bytes(encode_mask(np.ascontiguousarray(np.rot90(decode_mask(masks[0]), -1))))
    check(release)


def test_the_first_problem_is_named_and_the_rest_counted(release):
    images, masks = files(release)
    images[2].write_bytes(b"")
    images[0].write_bytes(images[0].read_bytes()[:-9])
    masks[1].write_bytes(encode_mask(np.full((128, 96), 9, np.uint8)))
    with pytest.raises(DatasetError) as error:
        check(release)
    assert str(error.value).startswith(f"{images[0]}: the JPEG is truncated")
    assert str(error.value).endswith("(and 1 more of this kind, 1 other)")
    assert "\n" not in str(error.value)
