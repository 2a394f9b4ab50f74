"""Masks for programs that read photographs as they are stored, each read as these programs do."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path, PurePath

import cv2
import numpy as np
import pytest
from PIL import Image

from massformer_jax.classes import IGNORE
from massformer_jax.data.images import decode_image
from massformer_jax.data.orientation import upright
from massformer_jax.errors import InputError
from massformer_jax.output.formats import FORMATS, Options, files_of, written_once
from massformer_jax.output.stored import as_stored
from tests.helpers.predictions import SKY, random_prediction


def written(name, prediction, photograph, folder, options=None):
    """Writes the files of one format below a folder, and returns their paths."""
    files = files_of((name,), PurePath(photograph), prediction.groups)
    contents = FORMATS[name].encode(prediction, options or Options())
    for path, data in zip(files, contents, strict=True):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return [folder / path for path in files]


def grey(path):
    """Reads a PNG by Pillow, which must be grey, of 8 bits."""
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def used(prediction):
    """Returns where features are used: in no group."""
    ignored = [i for group in prediction.groups for i in group.members]
    return np.where(np.isin(prediction.labels, ignored), 0, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_back_undoes_turning(orientation):
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(as_stored(upright(stored, orientation), orientation), stored)


@pytest.mark.parametrize("name", ["colmap", "nerfstudio", "metashape"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_masks_are_black_on_the_groups_and_lie_as_the_photograph_is_stored(
    name, orientation, tmp_path
):
    prediction = random_prediction(orientation=orientation)
    mask = grey(written(name, prediction, "trip/IMG_1.jpg", tmp_path)[0])
    np.testing.assert_array_equal(upright(mask, orientation), used(prediction))
    assert 0 < (mask == 0).mean() < 1


# COLMAP's libraries and OpenCV's cannot be in one process, so that pycolmap gets one of its own.
EXTRACT = """
import json, pathlib, sys
import pycolmap
folder = pathlib.Path(sys.argv[1])
options = pycolmap.FeatureExtractionOptions()
options.use_gpu, options.num_threads = False, 1
found = {}
for masks in ("", str(folder / "masks")):
    reader = pycolmap.ImageReaderOptions()
    reader.mask_path = masks
    database = folder / f"{bool(masks)}.db"
    pycolmap.extract_features(
        database, folder / "images", reader_options=reader, extraction_options=options,
        device=pycolmap.Device.cpu,
    )
    with pycolmap.Database.open(database) as opened:
        for image in opened.read_all_images():
            points = opened.read_keypoints(image.image_id)[:, :2].tolist()
            found.setdefault(image.name, []).append(points)
print(json.dumps(found))
"""


@pytest.mark.slow  # pycolmap is installed with what the slow tests need
def test_colmap_finds_no_features_in_what_is_ignored(tmp_path):
    """COLMAP extracts features of an upright photograph and of one that is stored on its side."""
    pytest.importorskip("pycolmap", reason="pip install -e '.[colmap]'")
    masks = {}
    for name, orientation in (("trip/up.jpg", 1), ("trip/side.jpg", 6)):
        prediction = random_prediction(size=(160, 240), orientation=orientation)
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rough = cv2.GaussianBlur(prediction.image, (0, 0), 2)
        rough = cv2.normalize(rough, None, 0, 255, cv2.NORM_MINMAX)
        exif = Image.Exif()
        exif[0x112] = orientation
        Image.fromarray(as_stored(rough, orientation)).save(path, quality=95, exif=exif)
        assert decode_image(path).shape == prediction.image.shape
        written("colmap", prediction, name, tmp_path)
        masks[name] = as_stored(used(prediction), orientation)
    done = subprocess.run(
        [sys.executable, "-c", EXTRACT, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == masks.keys()
    for name, mask in masks.items():
        without, masked = (np.array(points) for points in found[name])
        at = mask[masked[:, 1].astype(int), masked[:, 0].astype(int)]
        assert (at == 255).all()
        expected = mask[without[:, 1].astype(int), without[:, 0].astype(int)] == 255
        assert len(masked) == expected.sum() > 20
        assert (~expected).sum() > 20


@pytest.mark.parametrize("size", [(64, 96), (61, 90)])
def test_nerfstudio_gets_reduced_masks(size, tmp_path):
    """They have the sizes of its reduced photographs; the majority of the pixels decides."""
    prediction = random_prediction((SKY,), size=size)
    whole, *reduced = written("nerfstudio", prediction, "trip/frame.jpg", tmp_path)
    assert grey(whole).shape == size
    for path, factor in zip(reduced, (2, 4, 8), strict=True):
        assert path == tmp_path / f"masks_{factor}" / "frame.png"
        mask, (h, w) = grey(path), (side // factor for side in size)
        assert mask.shape == (h, w)
        if size == (64, 96):  # otherwise blocks do not end between pixels
            share = (used(prediction) / 255).reshape(h, factor, w, factor).mean((1, 3))
            np.testing.assert_array_equal(mask, np.where(share >= 0.5, 255, 0))
            assert ((share > 0) & (share < 0.5)).any()


@pytest.fixture
def dataset(tmp_path):
    """A folder as nerfstudio makes it: two photographs and transforms.json."""
    (tmp_path / "images").mkdir()
    frames = []
    for i in (1, 2):
        Image.new("RGB", (8, 6)).save(tmp_path / f"images/frame_{i}.png")
        frames.append(
            {"file_path": f"./images/frame_{i}.png", "transform_matrix": np.eye(4).tolist()}
        )
    content = {"camera_model": "OPENCV", "fl_x": 10.5, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    return tmp_path


def photographs(dataset, count=2):
    return {
        PurePath(f"frame_{i}.png"): dataset / f"images/frame_{i}.png" for i in range(1, count + 1)
    }


def test_transforms_name_a_mask_for_every_frame(dataset):
    options = Options(transforms=dataset / "transforms.json")
    ((name, data),) = written_once(photographs(dataset), dataset, options).items()
    assert name == PurePath("transforms_masked.json")
    before, after = json.loads((dataset / "transforms.json").read_text()), json.loads(data)
    for i, frame in enumerate(after["frames"]):
        prediction = random_prediction((SKY,))
        file = Path(frame["file_path"]).name
        assert dataset / frame.pop("mask_path") in written("nerfstudio", prediction, file, dataset)
        assert frame == before["frames"][i]
    assert {**after, "frames": 0} == {**before, "frames": 0}


def test_nothing_is_written_once_without_transforms(dataset):
    assert written_once(photographs(dataset), dataset, Options()) == {}


def test_transforms_must_fit_the_photographs(dataset):
    options = Options(transforms=dataset / "transforms.json")
    with pytest.raises(InputError, match=r"frame_2.png, which is not among the photographs"):
        written_once(photographs(dataset, 1), dataset, options)
    with pytest.raises(InputError, match=f"use --output {dataset}"):
        written_once(photographs(dataset), dataset / "masks", options)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"frames": [{}]}', '{"frames": [3]}', "\xff"])
def test_what_is_no_transforms_json_is_refused(text, dataset):
    (dataset / "transforms.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"is no transforms\.json"):
        written_once(photographs(dataset), dataset, Options(transforms=dataset / "transforms.json"))


@pytest.mark.parametrize("orientation", [1, 8])
def test_darktable_reads_alpha_as_the_photograph_is_stored(orientation, tmp_path):
    prediction = random_prediction((SKY,), orientation=orientation)
    (path,) = written("darktable", prediction, "IMG_1.jpg", tmp_path)
    alpha = cv2.imread(os.fspath(path), cv2.IMREAD_UNCHANGED)
    assert alpha.dtype == np.float32
    np.testing.assert_array_equal(upright(alpha, orientation), prediction.alphas["sky"])
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        np.testing.assert_array_equal(image, alpha)


def test_darktable_knows_the_order_of_the_rows(tmp_path):
    """Darktable takes a header whose size is one number a line for Photoshop's, top row first."""
    prediction = random_prediction((SKY,))
    (path,) = written("darktable", prediction, "IMG_1.jpg", tmp_path)
    kind, size, scale, pixels = path.read_bytes().split(b"\n", 3)
    assert (kind, size) == (b"Pf", b"90 60") and float(scale) == -1
    rows = np.frombuffer(pixels, "<f4").reshape(60, 90)
    np.testing.assert_array_equal(rows[::-1], prediction.alphas["sky"])


def test_what_belongs_to_no_class_is_used(tmp_path):
    prediction = random_prediction((SKY,))
    prediction.labels[:] = IGNORE
    assert grey(written("colmap", prediction, "a.jpg", tmp_path)[0]).all()
