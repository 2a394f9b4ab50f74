"""Tests of datasets that are built from one's own folder: classes, splits, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from massformer_jax.classes import IGNORE
from massformer_jax.data import build
from massformer_jax.data.images import decode_mask
from massformer_jax.data.records import PipelineError, dataset_classes, open_split, split_names
from massformer_jax.data.stats.summary import split_stats
from tests.helpers.own_photographs import save

SHARE = ("--val_share", "0.3")
H, W = 24, 32


def photograph(path, seed=0):
    save(path, np.random.default_rng(seed).integers(0, 255, (H, W, 3), np.uint8))


@pytest.fixture
def root(tmp_path):
    """Returns a folder of six photographs and label maps of two classes, with their list."""
    folder = tmp_path / "own"
    for i in range(6):
        photograph(folder / "images" / f"p{i}.jpg", i)
        labels = np.zeros((H, W), np.uint8)
        labels[3 : 9 + i] = 1
        labels[0] = IGNORE
        save(folder / "labels" / f"p{i}.png", labels)
    (folder / "classes.txt").write_text("other\ncar\n")
    return folder


@pytest.fixture
def built(root, tmp_path, capsys):
    """Returns a function that runs the command; it returns its status and what it printed."""

    def run(*flags, layout="folder", classes="classes.txt", name="cars"):
        arguments = ["--manual_dir", root, "--data_dir", tmp_path / "data", "--layout", layout]
        arguments += ["--name", name] + (["--classes", root / classes] if classes else [])
        capsys.readouterr()
        status = build.main([*map(str, arguments), *map(str, flags)])
        printed = capsys.readouterr()
        return status, printed.err if status else printed.out

    return run


def read(data_dir, split):
    """Returns the label map of each photograph of a split, by its name."""
    return {
        record["file_name"].decode(): decode_mask(record["segmentation_mask"])
        for record in open_split(data_dir, split)
    }


def test_a_folder_becomes_a_dataset_with_its_report(built, root, tmp_path):
    status, out = built(*SHARE)
    assert status == 0 and "car  4," in out and "no oddities" in out
    assert [one.name for one in dataset_classes(tmp_path / "data")] == ["other", "car"]
    data = tmp_path / "data" / "cars"
    assert split_names(data) == ["train", "validation"]
    labels = {**read(data, "train"), **read(data, "validation")}
    assert sorted(labels) == [f"p{i}.jpg" for i in range(6)]
    for name, found in labels.items():
        mask = (root / "labels" / name).with_suffix(".png")
        np.testing.assert_array_equal(found, decode_mask(mask))
    record = open_split(data, "train")[0]
    assert record["image"] == (root / "images" / record["file_name"].decode()).read_bytes()
    assert record["class_present"].tolist() == [True, True]
    stats = next(split_stats(data, "train"))
    assert len(stats.quotients) == 2
    status, out = built(*SHARE)
    assert status == 0 and "nothing was written" in out


def test_the_share_is_decided_by_the_seed_alone(built, tmp_path):
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert built(*SHARE, "--test_share", "0.2", "--seed", seed, name=name)[0] == 0
        drawn.append(tuple(sorted(read(tmp_path / "data" / name, "validation"))))
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(read(tmp_path / "data" / "a", "test")) == 1


def test_splits_by_list(built, root, tmp_path):
    lists = root / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("p0\nimages/p1.jpg\np2.jpg\n")
    (lists / "val.txt").write_text("p3\n")
    status, out = built("--split_lists", lists)
    assert status == 0 and out.count("is in no list of") == 2
    assert sorted(read(tmp_path / "data" / "cars", "train")) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    (lists / "val.txt").write_text("p3\np0\nnobody\n")
    status, err = built("--split_lists", lists, "--overwrite")
    assert status == 2 and "names p0, as train.txt does" in err
    assert "names nobody, of which there is no photograph" in err


@pytest.mark.parametrize("order", ["images/train", "train/images"])
def test_splits_by_folder(built, root, tmp_path, order):
    for kind in ("images", "labels"):
        for path in sorted((root / kind).iterdir()):
            split = "train" if path.stem < "p4" else "val"
            parts = (kind, split) if order == "images/train" else (split, kind)
            folder = root.joinpath(*parts)
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / path.name)
        if order != "images/train":
            (root / kind).rmdir()
    assert built()[0] == 0
    assert len(read(tmp_path / "data", "train")) == 4
    assert sorted(read(tmp_path / "data", "validation")) == ["p4.jpg", "p5.jpg"]
    status, err = built(*SHARE, name="again")
    assert status == 2 and "has folders of splits" in err


def one_value(root, value):
    labels = np.array(Image.open(root / "labels" / "p3.png"))
    labels[-1] = value
    save(root / "labels" / "p3.png", labels)


BAD = {
    "a value without a class": (
        lambda root: one_value(root, 7),
        "labels/p3.png: the label map holds 7, allowed are 0..1 and 255; correct its labels",
    ),
    "values that begin with 1": (
        lambda root: one_value(root, 2),
        "if their values are 1..2, and 0 is unlabelled, pass --first_label 1",
    ),
    "two classes of one colour": (
        lambda root: (root / "classes.txt").write_text("other 1 2 3\ncar #010203\n"),
        "other and car have the same colour, RGB (1, 2, 3)",
    ),
    "a class twice": (
        lambda root: (root / "classes.txt").write_text("car\ncar\n"),
        "the class car is there 2 times; name it once",
    ),
    "a colour of some classes only": (
        lambda root: (root / "classes.txt").write_text("other\ncar #010203\n"),
        "other has no colour, and other classes do",
    ),
    "too many classes": (
        lambda root: (root / "classes.txt").write_text("\n".join(f"c{i}" for i in range(256))),
        "256 classes; a label map can hold 1 to 255",
    ),
    "an empty list": (
        lambda root: (root / "classes.txt").write_text("# nothing\n"),
        "no class is listed",
    ),
    "no list": (lambda root: (root / "classes.txt").unlink(), "No such file or directory"),
    "a photograph without labels": (
        lambda root: (root / "labels" / "p3.png").unlink(),
        "images/p3.jpg: no label map",
    ),
    "photographs without labels": (
        lambda root: [path.unlink() for path in (root / "labels").iterdir()],
        "images: no label maps for these photographs",
    ),
    "no folder of labels": (
        lambda root: (root / "labels").rename(root / "answers"),
        "no folder of label maps (annotations, labels, label, masks, mask, SegmentationClass)",
    ),
    "two folders of labels": (
        lambda root: (root / "masks").mkdir(),
        "holds labels and masks; say which one it is with --labels",
    ),
    "labels without a photograph": (
        lambda root: (root / "images" / "p3.jpg").unlink(),
        "labels/p3.png: no photograph",
    ),
    "a label map of another size": (
        lambda root: save(root / "labels" / "p3.png", np.zeros((H, W + 1), np.uint8)),
        "the label map is 33x24 pixels, its photograph 32x24",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, built, root, tmp_path):
    spoil, message = BAD[name]
    spoil(root)
    status, err = built(*SHARE)
    assert status == 2 and message in err
    assert err.count("\n") == 1 and err.startswith("error: ")
    assert not (tmp_path / "data" / "cars").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "no folders train and val; say how photographs are divided"),
        (("--val_share", "1"), "--val_share and --test_share: shares"),
        (("--val_share", "0.01"), "of 6 photographs none is left for the split validation"),
        ((*SHARE, "--name", "Cars!"), "--name Cars!: use small letters"),
        ((*SHARE, "--name", "mass13k"), "another name than mass13k"),
        ((*SHARE, "--images", "elsewhere"), "elsewhere: no such folder"),
        ((*SHARE, "--rest", "car"), "--rest is for --layout label_studio"),
        ((*SHARE, "--split_lists", "."), "--split_lists says all"),
        (("--layout", "mass13k"), "--name is for one's own photographs: add --layout folder"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(flags, message, built):
    status, err = built(*flags)
    assert status == 2 and message in err and err.count("\n") == 1


def test_an_empty_class_is_named_and_strictly_an_error(built, root):
    (root / "classes.txt").write_text("other\ncar\nbicycle\n")
    status, out = built(*SHARE)
    assert status == 0 and "no pixel is of the class bicycle" in out
    status, err = built(*SHARE, "--strict", name="strictly")
    assert status == 2 and "no pixel is of the class bicycle" in err and err.count("\n") == 1


def test_values_that_begin_with_1_are_stated_and_not_guessed(built, root, tmp_path):
    for path in (root / "labels").iterdir():
        labels = np.array(Image.open(path))
        save(path, np.where(labels == IGNORE, 0, labels + 1).astype(np.uint8))
    status, err = built(*SHARE)
    assert status == 2 and "pass --first_label 1" in err and err.count("\n") == 1
    status, out = built(*SHARE, "--first_label", "1")
    assert status == 0 and "no oddities" in out
    for labels in read(tmp_path / "data", "train").values():
        assert sorted(np.unique(labels)) == [0, 1, IGNORE]
        assert (labels[0] == IGNORE).all() and (labels[3:9] == 1).all()
    status, err = built(*SHARE)
    assert status == 2 and "built with first_label=1 and not 0" in err


def test_palettes_give_colours_and_have_enough_of_them(built, root, tmp_path):
    palette = [[9, 9, 9], [200, 0, 40]]
    for path in (root / "labels").iterdir():
        labels = np.array(Image.open(path))
        save(path, np.where(labels == IGNORE, 0, labels).astype(np.uint8), palette)
    first = root / "labels" / "p0.png"
    assert built(*SHARE, "--palette", first)[0] == 0
    assert [list(one.colour) for one in dataset_classes(tmp_path / "data")] == palette
    (root / "classes.txt").write_text("other\ncar\nbicycle\n")
    status, err = built(*SHARE, "--palette", first, name="more")
    assert status == 2 and err.count("\n") == 1
    assert "lists 3 classes, and the palette of" in err and "only 2 colours" in err


@pytest.mark.parametrize("count", [1, 40, 255])
def test_label_maps_in_colours_of_any_number_of_classes(count, built, root, tmp_path):
    """Also with 255 classes each colour is told from those of none."""
    colours = np.random.default_rng(0).permutation(250**3)[:count]
    colours = np.stack([colours // 250**2, colours // 250 % 250, colours % 250], -1)
    lines = [f"c{i} {r} {g} {b}" for i, (r, g, b) in enumerate(colours)]
    (root / "classes.txt").write_text("\n".join(lines))
    expected = {}
    for path in (root / "labels").iterdir():
        labels = np.arange(H * W).reshape(H, W) % count
        table = np.concatenate([colours, np.full((256 - count, 3), 255)])
        labels[0] = IGNORE
        expected[f"{path.stem}.jpg"] = labels
        save(path, table[labels].astype(np.uint8))
    assert built(*SHARE)[0] == 0
    for name, labels in read(tmp_path / "data", "train").items():
        np.testing.assert_array_equal(labels, expected[name])
    save(root / "labels" / "p1.png", np.full((H, W, 3), 251, np.uint8))
    status, err = built(*SHARE, name="spoiled")
    assert status == 2 and "colours that are no class's, such as RGB (251, 251, 251)" in err


def test_photographs_that_are_no_jpeg_are_stored_as_such(built, root, tmp_path):
    (root / "images" / "p3.jpg").unlink()
    photograph(root / "images" / "p3.png", 3)
    status, out = built("--val_share", "0.2")
    assert status == 0 and "p3.png: a PNG; stored as a JPEG of quality 98" in out
    data = tmp_path / "data"
    records = [*open_split(data, "train"), *open_split(data, "validation")]
    (found,) = (record for record in records if record["file_name"] == b"p3.png")
    assert found["image"][:2] == b"\xff\xd8"
    assert built("--val_share", "0.2")[0] == 0  # it is known to be of the same file


LISTS = {
    "names.txt": ("sky\n\ncar park\n", None),
    "hex.txt": ("# mine\nsky #0000ff\ncar park, #ff8000\n", "told"),
    "numbers.txt": ("sky 0 0 255\ncar park: 255, 128, 0\n", "told"),
    "labelmap.txt": (
        "# label:color_rgb:parts:actions\nsky:0,0,255::\ncar park:255,128,0:a,b:c\n",
        "told",
    ),
    "names.json": ('["sky", "car park"]', None),
    "objects.json": (
        '[{"name": "sky", "color": "blue"}, {"name": "car park", "colour": [255, 128, 0]}]',
        "told",
    ),
    "colours.json": ('{"sky": "#00f", "car park": [255, 128, 0]}', "told"),
    "config.xml": (
        '<View><Image name="i" value="$image"/><BrushLabels name="tag" toName="i">'
        '<Label value="sky" background="#0000ff"/><Label value="car park" background="#ff8000"/>'
        "</BrushLabels></View>",
        "told",
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_classes(name, tmp_path):
    from massformer_jax.data_builders.folder.class_lists import read_classes

    content, told = LISTS[name]
    (tmp_path / name).write_text(content)
    classes, stated = read_classes(tmp_path / name)
    assert [one.name for one in classes] == ["sky", "car park"] and stated == bool(told)
    if told:
        assert [one.colour for one in classes] == [(0, 0, 255), (255, 128, 0)]


def test_several_datasets_in_one_folder_have_to_be_named(built, tmp_path):
    assert built(*SHARE)[0] == built(*SHARE, name="trucks")[0] == 0
    with pytest.raises(PipelineError, match=r"holds the datasets cars, trucks; name one of them"):
        open_split(tmp_path / "data", "train")
    assert len(open_split(tmp_path / "data" / "trucks", "train")) == 4


def test_another_list_of_classes_is_another_dataset(built, root):
    assert built(*SHARE)[0] == 0
    (root / "classes.txt").write_text("car\nother\n")
    status, err = built(*SHARE)
    assert status == 2 and "is there already, with other classes (other, car)" in err
    assert built(*SHARE, "--overwrite")[0] == 0


def test_the_report_keeps_the_order_of_classes(built, tmp_path, root):
    (root / "classes.txt").write_text("zebra\nape\n")
    assert built(*SHARE)[0] == 0
    report = json.loads(next((tmp_path / "data").rglob("build_report.json")).read_text())
    assert list(report["splits"]["train"]["class_pixels"]) == ["zebra", "ape"]
