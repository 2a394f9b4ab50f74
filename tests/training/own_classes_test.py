"""The way from a folder with its own classes to masks and back, with the tiny network."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from massformer_jax.data.records import dataset_classes
from tests.helpers import own_photographs, tiny_config
from tests.helpers.compiling import UNOPTIMIZED_FLAG
from tests.helpers.imports import ROOT

STEPS = 10


@pytest.mark.slow
@pytest.mark.parametrize(
    # tests/finetune_page_test.py goes most of the way with two.
    "count",
    [255, *(pytest.param(count, marks=pytest.mark.long) for count in (2, 5, 7, 40))],
)
def test_from_a_folder_to_masks_and_back(count, tmp_path):
    """In processes of one device each, which share what is compiled."""

    def run(*arguments):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": UNOPTIMIZED_FLAG,
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        }
        command = [sys.executable, "-m", "massformer_jax", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    root = own_photographs.write_folder(tmp_path / "own", count)
    names = own_photographs.names(count)
    of_folder = ("--layout", "folder", "--name", "things", "--classes", root / "classes.txt")
    data = tmp_path / "data" / "things"
    run("build", "--manual_dir", root, "--data_dir", data.parent, *of_folder, "--val_share", "0.2")
    classes = dataset_classes(data)
    palette = [list(one.colour) for one in classes]
    flat = [value for rgb in palette for value in rgb]
    assert [one.name for one in classes] == names

    workdir = tmp_path / "run"
    config = (
        f"--config={tiny_config.__file__}",
        f"--workdir={workdir}",
        f"--config.data.data_dir={data}",
        f"--config.architecture.classes={count}",
        f"--config.architecture.queries={max(8, count)}",
        "--config.batch_size=2",
        f"--config.total_steps={STEPS}",
        "--config.checkpoint_every=5",
        f"--config.eval_every={STEPS}",
        "--config.eval.save_predictions=True",
    )
    run("train", *config)
    # A state is lost: the run continues from the one before it, and is evaluated again.
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    (workdir / "evaluated").unlink()
    assert f"step 5 of {STEPS}" in run("train", *config)
    shutil.rmtree(workdir / "eval")
    assert names[-1] in run("evaluate", *config)
    summary = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert summary["classes"] == names and summary["palette"] == palette
    page = (workdir / "eval" / "report.html").read_text()
    assert len(page) < 4_900_000 and names[0] in page and names[-1] in page
    (prediction, _) = (workdir / "eval" / "predictions").glob("*.png")
    assert Image.open(prediction).getpalette()[: 3 * count] == flat

    masks = []
    run("convert", "--to-torch", "--input", workdir, "--output", tmp_path / "torch.safetensors")
    run("convert", "--input", tmp_path / "torch.safetensors", "--output", tmp_path / "back")
    for weights in (workdir, tmp_path / "back"):
        folder = tmp_path / f"masks_of_{weights.name}"
        run("predict", "--checkpoint", weights, "--output", folder, root / "images" / "000.jpg")
        masks.append(Image.open(folder / "000.png"))
        assert masks[-1].getpalette()[: 3 * count] == flat
    np.testing.assert_array_equal(*map(np.asarray, masks))
    assert np.asarray(masks[0]).max() < count
