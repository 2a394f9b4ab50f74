"""MaSSFormer-Lite: ResNet-18 and half the width, with the released recipe.

    python -m massformer_jax.main --config=configs/massformer_r18_lite.py --workdir=DIR \\
        --config.data.data_dir=DATA

Hardware: the release trained on 8 GPUs with 2 crops each. Here the global batch of 16 crops is
split over all devices that there are. Expected (from the paper's table of the benchmark): 15.07M
parameters, mIoU 87.11 and boundary IoU 45.35 on the validation split. This was not reproduced
yet, because the dataset was not available.

Differences from the released recipe, all deliberate:
- The edge branch learns the edges of the label map, as the paper says. The released code compares
  an edge map of zeros and ones with 255, and so learns "edge everywhere".
  `--config.loss.edge_target=ones` brings this back.
- The encoder starts from random weights, unless `--config.init_from=resnet18-f37072fd.pth`
  names the weights of torchvision that were trained on ImageNet. The release starts from these.
- A checkpoint from which a run can continue is saved every 1000 steps, and the last two are kept.
  The release saves every 20k steps and keeps all. Both also keep the checkpoint with the best mIoU
  (mean intersection over union).
"""

import ml_collections

from massformer_jax.training.config import released_recipe


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be changed as --config.a.b=…"""
    return released_recipe("massformer_r18_lite")
