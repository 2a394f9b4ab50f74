"""Fine-tuning on photographs of your own: docs/finetune.md leads through it.

    python -m massformer_jax.main --config=configs/finetune.py --workdir=RUN \\
        --config.data.data_dir=DATA --config.init_from=WEIGHTS

WEIGHTS are converted or downloaded weights, or the workdir of a run, of the same architecture:
ResNet-50, or with `--config=configs/finetune.py:massformer_r18_lite` the Lite variant. The classes
are those of the dataset; if the weights have others, the class head is new, but for classes of the
same name.

Keys that matter, beside these:

    total_steps              a photograph is seen batch_size · total_steps / photographs times
    data.crop_size, data.short_edges    smaller ones for smaller photographs
    optimizer.encoder_multiplier        0 freezes the encoder: faster, and for very few photographs
    accumulate               parts of a batch; with 16 of 16, one crop lies in memory at a time
    frozen_statistics        "none" for many photographs that look unlike those before
    patience                 evaluations without a better mIoU, after which the run ends

Hardware: one device with the memory for two crops of 1024 pixels; the page says how much that is.

Differences from the released recipe, all deliberate:
- A batch is computed in parts (accumulate), since a small device holds few crops. So BatchNorms
  keep the statistics of the weights that the run starts from (frozen_statistics): those of two
  crops would be far from those of photographs.
- 2,000 steps instead of 80,000, with a third of the learning rate. Each stage of the encoder learns
  half as fast as the one after it, and the class head ten times as fast as what was trained before.
- The evaluated weights are a moving average.
- Pixels of the label 255 are left out of all losses. The release counts them as outside of every
  mask, as the matching of queries does here, too.
- Evaluations show photographs as they are, as `massformer predict` does; the release enlarges
  small ones to 4096x3072.
- Evaluations are frequent, and the run ends after four of them without a better mIoU.
"""

import ml_collections
from ml_collections import config_dict

from massformer_jax.training.config import released_recipe


def get_config(model: str = "massformer_r50") -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be changed as --config.a.b=…"""
    config = released_recipe(model)
    config.architecture.classes = config_dict.placeholder(int)  # those of the dataset
    config.accumulate = 8
    config.frozen_statistics = "all"
    config.average = 0.99
    config.labels.unknown = "left_out"
    config.total_steps = 2000
    config.optimizer.peak_learning_rate = 1e-4
    config.optimizer.multipliers = (
        (r"^cls_embed/", 10.0),
        (r"^backbone/conv1/", 1 / 16),
        (r"^backbone/layer1/", 1 / 8),
        (r"^backbone/layer2/", 1 / 4),
        (r"^backbone/layer3/", 1 / 2),
    )
    config.eval.resolution = "native"
    config.checkpoint_every, config.eval_every = 200, 200
    config.patience = 4
    return config
