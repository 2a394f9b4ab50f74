"""The configuration of the smallest CoordFormer that has every part, for tests that train."""

import ml_collections

from massformer_jax.training.config import coordinate_recipe


def get_config() -> ml_collections.ConfigDict:
    config = coordinate_recipe("coordformer_dinov3_s16")
    config.architecture.encoder.update(features=16, blocks=4, heads=2, hidden=32)
    config.architecture.update(decoder_width=16, heads=2, head_width=8, side=64)
    config.dtype = "float32"
    config.data.update(data_dir="", threads=2, on_bad_record="fail")
    config.batch_size = 4
    config.total_steps = 6
    config.optimizer.update(peak_learning_rate=3e-3, warmup_steps=2)
    config.loss.coordinates = 64
    config.eval.pictures = 1
    config.log_every, config.checkpoint_every, config.eval_every = 1, 2, 6
    return config
