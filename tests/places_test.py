"""Tests of places: which paths lead into a bucket, and what is said where that does not work."""

import pathlib
import sys

import pytest

from massformer_jax import compare, evaluate_files, files, main, predict
from massformer_jax.convert import __main__ as convert
from massformer_jax.data import build
from massformer_jax.data.sample import __main__ as sample
from massformer_jax.data.stats import __main__ as stats
from massformer_jax.errors import InputError
from massformer_jax.files import (
    names_below,
    place,
    rename_folder,
    write_atomically,
    written_atomically,
)
from tests.helpers import tiny_config

GS = "gs://bucket/folder"


def test_folders_stay_paths_of_the_disk(tmp_path):
    for path in (tmp_path, str(tmp_path), "relative/folder", "a:b"):
        found = place(path)
        assert type(found) is type(pathlib.Path()) and found == pathlib.Path(path)


@pytest.mark.parametrize(
    "path", ["s3://bucket/run", "file:///run", "gs:/bucket", pathlib.Path("gs://bucket/run")]
)
def test_other_addresses_are_no_folders(path):
    with pytest.raises(InputError, match=r"is no place; use a folder, or gs://BUCKET/FOLDER"):
        place(path)


def test_a_bucket_has_a_name():
    with pytest.raises(InputError, match="gs:// names no bucket"):
        place("gs://")


def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    files._open.cache_clear()
    with pytest.raises(InputError, match=r"pip install 'massformer-jax\[gcs\]'"):
        place(GS)


def test_files_below_a_folder_of_the_disk(tmp_path):
    for name in ("b/c", "a", "b/d/e"):
        write_atomically(tmp_path / "run" / name, b"")
    rename_folder(tmp_path / "run", tmp_path / "other")
    assert names_below(tmp_path / "other") == ["a", "b/c", "b/d/e"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (predict, ["--checkpoint", "no", "--output", "out", GS]),
        (predict, ["--checkpoint", "no", "--output", GS, "no.jpg"]),
        (evaluate_files, ["--predictions", GS, "--labels", "no"]),
        (evaluate_files, ["--predictions", "no", "--labels", "no", "--report", f"{GS}.html"]),
        (compare, [f"{GS}.json", "no.json", "--output", "no.html"]),
        (compare, ["a", "b", "--output", "c", "--labels", "d", "--predictions", GS, "e"]),
        (convert, ["--to-torch", "--input", "no", "--output", f"{GS}/x.safetensors"]),
        (convert, ["--input", f"{GS}/release.pth", "--output", "no"]),
        (build, ["--manual_dir", GS, "--data_dir", "no"]),
        (build, ["--manual_dir", "no", "--data_dir", GS]),
        (sample, ["--output", GS]),
        (stats, ["--data_dir", "no", "--output", f"{GS}.html"]),
    ],
)
def test_commands_that_work_on_this_machine_alone_say_so(
    command, arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: gs:/") and "is in a bucket, which works for" in line
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def bucket():
    """A bucket whose server runs on the loopback."""
    pytest.importorskip("gcp_storage_emulator", reason="pip install -e '.[test]'")
    from tests.helpers.fake_bucket import fake_bucket

    files._open.cache_clear()
    with fake_bucket() as bucket:
        yield bucket


def test_what_others_write_is_seen_at_once(bucket):
    folder = bucket / "seen"
    assert not folder.exists() and names_below(folder) == []
    for name in ("b/c", "a", "b/d/e"):
        write_atomically(folder / name, name.encode())
    assert names_below(folder) == ["a", "b/c", "b/d/e"]
    assert {path.name for path in folder.iterdir()} == {"a", "b"}
    # As another process does: this one is not told.
    request("POST", bucket, "/upload/storage/v1/b/bucket/o?uploadType=media&name=seen/f", b"1")
    for found in (folder.iterdir(), folder.glob("*")):
        assert {path.name for path in found} == {"a", "b", "f"}
    assert names_below(folder) == ["a", "b/c", "b/d/e", "f"]
    assert (folder / "f").exists() and (folder / "f").read_bytes() == b"1"


def test_a_folder_gets_another_name(bucket):
    for name in ("1/x/y", "1/z", "10/z"):
        write_atomically(bucket / "states" / name, name.encode())
    rename_folder(bucket / "states" / "1", bucket / "states" / "1.damaged")
    assert names_below(bucket / "states") == ["1.damaged/x/y", "1.damaged/z", "10/z"]
    assert (bucket / "states" / "1.damaged" / "x" / "y").read_bytes() == b"1/x/y"


def test_what_is_not_written_to_its_end_is_not_there(bucket):
    write_atomically(bucket / "file", b"before")
    with pytest.raises(ZeroDivisionError), written_atomically(bucket / "file") as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert (bucket / "file").read_bytes() == b"before"


def test_a_bucket_that_cannot_be_read_is_one_line(bucket, capsys):
    arguments = [f"--config={tiny_config.__file__}", "--workdir=gs://elsewhere/run"]
    assert main.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: gs://elsewhere cannot be read: 404") and "pods.md" in line


def request(method, bucket, path, data):
    """Sends a request to the server of the bucket."""
    import urllib.request

    address = bucket.environment["STORAGE_EMULATOR_HOST"]
    urllib.request.urlopen(urllib.request.Request(address + path, data, method=method)).close()
