"""Tests that run the examples of docs/own_data.md, by which other code reads the records."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from massformer_jax.data.images import decode_image, decode_mask
from massformer_jax.data.records import open_split
from tests.helpers.imports import ROOT

PAGE = (ROOT / "docs" / "own_data.md").read_text()
STORE, LOAD = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_what_is_stored_is_what_the_other_code_reads(data_dir, monkeypatch):
    """Without TensorFlow: what the page hands to TFDS, and what its features make of it."""
    stored = {}
    monkeypatch.setattr(
        tfds.dataset_builders, "store_as_tfds_dataset", lambda **given: stored.update(given)
    )
    exec(STORE.replace('"DATA"', repr(str(data_dir))), {})
    assert (stored["name"], list(stored["split_datasets"])) == ("Mass13k", ["train", "val"])
    features = stored["features"]
    assert set(features) == {"image", "mask", "metadata"}
    for split, ours in (("train", "train"), ("val", "validation")):
        records = open_split(data_dir, ours)
        examples = list(stored["split_datasets"][split])
        assert len(examples) == len(records) > 0
        for example, record in zip(examples, records, strict=True):
            encoded = features.encode_example(example)
            assert encoded["image"] == record["image"]
            assert encoded["mask"] == record["segmentation_mask"]
            assert example["metadata"]["filename"] == record["file_name"].decode()
    assert decode_image(encoded["image"]).shape[:2] == decode_mask(encoded["mask"]).shape


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="needs TensorFlow")
def test_with_tensorflow(data_dir, tmp_path):
    lines = []
    for code in (STORE, LOAD):
        code = code.replace('"DATA"', repr(str(data_dir)))
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"\S+\.jpg \(\d+, \d+, 3\) \(\d+, \d+\)", line) for line in lines)
