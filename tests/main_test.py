"""One line and status 2 for what a user can mend."""

import errno
import json
import os
import pathlib

import pytest

from massformer_jax import main
from massformer_jax.errors import InputError
from massformer_jax.training import loop, workdir
from tests.helpers import tiny_config

CONFIG = pathlib.Path(tiny_config.__file__)


def refused(capsys, *arguments) -> str:
    assert main.main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("--config.no_such_key=1", "--config.no_such_key: there is no such key"),
        ("--config.data.crop=512", "--config.data.crop: there is no such key"),
        (
            "--config.optimizer.peak_learning_rat=1",
            "--config.optimizer.peak_learning_rat: there is no such key; did you mean "
            "peak_learning_rate?",
        ),
        ("--step=-1", "step"),
        ("--config.batch_size.deep=1", "batch_size.deep"),
        ("--config.batch_size=many", "batch_size"),
        ("--no_such_flag=1", "no_such_flag"),
        ("--mode=dream", "mode"),
        ("--config.batch_size=12", "8 or 16"),
        ("--config.data.crop_size=300", "data.crop_size"),
        ("--config.loss.edge_target=all", "loss.edge_target"),
        ("--config.log_every=0", "log_every"),
        ("--config.data.crops_per_decode=0", "data.crops_per_decode is 0; it must be at least 1"),
        ("--config.data.short_edges=()", "data.short_edges is ()"),
        ("--config.optimizer.clip_norm=-1", "optimizer.clip_norm is -1.0; it must be at least 0"),
        ("--config.labels.pseudo=(('skye', 6),)", "did you mean sky?"),
        ("--config.eval.resolution=huge", "config.eval: resolution is 'huge'"),
        ("--config.eval.window=1024by1024", "config.eval: window is '1024by1024'"),
        ("--config.eval.stride=512", "config.eval: stride and blend are of windows"),
        ("--config.eval.scales=(1.0,-1.0)", "config.eval: scales is (1.0, -1.0)"),
        ("--config.eval.split=testing", "testing"),
    ],
)
def test_wrong_flags_and_keys(capsys, tmp_path, data_dir, override, named):
    workdir = tmp_path / "run"
    error = refused(
        capsys,
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        f"--config.data.data_dir={data_dir}",
        override,
    )
    assert named in error
    assert not workdir.exists()


def test_missing_flags(capsys, tmp_path):
    assert "--config" in refused(capsys, f"--workdir={tmp_path}")
    assert "--workdir" in refused(capsys, f"--config={CONFIG}")


def test_missing_config_file(capsys, tmp_path):
    assert "nowhere.py" in refused(capsys, "--config=nowhere.py", f"--workdir={tmp_path / 'run'}")


def test_missing_dataset_names_the_command(capsys, tmp_path):
    error = refused(
        capsys,
        f"--config={CONFIG}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={tmp_path}",
    )
    assert "massformer_jax.data.build" in error
    assert not (tmp_path / "run").exists()


def test_evaluation_without_checkpoint(capsys, tmp_path, data_dir):
    error = refused(
        capsys,
        "--mode=eval",
        f"--config={CONFIG}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={data_dir}",
    )
    assert "no checkpoint" in error
    assert not (tmp_path / "run").exists()


def test_shipped_configs_are_found_by_name():
    found = main.shipped_config(["main", "--config=elsewhere/massformer_r50.py", "--x=1"])
    assert found[2] == "--x=1"
    path = pathlib.Path(found[1].removeprefix("--config="))
    assert path.name == "massformer_r50.py" and path.is_file()
    spaced = main.shipped_config(["main", "--config", "elsewhere/massformer_r50.py", "--x=1"])
    assert spaced == found
    assert main.shipped_config(["--config=no/such.py"]) == ["--config=no/such.py"]
    assert main.shipped_config([f"--config={CONFIG}"]) == [f"--config={CONFIG}"]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("--config.on_nonfinite=ignore", "on_nonfinite"),
        ("--config.profile_steps=13", "profile_steps"),
        ("--coordinator=localhost:1", "--distributed"),
        ("--process=many", "process"),
    ],
)
def test_wrong_runtime_settings(capsys, tmp_path, data_dir, override, named):
    paths = [f"--workdir={tmp_path / 'run'}", f"--config.data.data_dir={data_dir}"]
    assert named in refused(capsys, f"--config={CONFIG}", *paths, override)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("config.json", "", "config.json is damaged"),
        ("config.json", "[]", "config.json is damaged (it holds no keys)"),
        ("evaluated", "", "evaluated holds '' and no step"),
        ("evaluated", "four", "evaluated holds 'four' and no step"),
    ],
)
def test_damaged_files_of_a_workdir(tmp_path, name, content, named):
    """As a loss of power leaves them."""
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as raised:
        workdir.claim(tmp_path, tiny_config.get_config(), write=False)
        workdir.last_evaluation(tmp_path)
    assert named in str(raised.value)
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 8}, "seed is 8 there and 0 here; "),
        ({"mesh": None}, "mesh is None there and missing here; "),
        ({"mesh": {"data": 2, "fsdp": 1, "spatial": 1}}, None),
        ({"remat": True}, None),
    ],
)
def test_a_workdir_belongs_to_one_config(tmp_path, change, named):
    """Keys that change no result, such as the mesh, may change between runs; they are all there."""
    config = tiny_config.get_config()
    there = json.dumps(json.loads(config.to_json()) | change)
    (tmp_path / "config.json").write_text(there)
    if named is None:
        workdir.claim(tmp_path, config, write=False)
    else:
        with pytest.raises(InputError, match=f"another config: {named}"):
            workdir.claim(tmp_path, config, write=False)


def test_ctrl_c_is_one_line(monkeypatch, capsys, tmp_path, data_dir):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train_and_evaluate", interrupted)
    paths = [f"--workdir={tmp_path / 'run'}", f"--config.data.data_dir={data_dir}"]
    assert main.main([f"--config={CONFIG}", *paths]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [OS error 28]"),
    ],
)
def test_a_full_disk_is_one_line(monkeypatch, capsys, tmp_path, data_dir, error):
    """Also where it comes from a thread of the checkpoints, as the cause of another error."""

    def full(*_):
        raise RuntimeError("saving failed") from error

    monkeypatch.setattr(loop, "train_and_evaluate", full)
    paths = [f"--workdir={tmp_path / 'run'}", f"--config.data.data_dir={data_dir}"]
    assert main.main([f"--config={CONFIG}", *paths]) == 5
    printed = capsys.readouterr().err
    assert printed.startswith("error: the disk of ") and printed.count("\n") == 1
