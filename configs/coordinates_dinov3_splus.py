"""CoordFormer with DINOv3 S+: the published recipe.

    python -m massformer_jax.main --config=configs/coordinates_dinov3_splus.py --workdir=DIR \\
        --config.data.data_dir=DATA --config.init_from=DINOV3

DINOV3 is `hf://facebook/dinov3-vits16plus-pretrain-lvd1689m/model.safetensors`, or that file: its
authors give it out after a form is filled in, under a licence of their own. Without `init_from` the
encoder starts from random weights, which is not what was published.

Hardware: the authors trained on 4 A100 GPUs with 4 photographs each. Here the global batch of 16 is
split over all devices that there are; where it does not fit, `--config.remat=True` and
`--config.accumulate=N` take less memory. Expected (from the paper, arXiv 2609.08660): 29.92M
parameters, mIoU 92.53 and boundary IoU 53.24 on the validation split. This was not reproduced,
since neither the dataset nor the encoder's weights were available. docs/coordinates.md says more.

What the paper leaves open is marked `Paper:` in massformer_jax/training/config.py, and in the code
of the network and its losses.
"""

import ml_collections

from massformer_jax.training.config import coordinate_recipe


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be changed as --config.a.b=…"""
    return coordinate_recipe("coordformer_dinov3_splus16")
