import numpy as np
import pytest

from massformer_jax.classes import CLASSES, IGNORE
from massformer_jax.data.images import decode_image, decode_mask
from massformer_jax.data.sample.__main__ import main
from massformer_jax.data.sample.release import write_sample
from massformer_jax.data.sample.scenes import render_scene


def files(folder):
    """Returns the contents of all files below a folder by their paths in it."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_seed_writes_the_same_bytes(tmp_path, release_dir):
    write_sample(tmp_path / "again", {"train": 2, "val": 1}, seed=5)
    again, before = files(tmp_path / "again"), files(release_dir)
    assert len(again) == 6
    assert all(before[path] == data for path, data in again.items())
    write_sample(tmp_path / "other", {"train": 2, "val": 1}, seed=6)
    other = files(tmp_path / "other")
    assert other.keys() == again.keys()
    assert all(other[path] != data for path, data in again.items())


def test_scenes_hold_all_classes_and_pad_to_two_canvases(release_dir):
    pixels = np.zeros(256, np.int64)
    canvases = set()
    images = sorted((release_dir / "images").rglob("*.jpg"))
    assert len(images) == 7 + 3 + 1
    for path in images:
        image = decode_image(path)
        mask = release_dir / "annotations" / path.parent.name / f"{path.stem}.png"
        label = decode_mask(mask)
        assert label.shape == image.shape[:2]
        pixels += np.bincount(label.ravel(), minlength=256)
        canvases.add(tuple(-(-side // 256) * 256 for side in label.shape))
    assert canvases == {(512, 768), (768, 512)}
    assert set(np.flatnonzero(pixels)) == {*range(len(CLASSES)), IGNORE}
    share = pixels / pixels.sum()
    assert share[: len(CLASSES)].min() > 0.003
    assert share.max() < 0.45
    assert 0.0005 < share[IGNORE] < 0.02


def test_edges_are_soft_in_the_photograph_and_thin_things_survive():
    image, label = render_scene(np.random.default_rng(3), 240, 320, water=True)
    assert image.shape == (240, 320, 3) and image.dtype == np.uint8
    # Where a roof meets the sky, the photograph has colours of neither.
    sky, building = image[label == 5].mean(), image[label == 2].mean()
    assert abs(sky - building) > 20
    thin = (label[:, 1:-1] != label[:, :-2]) & (label[:, 1:-1] != label[:, 2:])
    assert thin.sum() > 100  # blades, twigs and wires are one pixel wide


def test_an_occupied_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    assert main(["--output", str(tmp_path / "out"), "--train", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "out holds files already" in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("massformer_jax.data.sample.release.encode_mask", fail)
    with pytest.raises(OSError, match="disk full"):
        write_sample(tmp_path / "out", {"train": 2})
    assert list(tmp_path.iterdir()) == []


def test_the_command_tells_what_it_wrote(tmp_path, capsys):
    output = tmp_path / "a" / "release"
    assert main(["--output", str(output), "--train", "1", "--val", "0", "--test", "0"]) == 0
    assert f"wrote 1 train, 0 val, 0 test scenes to {output}" in capsys.readouterr().out
    assert sorted(p.name for p in output.iterdir()) == ["annotations", "images"]
    assert [p.name for p in (output / "images").iterdir()] == ["train"]


@pytest.mark.parametrize("flag", ["--train", "--seed"])
def test_a_negative_number_is_refused(tmp_path, capsys, flag):
    assert main(["--output", str(tmp_path / "out"), flag, "-1"]) == 2
    assert capsys.readouterr().err == f"error: {flag} -1: take 0 or more\n"
    assert list(tmp_path.iterdir()) == []
