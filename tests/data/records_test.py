"""Tests that a damaged dataset is noticed when it is opened, and said in one line."""

import json
import shutil

import numpy as np
import pytest

from massformer_jax.data.package import build
from massformer_jax.data.pipeline import eval_examples
from massformer_jax.data.records import PipelineError, open_split
from massformer_jax.data.stats.__main__ import main as stats
from massformer_jax.errors import InputError
from tests.helpers.broken_releases import RELEASE

SHARD = "mass13k-validation.array_record-00000-of-00001"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    build(RELEASE, folder)
    return folder


@pytest.fixture
def dataset(built, tmp_path):
    """Returns the folder of a version that may be damaged, three levels below `tmp_path`."""
    shutil.copytree(built, tmp_path / "data")
    return tmp_path / "data" / "mass13k" / "1.1.0"


def cut(size):
    return lambda path: path.write_bytes(path.read_bytes()[:size])


DAMAGE = {
    "a missing shard": (SHARD, lambda path: path.unlink(), "the file is missing; copy it again"),
    "an empty shard": (SHARD, cut(0), "the file is cut off or damaged; copy it"),
    "a cut shard": (SHARD, cut(65536), "the file is cut off or damaged; copy it"),
    "a shard cut anywhere": (SHARD, cut(100_000), "the file is cut off or damaged; copy it"),
    "another shard": (
        SHARD,
        lambda path: shutil.copy(path.with_name(SHARD.replace("validation", "train")), path),
        "holds 3 records, and 2 belong there; copy it again",
    ),
    "empty features": ("features.json", cut(0), "missing or damaged; copy it again"),
    "cut features": ("features.json", cut(900), "missing or damaged; copy it again"),
    "missing features": ("features.json", lambda path: path.unlink(), "missing or damaged; copy"),
    "other features": ("features.json", lambda path: path.write_text("{}"), r"features\.json is"),
    "a feature left out": (
        "features.json",
        lambda path: path.write_text(path.read_text().replace('"file_name"', '"name"')),
        r"features\.json is damaged \(it describes records without 'file_name'\)",
    ),
    "empty description": ("dataset_info.json", cut(0), "missing or damaged; copy it again"),
    "another dataset": (
        "dataset_info.json",
        lambda path: path.write_text(
            json.dumps({**json.loads(path.read_text()), "name": "\x1b[2J\n"})
        ),
        r"features\.json is damaged \(it describes a dataset '\\x1b\[2J\\n'\)",
    ),
    "names of files with control characters": (
        "dataset_info.json",
        lambda path: path.write_text(
            path.read_text().replace('"{DATASET}', r'"\u001b[2J\n{DATASET}')
        ),
        r"dataset_info\.json is damaged \(it names files with control characters\)",
    ),
    "a pattern of names that nothing fills": (
        "dataset_info.json",
        lambda path: path.write_text(path.read_text().replace("{DATASET}", "{}")),
        r"dataset_info\.json is damaged \(Replacement index 0 out of range",
    ),
    "a split that was renamed": (
        "dataset_info.json",
        lambda path: path.write_text(path.read_text().replace('"validation"', r'"\u001b[2J\n"')),
        r"features\.json is damaged \(it describes a split '\\x1b\[2J\\n'\)",
    ),
    "other description": (
        "dataset_info.json",
        lambda path: path.write_text('{"splits": 3}'),
        r"dataset_info\.json or features\.json is damaged",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_when_a_split_is_opened(name, dataset, capsys):
    file, spoil, message = DAMAGE[name]
    spoil(dataset / file)
    data_dir = dataset.parent.parent
    with pytest.raises(PipelineError, match=message) as error:
        open_split(data_dir, "validation")
    assert "\n" not in str(error.value) and str(dataset) in str(error.value)
    assert "data.build --manual_dir RELEASE --data_dir" in str(error.value)
    assert "--overwrite`" in str(error.value)
    assert stats(["--data_dir", str(data_dir)]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"error: {error.value}\n"


def test_a_damaged_record_is_named_when_it_is_read(dataset, capsys):
    content = bytearray((dataset / SHARD).read_bytes())
    content[3000:3500] = bytes(500)
    (dataset / SHARD).write_bytes(content)
    data_dir = dataset.parent.parent
    assert len(open_split(data_dir, "validation")) == 2
    assert stats(["--data_dir", str(data_dir), "--split", "validation"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: record 0 of the split cannot be read: Corrupted")
    assert line.endswith("; copy or build the dataset again")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train[:x]", r"no split 'train\[:x\]': .*format"),
        ("train[:900%]", r"no split 'train\[:900%\]': .*boundaries"),
        ("train+val", "no split 'train.val': Unknown split 'val'"),
        ("train[:0]", "holds no photograph"),
        ("", "no split ''; it has train, validation, test"),
    ],
)
def test_a_slice_that_does_not_exist_is_one_line(built, split, message):
    with pytest.raises(PipelineError, match=message) as error:
        open_split(built, split)
    assert "\n" not in str(error.value)


def test_tfrecords_are_named(dataset):
    info = dataset / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(PipelineError, match=r"holds tfrecord; build it with"):
        open_split(dataset.parent.parent, "train")


def test_bytes_at_random_end_in_a_line_or_in_nothing(dataset):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        path = dataset / rng.choice(["features.json", "dataset_info.json", SHARD])
        sound = path.read_bytes()
        content = bytearray(sound)
        if rng.random() < 0.2:
            del content[rng.integers(len(content)) :]
        else:
            position = rng.integers(min(len(content), 12_000))
            content[position] = rng.choice(list(b'abcdefghijklm0123456789{}[]",:'))
        path.write_bytes(content)
        try:
            assert len(list(eval_examples(dataset.parent.parent, split="validation"))) == 2
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
        path.write_bytes(sound)
    assert 10 < refused < 55
