"""The configuration of the smallest network that has every part, for tests that train."""

import ml_collections

from massformer_jax.training.config import released_recipe


def get_config() -> ml_collections.ConfigDict:
    config = released_recipe("massformer_r18_lite")
    config.architecture.update(decoder_width=8, ffn_width=16, layers=1, queries=8)
    config.data.update(
        data_dir="",
        crop_size=256,
        short_edges=(256, 320),
        max_long_edge=1024,
        threads=2,
        on_bad_record="fail",
    )
    config.batch_size = 8
    config.total_steps = 4
    config.optimizer.update(peak_learning_rate=1e-3, encoder_multiplier=1.0)
    config.loss.points = 64
    config.eval.update(resolution="256x256", pictures=1)
    config.log_every, config.checkpoint_every, config.eval_every = 1, 1, 4
    return config
