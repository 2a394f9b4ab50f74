"""The soak finds what it looks for, counts all, and can repeat what it found."""

import json
import shutil
import sys

import numpy as np
import pytest

from scripts.soak import __main__ as soak
from scripts.soak import files, folders, kills, readers
from scripts.soak.alterations import altered, mended_png
from tests.helpers import odd_readers

SEED = 28  # each way to end comes once


def rng(number=0):
    return np.random.default_rng(number)


@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 20, b'{"a": {"b": [1, 2]}}'])
def test_a_file_is_never_left_as_it_was(data):
    outcomes = [altered(data, rng(i)) for i in range(300)]
    assert all(changed != data for changed, _ in outcomes)
    assert any(changed is None for changed, _ in outcomes)
    assert len({done for _, done in outcomes}) > 100
    assert outcomes == [altered(data, rng(i)) for i in range(300)]


def test_other_values_of_json():
    values = [altered(b'{"a": {"b": [1, 2]}}', rng(i))[0] for i in range(200)]
    assert {} in [json.loads(value) for value in values if _is_json(value)]


def _is_json(value) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except (TypeError, ValueError):
        return False


def test_checksums_of_png_are_mended(tmp_path):
    data = readers.LabelMaps(tmp_path).files["palette.png"]
    broken = bytearray(data)
    broken[20] ^= 1  # of the width
    assert mended_png(data) == data
    assert mended_png(bytes(broken)) != bytes(broken)


def test_what_a_reader_does_is_judged(tmp_path):
    reader = odd_readers.Odd(tmp_path)
    kept = {}
    for i in range(60):
        byte = int(rng(i).integers(6))
        outcome, said = reader.try_one(rng(i))
        kept[byte] = outcome
        assert byte != 4 or "KeyError at odd_readers.py" in said
    found = "found"
    assert kept == {0: "right", 1: "refused", 2: found, 3: found, 4: found, 5: "right"}
    assert (tmp_path / "file").read_bytes() == b"\0"


@pytest.mark.slow
def test_hangs_crashes_and_memory_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SECONDS", 2)
    monkeypatch.setattr(files, "KINDS", {"odd": "tests.helpers.odd_readers:Ending"})
    read = files.read_altered({"odd": 30}, seed=SEED, folder=tmp_path, processes=2)
    expected = [int(files.generator(SEED, "odd", i).integers(16)) for i in range(30)]
    (outcome,) = read.values()
    texts = {1: "status 7", 2: "nothing is said", 3: "MemoryError"}
    assert set(expected) >= set(texts)
    assert outcome.files() == 30
    assert outcome.findings.keys() == {i for i, byte in enumerate(expected) if byte in texts}
    for number, said in outcome.findings.items():
        assert texts[expected[number]] in said


def test_the_command_counts_files(tmp_path, capsys):
    output = tmp_path / "counts.json"
    kinds = ["label map", ".pth", "config.json"]
    argv = ["--kills", "0", "--files", "31", "--kinds", *kinds, "--output", str(output)]
    assert soak.main([*argv, "--processes", "1"]) == 0
    counts = json.loads(output.read_text())["files"]
    assert [counts[kind]["right"] + counts[kind]["refused"] for kind in kinds] == [11, 10, 10]
    assert "| label map | 11 |" in capsys.readouterr().out
    assert soak.main(["--repeat", "label map", "3"]) == 0
    assert capsys.readouterr().out.startswith("label map 3: ")


def test_an_earlier_soak_is_not_continued(tmp_path, capsys):
    (tmp_path / "run0").mkdir()
    with pytest.raises(SystemExit) as ended:
        soak.main(["--kills", "1", "--files", "0", "--folder", str(tmp_path)])
    assert ended.value.code == 2
    assert f"{tmp_path} is not empty; name a new folder" in capsys.readouterr().err


def test_ends_are_compared_bit_by_bit(tmp_path):
    run = folders.Checkpoints(tmp_path / "made").folder / "run"
    (run / "eval").mkdir()
    (run / "eval" / "metrics.json").write_text('{"mIoU": 0.5, "provenance": "here"}')
    expected = list(kills.end_of(run))
    assert len(expected) > 6 and not kills.differences(run, expected)
    (run / "eval" / "metrics.json").write_text('{"mIoU": 0.50001, "provenance": "there"}')
    assert "1 parts differ, metrics.json" in kills.differences(run, expected)
    name, array = expected[1]
    other = np.array(array)
    other.reshape(-1)[0] = np.nextafter(other.reshape(-1)[0], 9, dtype=other.dtype)
    changed = [expected[0], (name, other), *expected[2:-1], ("metrics.json", '{"mIoU": 0.50001}')]
    assert f"1 parts differ, {name}" in kills.differences(run, changed)
    shutil.rmtree(run / "best")
    assert kills.differences(run, expected).startswith("its end cannot be read")


# Stands for a training, which it begins with one file and ends with another.
FAKE_TRAINING = """
import pathlib, sys, time
workdir = pathlib.Path(sys.argv[-1].removeprefix("--workdir="))
continued = workdir.exists()
workdir.mkdir(exist_ok=True)
time.sleep(0.1)
(workdir / "end").write_text("other" if continued and "forgets" in sys.argv else "as it should")
"""


@pytest.mark.parametrize("forgets", [False, True])
def test_every_kill_is_counted_and_every_end_compared(tmp_path, monkeypatch, forgets):
    monkeypatch.setattr(kills, "end_of", lambda workdir: [("end", (workdir / "end").read_text())])
    command = [sys.executable, "-c", FAKE_TRAINING, *["forgets"] * forgets]
    trained = kills.Training(command, {}, ())
    outcome = kills.kill(trained, 5, seed=3, folder=tmp_path, processes=2)
    assert sum(outcome.kills.values()) == 5
    assert outcome.runs > 1
    assert all("1 parts differ, end" in finding for finding in outcome.findings)
    assert bool(outcome.findings) == forgets


@pytest.mark.slow  # starts a training three times
def test_the_command_kills(tmp_path, capsys):
    output = tmp_path / "counts.json"
    assert soak.main(["--kills", "1", "--files", "0", "--output", str(output)]) == 0
    counted = json.loads(output.read_text())["kills"]
    assert sum(counted["kills"].values()) == 1 and not counted["findings"]
    assert "ended bit-equal" in capsys.readouterr().out
