"""Tests that run the examples of docs/data.md, which load the dataset, as they stand there."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def run(code, data_dir, away):
    """Runs an example in a new process and in the folder `away`; returns the lines it prints."""
    code = re.sub('"(TF)?DATA"', repr(str(data_dir)), code)
    return lines_of([sys.executable, "-c", code], away)


def lines_of(command, away):
    """Runs a command in the folder `away` and returns the lines that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=away, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_page_shows_both_ways_in_ten_lines_or_less():
    assert len(BLOCKS) == 4
    assert [("tfds.load" in block) for block in BLOCKS] == [False, True, False, False]
    assert all(len(block.splitlines()) <= 10 for block in BLOCKS[:2])
    assert not any("massformer" in block for block in BLOCKS[:3])


def test_without_tensorflow(data_dir, release_dir, tmp_path):
    (line,) = run(BLOCKS[0], data_dir, tmp_path)
    name, size, share = re.fullmatch(r"(\S+) \((\d+, \d+, 3)\) (\d+)% sky", line).groups()
    assert (release_dir / "images" / "train" / name).exists()
    assert size in ("480, 640, 3", "468, 624, 3", "640, 480, 3") and 0 <= int(share) < 100


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("tensorflow", "apache_beam", "mlcroissant", "pandas"))),
    reason="needs TensorFlow, and what `tfds build` needs",
)
@pytest.mark.parametrize("options", [(), ("--beam_pipeline_options=runner=DirectRunner",)])
def test_with_tensorflow(data_dir, release_dir, tmp_path, options):
    build = ["tfds", "build", str(ROOT / "data_builders" / "mass13k"), *options]
    build[:1] = [sys.executable, "-m", "tensorflow_datasets.scripts.cli.main"]
    build += ["--manual_dir", str(release_dir), "--data_dir"]
    lines_of([*build, str(tmp_path / "array"), "--file_format=array_record"], tmp_path)
    for file in sorted((data_dir / "mass13k" / "1.1.0").iterdir()):
        if file.name != "dataset_info.json":  # it names the module of the builder
            written = tmp_path / "array" / "mass13k" / "1.1.0" / file.name
            assert written.read_bytes() == file.read_bytes(), file.name

    lines_of([*build, str(tmp_path / "tf"), "--file_format=tfrecord"], tmp_path)
    lines = run(BLOCKS[1], tmp_path / "tf", tmp_path)
    assert len(lines) == 2
    assert all(re.fullmatch(r"\S+\.jpg \(\d+, \d+, 3\) \d+% sky", line) for line in lines)


def test_upright(data_dir, tmp_path):
    run(BLOCKS[2], data_dir, tmp_path)


def test_with_edge_maps(data_dir, tmp_path):
    lines = run(BLOCKS[3], data_dir, tmp_path)
    assert len(lines) == 7
    shares = [float(re.fullmatch(r"\S+\.jpg (\d+\.\d)% edges", line)[1]) for line in lines]
    assert all(0 < share < 50 for share in shares)
