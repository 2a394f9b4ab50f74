import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from massformer_jax.data.build import main
from massformer_jax.data.package import build
from massformer_jax.data.pipeline import PipelineError, open_split
from massformer_jax.data_builders import mass13k
from massformer_jax.data_builders.mass13k import shards
from massformer_jax.data_builders.mass13k.report import DatasetError

RELEASE = Path(mass13k.__file__).parent / "dummy_data"


def run(*arguments, before=""):
    """Runs the command in a new process that cannot import TensorFlow, installed or not."""
    code = f"""
import sys
from importlib.machinery import PathFinder

class WithoutTensorFlow(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "tensorflow" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTensorFlow
{before}
from massformer_jax.data.build import main
sys.exit(main())
"""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_works_without_tensorflow_and_tells_what_it_wrote(tmp_path):
    done = run("--manual_dir", RELEASE, "--data_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    version = tmp_path / "mass13k" / "1.1.0"
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[:3] == [
        ["train:", "3", "examples,", "1", "shard,", "0.1", "MiB"],
        ["validation:", "2", "examples,", "1", "shard,", "0.1", "MiB"],
        ["test:", "1", "examples,", "1", "shard,", "0.1", "MiB"],
    ]
    assert ["tree", "3,", "22.91%", "2,", "27.49%", "1,", "20.60%"] in lines
    assert ["sizes:", "128x96", "(4),", "96x128", "(2)"] in lines
    assert ["no", "oddities"] in lines
    assert lines[-1][:4] == ["dataset", "mass13k/1.1.0", "is", "in"]
    assert done.stdout.endswith(f" is in {version}; see build_report.json there\n")
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mass13k"]
    assert len(open_split(tmp_path, "train")) == 3


def test_a_finished_dataset_is_kept(tmp_path):
    build(RELEASE, tmp_path)
    info = tmp_path / "mass13k" / "1.1.0" / "dataset_info.json"
    before = info.stat().st_mtime_ns
    build(RELEASE, tmp_path)
    assert info.stat().st_mtime_ns == before


def test_an_error_is_one_line_and_leaves_nothing(tmp_path, capsys):
    release = tmp_path / "release"
    shutil.copytree(RELEASE, release)
    mask = next((release / "annotations" / "val").iterdir())
    mask.unlink()
    output = tmp_path / "new" / "datasets"
    assert main(["--manual_dir", str(release), "--data_dir", str(output)]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: {release}/images/val/{mask.stem}.jpg: no label map {mask}; add it or remove the "
        "photograph\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_no_release(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    arguments = ["--manual_dir", str(tmp_path / name), "--data_dir", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert f"error: {tmp_path / name}: no folder, or an empty one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch, capsys):
    class FullDisk:
        def __init__(self, path, options):
            self.path = Path(path)

        def write(self, record):
            self.path.write_bytes(record[:100])
            raise OSError("No space left on device")

    monkeypatch.setattr(shards, "ArrayRecordWriter", FullDisk)
    assert main(["--manual_dir", str(RELEASE), "--data_dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: No space left on device\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_killed_build_is_not_taken_for_a_dataset(tmp_path, name):
    before = f"""
import os, signal, time
from massformer_jax.data_builders.mass13k import shards

class Killed(shards.ArrayRecordWriter):
    def close(self):
        super().close()
        os.kill(os.getpid(), signal.{name})
        time.sleep(60)

shards.ArrayRecordWriter = Killed
"""
    done = run("--manual_dir", RELEASE, "--data_dir", tmp_path, before=before)
    if name == "SIGTERM":
        assert done.returncode == 128 + signal.SIGTERM
        assert list(tmp_path.iterdir()) == []
    else:
        assert done.returncode == -signal.SIGKILL
        (leftover,) = (tmp_path / "mass13k").iterdir()
        assert leftover.name.startswith("incomplete.") and any(leftover.iterdir())
    with pytest.raises(PipelineError, match="no mass13k dataset"):
        open_split(tmp_path, "train")

    build(RELEASE, tmp_path)
    assert [path.name for path in (tmp_path / "mass13k").iterdir()] == ["1.1.0"]
    assert len(open_split(tmp_path, "train")) == 3


def test_an_unfinished_folder_of_the_final_name_is_named(tmp_path):
    version = tmp_path / "mass13k" / "1.1.0"
    version.mkdir(parents=True)
    with pytest.raises(DatasetError, match=f"^{version}: not a complete dataset; remove this"):
        build(RELEASE, tmp_path)


def test_two_builds_do_not_share_a_folder(tmp_path):
    folder = tmp_path / "mass13k"
    folder.mkdir()
    other = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match=f"^{folder}: another build is at work here; wait"):
            build(RELEASE, tmp_path)
    finally:
        os.close(other)
    assert folder.exists()  # it belongs to the other build


def test_all_that_is_wrong_is_listed_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shards, "ArrayRecordWriter", None)
    release = tmp_path / "release"
    shutil.copytree(RELEASE, release)
    images = sorted((release / "images" / "train").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:-9])
    images[1].write_bytes(b"")
    (extra,) = (release / "annotations" / "test").iterdir()
    extra.rename(extra.with_name("other.png"))
    assert main(["--manual_dir", str(release), "--data_dir", str(tmp_path / "out")]) == 2
    summary, *problems = capsys.readouterr().err.splitlines()
    assert summary.startswith("error: 4 problems, so that no dataset was written (")
    for kind in ("truncated photograph", "empty file", "missing photograph", "missing label map"):
        assert f"1 {kind}" in summary
    assert {line.split(": ")[0].strip() for line in problems} == {
        str(images[0]),
        str(images[1]),
        str(release / "images" / "test" / f"{extra.stem}.jpg"),
        str(extra.with_name("other.png")),
    }
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(shards, "ArrayRecordWriter", None)
    assert main(["--manual_dir", str(RELEASE), "--data_dir", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert f"error: {tmp_path / 'out' / 'mass13k'}: 0.0 GB are free, and the dataset" in message
    assert not (tmp_path / "out").exists()


def test_strict_is_an_option_of_the_command(tmp_path, capsys):
    release = tmp_path / "release"
    shutil.copytree(RELEASE, release)
    shutil.rmtree(release / "annotations" / "test")
    arguments = ["--manual_dir", str(release), "--data_dir", str(tmp_path / "out")]
    assert main([*arguments, "--strict"]) == 2
    assert "no label maps for these 1 photographs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "\n1 oddity\n  images/test: no label maps for these 1 photographs; all" in printed
