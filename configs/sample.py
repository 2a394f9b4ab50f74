"""A run of a few minutes on a small rendered dataset: does everything work, and does it learn?

    make sample

Hardware: two CPU cores. Differences from the released recipe: the network and the crops are small,
and there are few steps. The learning rate is higher, also that of the encoder, which starts from
random weights.
"""

import ml_collections

from massformer_jax.training.config import released_recipe


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be changed as --config.a.b=…"""
    config = released_recipe("massformer_r18_lite")
    config.architecture.update(decoder_width=32, ffn_width=128, layers=3, queries=20)
    config.data.update(
        data_dir="sample/data",
        crop_size=256,
        short_edges=(256, 320, 384, 448),
        max_long_edge=1024,
        threads=2,
        on_bad_record="fail",
    )
    config.batch_size = 4
    config.total_steps = 120
    config.optimizer.update(peak_learning_rate=1e-3, encoder_multiplier=1.0)
    config.loss.points = 2048
    config.eval.update(resolution="native", pictures=8)
    config.log_every, config.checkpoint_every, config.eval_every = 10, 40, 120
    return config
