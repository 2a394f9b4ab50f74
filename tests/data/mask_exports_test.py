"""Tests of masks exported by CVAT, LabelMe and Label Studio, in their documented structures."""

import json

import numpy as np
import pytest

from massformer_jax.classes import IGNORE
from massformer_jax.data import build
from massformer_jax.data.images import decode_mask
from massformer_jax.data.records import dataset_classes, open_split
from tests.helpers.own_photographs import save

H, W = 24, 32
LABELS = np.zeros((H, W), np.uint8)
LABELS[4:12, 5:20] = 1
LABELS[10:20, 25:] = 2
# The colours that Pascal VOC has for 0, 1, 2, 3, …, 255, which LabelMe writes, too.
VOC = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], *[[64, 64, 64]] * 251, [224, 224, 192]]


def photograph(path, seed=0):
    save(path, np.random.default_rng(seed).integers(0, 255, (H, W, 3), np.uint8))


def built(root, data_dir, layout, *flags):
    arguments = ["--manual_dir", root, "--data_dir", data_dir, "--name", "own", "--layout", layout]
    return build.main([*map(str, arguments), *map(str, flags)])


def read(data_dir):
    """Returns the label map of each photograph of the training split, by its name."""
    return {
        record["file_name"].decode(): decode_mask(record["segmentation_mask"])
        for record in open_split(data_dir, "train")
    }


def names(data_dir):
    return [one.name for one in dataset_classes(data_dir)]


def cvat_export(root):
    """Writes `Segmentation mask 1.1`, with images saved, of a task without subsets."""
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("a\nb\nc\n")
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,83::\nsky:51,221,255::\n"
    )
    colours = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255]], np.uint8)
    for i, name in enumerate("abc"):
        photograph(root / "JPEGImages" / f"{name}.jpg", i)
        save(root / "SegmentationClass" / f"{name}.png", colours[LABELS])
        save(root / "SegmentationObject" / f"{name}.png", colours[LABELS])


def test_cvat(tmp_path, capsys):
    root, data = tmp_path / "export", tmp_path / "data"
    cvat_export(root)
    assert built(root, data, "cvat") == 2
    assert "no folders train and val" in capsys.readouterr().err
    assert built(root, data, "cvat", "--val_share", "0.3") == 0
    assert names(data) == ["background", "car", "sky"]
    assert [one.colour for one in dataset_classes(data)][1] == (250, 50, 83)
    for labels in read(data).values():
        np.testing.assert_array_equal(labels, LABELS)


def test_cvat_with_subsets_and_photographs_elsewhere(tmp_path):
    root = tmp_path / "export"
    cvat_export(root)
    lists = root / "ImageSets" / "Segmentation"
    (lists / "default.txt").unlink()
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    (root / "JPEGImages").rename(tmp_path / "photos")
    assert built(root, tmp_path / "data", "cvat", "--images", tmp_path / "photos") == 0
    assert sorted(read(tmp_path / "data")) == ["a.jpg", "b.jpg"]


def test_a_colour_that_the_label_map_of_cvat_does_not_list(tmp_path, capsys):
    root = tmp_path / "export"
    cvat_export(root)
    (root / "labelmap.txt").write_text("background:0,0,0::\ncar:250,50,83::\n")
    assert built(root, tmp_path / "data", "cvat", "--val_share", "0.3") == 2
    assert "colours that are no class's, such as RGB (51, 221, 255)" in capsys.readouterr().err


def test_a_dataset_of_labelme(tmp_path):
    """What labelme2voc writes: 255 where something is labelled __ignore__."""
    root, data = tmp_path / "export", tmp_path / "data"
    (root / "SegmentationClass").mkdir(parents=True)
    labels = LABELS.copy()
    labels[0] = IGNORE
    for i, name in enumerate("abc"):
        photograph(root / "JPEGImages" / f"{name}.jpg", i)
        np.save(root / "SegmentationClass" / f"{name}.npy", labels)
        save(root / "SegmentationClassPNG" / f"{name}.png", labels, VOC)
    (root / "class_names.txt").write_text("_background_\ncar\nsky")
    assert built(root, data, "labelme", "--val_share", "0.3") == 0
    assert names(data) == ["_background_", "car", "sky"]
    for found in read(data).values():
        np.testing.assert_array_equal(found, labels)


def labelme_folders(root):
    """Writes what labelme_export_json does: every photograph has a list of its own names."""
    lists = {"a": ["_background_", "car", "sky"], "b": ["_background_", "sky", "car"]}
    for i, (name, listed) in enumerate(lists.items()):
        photograph(root / f"{name}.jpg", i)
        folder = root / f"{name}_json"
        photograph(folder / "img.png", i)
        values = np.array([listed.index(one) for one in lists["a"]], np.uint8)
        save(folder / "label.png", values[LABELS], VOC)
        photograph(folder / "label_viz.png")
        (folder / "label_names.txt").write_text("\n".join(listed) + "\n")
    folder = root / "c_json"
    photograph(folder / "img.png", 2)
    save(folder / "label.png", np.zeros((H, W), np.uint8), VOC)
    (folder / "label_names.txt").write_text("_background_\n")


def test_folders_of_labelme(tmp_path, capsys):
    root, data = tmp_path / "export", tmp_path / "data"
    labelme_folders(root)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("a\nb\nc\n")
    assert built(root, data, "labelme", "--split_lists", lists) == 0
    assert names(data) == ["_background_", "car", "sky"]
    found = read(data)
    assert sorted(found) == ["a.jpg", "b.jpg", "c.png"]
    for name in ("a.jpg", "b.jpg"):
        np.testing.assert_array_equal(found[name], LABELS)
    assert not found["c.png"].any()
    capsys.readouterr()
    (tmp_path / "two.txt").write_text("_background_\nsky\n")
    listed = ("--split_lists", lists, "--classes", tmp_path / "two.txt", "--overwrite")
    assert built(root, data, "labelme", *listed) == 2
    assert "lists car, which is no class of the list given" in capsys.readouterr().err


CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="tag" toName="image">
    <Label value="car" background="#ff8000"/><Label value="sky" background="#0000ff"/>
    <Label value="car-park" background="green"/>
  </BrushLabels>
</View>"""


def label_studio_export(root):
    """Writes brush masks as PNG, the same tasks as JSON, and the configuration."""
    tasks = []
    for i, name in enumerate("abc", 1):
        photograph(root / "images" / f"{name}.jpg", i)
        upload = f"/data/upload/3/0a1b2c3d-{name}.jpg"
        tasks.append({"id": i, "data": {"image": upload}, "annotations": [{"id": 10 + i}]})
        for label, name in ((1, "car"), (2, "sky")):
            file = f"task-{i}-annotation-{10 + i}-by-me@example.org-tag-{name}-0.png"
            save(root / file, np.where(label == LABELS, 255, 0).astype(np.uint8))
    (root / "tasks.json").write_text(json.dumps(tasks))
    (root / "config.xml").write_text(CONFIG)
    return ("--classes", root / "config.xml", "--val_share", "0.3")


def test_label_studio(tmp_path, capsys):
    root, data = tmp_path / "export", tmp_path / "data"
    flags = label_studio_export(root)
    assert built(root, data, "label_studio", *flags) == 0
    assert "no pixel is of the class car-park" in capsys.readouterr().out
    assert names(data) == ["car", "sky", "car-park"]
    assert [one.colour for one in dataset_classes(data)][2] == (0, 128, 0)
    expected = np.array([IGNORE, 0, 1], np.uint8)[LABELS]
    assert len(read(data)) == 2
    for labels in read(data).values():
        np.testing.assert_array_equal(labels, expected)
    assert built(root, data, "label_studio", *flags, "--overwrite", "--rest", "car-park") == 0
    for labels in read(data).values():
        np.testing.assert_array_equal(labels, np.array([2, 0, 1], np.uint8)[LABELS])
    assert built(root, data, "label_studio", *flags, "--rest", "car-park") == 0  # as it is there


def test_masks_of_label_studio_that_overlap_are_named(tmp_path, capsys):
    root = tmp_path / "export"
    flags = label_studio_export(root)
    file = root / "task-1-annotation-11-by-me@example.org-tag-car-park-0.png"
    save(file, np.full((H, W), 128, np.uint8))
    assert built(root, tmp_path / "data", "label_studio", *flags) == 0
    count = int((LABELS > 0).sum())
    assert f"{count} pixels are in masks of several classes" in capsys.readouterr().out


SPOILT = {
    "a class that is not listed": (
        lambda root: photograph(root / "task-1-annotation-11-by-me-tag-moon-0.png"),
        "its name ends in no class of the list",
    ),
    "two annotations of one task": (
        lambda root: photograph(root / "task-1-annotation-12-by-me-tag-car-0.png"),
        "task 1 has the annotations 11, 12; keep the files of one",
    ),
    "no list of tasks": (
        lambda root: (root / "tasks.json").write_text("[]"),
        "no JSON of the export tells which photograph task 1 shows",
    ),
    "no photograph": (
        lambda root: (root / "images" / "b.jpg").unlink(),
        "no photograph 0a1b2c3d-b.jpg, which task 2 shows",
    ),
    "a photograph without masks": (
        lambda root: photograph(root / "images" / "d.jpg"),
        "d.jpg: no mask of a task that shows it",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_label_studio_lacks_is_named(name, tmp_path, capsys):
    spoil, message = SPOILT[name]
    flags = label_studio_export(tmp_path / "export")
    spoil(tmp_path / "export")
    assert built(tmp_path / "export", tmp_path / "data", "label_studio", *flags) == 2
    assert message in capsys.readouterr().err
