"""An architecture that cannot be trained or evaluated ends a run at its start, with one line."""

import os
import pathlib

import pytest

from massformer_jax import main
from tests.helpers import tiny_config

IMPOSSIBLE = {
    "encoder_depth=34": "architecture.encoder_depth is 34; it must be 18 or 50",
    "decoder_width=12": "architecture.decoder_width is 12; it must be a multiple of 8",
    "decoder_width=-8": "architecture.decoder_width is -8; it must be 8 to 4096",
    "ffn_width=0": "architecture.ffn_width is 0; it must be 1 to 65536",
    "layers=0": "architecture.layers is 0; it must be 1 to 64",
    "queries=0": "architecture.queries is 0; it must be 1 to 10000",
    "classes=0": "architecture.classes is 0; it must be 1 to 255",
    "classes=256": "architecture.classes is 256; it must be 1 to 255",
    "classes=5": "architecture.classes is 5; the dataset's labels are of 7 classes",
}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("change", IMPOSSIBLE)
def test_one_line_at_the_start(change, mode, data_dir, tmp_path, capsys):
    assert _status(f"--config.architecture.{change}", mode, data_dir, tmp_path) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == f"error: {IMPOSSIBLE[change]}\n"
    assert not os.listdir(tmp_path)


def test_fewer_queries_than_classes_cannot_be_trained(data_dir, tmp_path, capsys):
    assert _status("--config.architecture.queries=5", "train", data_dir, tmp_path) == 2
    printed = capsys.readouterr()
    message = "architecture.queries is 5; it must be at least the number of classes, 7"
    assert printed.out == "" and printed.err == f"error: {message}\n"


def _status(change: str, mode: str, data_dir: pathlib.Path, folder: pathlib.Path) -> int:
    arguments = [
        f"--config={tiny_config.__file__}",
        f"--workdir={folder / 'run'}",
        f"--mode={mode}",
        f"--config.data.data_dir={data_dir}",
        change,
    ]
    return main.main(arguments)
