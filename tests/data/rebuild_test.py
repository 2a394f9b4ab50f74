"""Tests of builds where a dataset is there already: it is kept, refused, or replaced as a whole."""

import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from massformer_jax.data import package
from massformer_jax.data.build import main
from massformer_jax.data.records import open_split
from massformer_jax.data_builders.mass13k import shards
from tests.helpers.broken_releases import RELEASE


@pytest.fixture
def release(tmp_path):
    return shutil.copytree(RELEASE, tmp_path / "release")


@pytest.fixture
def built(release, tmp_path, capsys):
    """Builds the dataset; returns the folder of its version."""
    assert main(["--manual_dir", str(release), "--data_dir", str(tmp_path / "data")]) == 0
    capsys.readouterr()
    return tmp_path / "data" / "mass13k" / "1.1.0"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rerun(release, tmp_path, *flags):
    return main(["--manual_dir", str(release), "--data_dir", str(tmp_path / "data"), *flags])


def first(release, kind):
    return sorted((release / kind / "train").iterdir())[0]


def another_photograph(release):
    Image.new("RGB", (128, 96), (9, 9, 9)).save(first(release, "images"))


def same_size_but_other_bytes(release):
    path = first(release, "annotations")
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, (before.st_atime, before.st_mtime))


def fewer(release):
    first(release, "images").unlink()
    first(release, "annotations").unlink()


def more(release):
    for kind in ("images", "annotations"):
        path = first(release, kind)
        shutil.copy(path, path.with_stem("new"))


def no_split(release):
    for kind in ("images", "annotations"):
        shutil.rmtree(release / kind / "val")


def no_label_maps(release):
    shutil.rmtree(release / "annotations" / "test")


CHANGES = {
    another_photograph: r"\({images} is another file\)",
    same_size_but_other_bytes: r"\({annotations} is another file\)",
    fewer: r"\(train has no \S+\.jpg now\)",
    more: r"\(train had no new\.jpg\)",
    no_split: r"\(validation has no \S+\.jpg now; validation has no \S+\.jpg now\)",
    no_label_maps: r"\(test has no label map of \S+\.jpg now\)",
}


def test_the_same_files_are_kept_and_said_to_be(release, built, tmp_path, capsys):
    before = contents(built)
    for path in release.rglob("*.jpg"):
        path.touch()  # as a copy of the release would be
    assert rerun(release, tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"dataset mass13k/1.1.0 was already in {built}, built from these files; nothing was "
        "written (--overwrite builds it anew)"
    )
    assert contents(built) == before


@pytest.mark.parametrize("change", CHANGES)
def test_other_files_are_an_error_and_overwrite_builds_them(
    change, release, built, tmp_path, capsys
):
    before = contents(built)
    names = {kind: str(first(release, kind)) for kind in ("images", "annotations")}
    change(release)
    assert rerun(release, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    pattern = CHANGES[change].format(**names)
    assert line.startswith(f"error: {built}: is there already, and was built from other files")
    assert re.search(pattern, line), line
    assert line.endswith("; pass --overwrite to build it anew, or another --data_dir")
    assert contents(built) == before

    if change is same_size_but_other_bytes:  # the PNG is damaged now: the old dataset stays
        assert rerun(release, tmp_path, "--overwrite") == 2
        assert "the label map is damaged" in capsys.readouterr().err
        assert contents(built) == before
    else:
        assert rerun(release, tmp_path, "--overwrite") == 0
        assert contents(built) != before
        assert rerun(release, tmp_path) == 0
    assert [path.name for path in built.parent.iterdir()] == ["1.1.0"]


def test_a_failure_or_a_second_build_leaves_the_old_one(release, built, tmp_path, monkeypatch):
    before = contents(built)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "ArrayRecordWriter", None)
        with pytest.raises(TypeError):
            rerun(release, tmp_path, "--overwrite")
    assert contents(built) == before
    with monkeypatch.context() as patch, package._alone_in(built.parent):
        assert rerun(release, tmp_path, "--overwrite") == 2
    assert contents(built) == before
    assert [path.name for path in built.parent.iterdir()] == ["1.1.0"]


def test_a_new_dataset_that_cannot_be_moved_leaves_the_old_one(
    release, built, tmp_path, monkeypatch
):
    before, rename = contents(built), Path.rename

    def fails_for_the_new_one(path, target):
        if "incomplete.new" in str(path):
            raise OSError("no more links")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    assert rerun(release, tmp_path, "--overwrite") == 2
    assert contents(built) == before
    assert [path.name for path in built.parent.iterdir()] == ["1.1.0"]


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_a_damaged_dataset_is_named_and_can_be_replaced(file, release, built, tmp_path, capsys):
    (built / file).write_bytes(b"")
    assert rerun(release, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {built / file}: missing or damaged; copy it again, or build")
    assert line.endswith("--overwrite`")
    assert rerun(release, tmp_path, "--overwrite") == 0
    assert len(open_split(tmp_path / "data", "train")) == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "build_sources.json is missing, which would tell whether"),
        (lambda path: path.write_text("[]"), "build_sources.json there is damaged; pass --over"),
        (lambda path: path.write_text("{"), "build_sources.json there is damaged; pass --over"),
    ],
)
def test_what_cannot_be_compared_is_said(spoil, message, release, built, tmp_path, capsys):
    spoil(built / "build_sources.json")
    assert rerun(release, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_release_inside_the_dataset_is_refused(release, built, tmp_path, capsys):
    inside = shutil.copytree(release, built / "release")
    assert rerun(inside, tmp_path, "--overwrite") == 2
    assert "lies where datasets are written; name another --data_dir" in capsys.readouterr().err
    assert any(inside.rglob("*.jpg"))
