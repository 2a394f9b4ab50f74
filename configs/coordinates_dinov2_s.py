"""CoordFormer with DINOv2 S and registers, whose weights are open: the published recipe.

    python -m massformer_jax.main --config=configs/coordinates_dinov2_s.py --workdir=DIR \\
        --config.data.data_dir=DATA \\
        --config.init_from=hf://facebook/dinov2-with-registers-small/model.safetensors

Hardware: as with configs/coordinates_dinov3_splus.py. Expected: the paper (arXiv 2609.08660) shows
in a picture that this encoder, too, is better than MaSSFormer in most columns, and has no numbers.
Nobody has trained it with this code.

Differences from that file: the encoder, and that photographs are squeezed to 2044x2044 pixels,
which are whole patches of 14.
"""

import ml_collections

from massformer_jax.training.config import coordinate_recipe


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be changed as --config.a.b=…"""
    return coordinate_recipe("coordformer_dinov2_s14")
