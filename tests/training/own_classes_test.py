"""The way from a folder with its own classes to masks and back, with the tiny network."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from massformer_jax import main, predict
from massformer_jax.convert import __main__ as convert
from massformer_jax.data import build
from massformer_jax.data.records import dataset_classes
from massformer_jax.data.stats import __main__ as stats
from tests.helpers import own_photographs, tiny_config

STEPS = 10


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 40, 255])
def test_from_a_folder_to_masks_and_back(count, tmp_path, capsys):
    root = own_photographs.write_folder(tmp_path / "own", count)
    names = own_photographs.names(count)
    arguments = ["--manual_dir", root, "--data_dir", tmp_path / "data", "--layout", "folder"]
    arguments += ["--name", "things", "--classes", root / "classes.txt", "--val_share", "0.2"]
    assert build.main([*map(str, arguments), "--strict"]) == 0
    data = tmp_path / "data" / "things"
    classes = dataset_classes(data)
    assert [one.name for one in classes] == names

    run = tmp_path / "run"

    def trained(*more):
        return main.main(
            [
                f"--config={tiny_config.__file__}",
                f"--workdir={run}",
                f"--config.data.data_dir={data}",
                f"--config.architecture.classes={count}",
                f"--config.architecture.queries={max(8, count)}",
                f"--config.total_steps={STEPS}",
                "--config.checkpoint_every=5",
                f"--config.eval_every={STEPS}",
                "--config.eval.save_predictions=True",
                *more,
            ]
        )

    assert trained() == 0
    assert trained("--mode=eval") == 0
    summary = json.loads((run / "eval" / "metrics.json").read_text())
    palette = [list(one.colour) for one in classes]
    assert summary["classes"] == names and summary["palette"] == palette
    assert len(summary["IoU"]) == count
    page = (run / "eval" / "report.html").read_text()
    assert len(page) < 4_900_000 and names[0] in page and names[-1] in page
    for path in (run / "eval" / "predictions").glob("*.png"):
        assert Image.open(path).getpalette()[: 3 * count] == sum(palette, [])

    # A state is lost: the run continues from the one before it.
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    (run / "evaluated").unlink()
    capsys.readouterr()
    assert trained() == 0
    assert f"step 5 of {STEPS}" in capsys.readouterr().out

    masks = segmented(run, root / "images" / "000.jpg", tmp_path / "masks")
    assert masks.getpalette()[: 3 * count] == sum(palette, [])
    assert np.asarray(masks).max() < count

    file = tmp_path / "weights.safetensors"
    assert convert.main(["--to-torch", "--input", str(run), "--output", str(file)]) == 0
    assert convert.main(["--input", str(file), "--output", str(tmp_path / "back")]) == 0
    again = segmented(tmp_path / "back", root / "images" / "000.jpg", tmp_path / "again")
    assert again.getpalette()[: 3 * count] == sum(palette, [])
    np.testing.assert_array_equal(np.asarray(again), np.asarray(masks))
    assert stats.main(["--data_dir", str(data), "--output", str(tmp_path / "stats.html")]) == 0
    assert names[-1] in (tmp_path / "stats.html").read_text()


def segmented(weights, photograph, folder):
    arguments = ["--checkpoint", weights, "--output", folder, photograph]
    assert predict.main([*map(str, arguments)]) == 0
    return Image.open(folder / f"{photograph.stem}.png")
