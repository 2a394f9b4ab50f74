"""A run of configs/coordinates_on_massformer.py, small: from a MaSSFormer's file to label maps."""

import json

import jax
import numpy as np
import pytest

from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.models.names import to_torch_layout, torch_name, weights_by_path
from massformer_jax.models.weights import load_weights
from massformer_jax.training import loop
from tests.helpers import configs
from tests.helpers.tiny_weights import tiny_state, write


def small_config(data_dir):
    (path,) = (x for x in configs.CONFIGS if x.stem == "coordinates_on_massformer")
    config = configs.load(path)
    config.architecture.encoder.update(encoder_depth=18, decoder_width=8)
    config.architecture.update(decoder_width=16, heads=2, head_width=8, side=256)
    config.dtype, config.batch_size = "float32", 8
    config.data.update(data_dir=str(data_dir), threads=2)
    config.loss.coordinates = 256
    config.total_steps, config.optimizer.warmup_steps = 4, 1
    config.log_every, config.checkpoint_every, config.eval_every = 1, 4, 4
    return config


@pytest.mark.slow
def test_from_the_file_of_a_massformer_to_label_maps(data_dir, tmp_path):
    config = small_config(data_dir)
    released = tiny_state()
    config.init_from = str(write(tmp_path / "released.safetensors", released))
    workdir = tmp_path / "run"
    loop.train_and_evaluate(config, workdir)
    summary = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert len(summary["images"]) == 3 and 0 < summary["mIoU"] < 1
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    weights = load_weights(workdir, device)
    assert weights.step == 4
    # The encoder is the file's, statistics included.
    frozen = 0
    for tree in (weights.params, weights.batch_stats):
        for path, leaf in weights_by_path(tree["backbone"]).items():
            if (name := torch_name(path)) in released:
                np.testing.assert_array_equal(
                    to_torch_layout(path, np.asarray(leaf)), released[name]
                )
                frozen += 1
    assert frozen > 100
    image = np.random.default_rng(0).integers(0, 256, (40, 300, 3), np.uint8)
    labels = Segmenter.load(workdir, ask="entropy").predict(image)
    assert labels.shape == (40, 300) and labels.max() < 7
