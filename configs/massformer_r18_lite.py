"""MaSSFormer-Lite: ResNet-18 and half the width, with the released recipe.

    python -m massformer_jax.main --config=configs/massformer_r18_lite.py --workdir=DIR \\
        --config.data.data_dir=DATA

Hardware: the release trained on 8 GPUs with 2 crops each; the global batch of 16 is split over the
devices that are there. Expected (the paper's table of the benchmark): 15.07M parameters,
mIoU 87.11 and boundary IoU 45.35 on the validation split. Not yet reproduced with this code: the
dataset was not at hand.

Differences from the released recipe, all deliberate:
- The edge branch learns the edges of the label map, as the paper says. The released code compares
  the edge map with 255 after it was made of 0 and 1, and so learns "edge everywhere";
  `--config.loss.edge_target=ones` brings that back.
- The encoder starts from random weights unless `--config.init_from=resnet18-f37072fd.pth`
  names the ImageNet weights of torchvision, which the release starts from.
- A checkpoint to continue from is saved every 1000 steps and the last two are kept; the release
  saves every 20k steps and keeps all. Both keep the best by mIoU.
"""

import ml_collections

from massformer_jax.training.config import released_recipe


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be changed as --config.a.b=…"""
    return released_recipe("massformer_r18_lite")
