"""The coordinate decoder on the maps of a trained MaSSFormer, instead of those of a ViT.

    python -m massformer_jax.main --config=configs/coordinates_on_massformer.py --workdir=DIR \\
        --config.data.data_dir=DATA --config.init_from=RELEASED

RELEASED is a MaSSFormer with ResNet-50: converted or downloaded weights, the workdir of a run, or a
file of the release. Its encoder and its pixel decoder, up to the map at 1/8, see the photograph
squeezed to 2048x2048 pixels and stay as they are; the coordinate decoder learns to answer from that
map and from the pixels of the photograph. `--config=configs/coordinates_on_massformer.py:LITE` with
`massformer_r18_lite` for LITE takes the smaller one.

    --config.architecture.encoder.map=body      the map at 1/4 instead
    --config.optimizer.encoder_multiplier=0.1 --config.frozen_statistics=none   it is trained, too

This is ours and in no paper. Nobody has trained it yet, so what it brings is not known. The rest of
the recipe is that of CoordFormer, see configs/coordinates_dinov3_splus.py.

Differences from that recipe, all deliberate:
- The encoder is a part of MaSSFormer, frozen with its statistics, and the decoder as wide as
  MaSSFormer's memories and queries.
- 20 epochs, of which one is the warm-up: only the decoder is new.
"""

import ml_collections

from massformer_jax.training.config import coordinate_recipe


def get_config(model: str = "massformer_r50") -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be changed as --config.a.b=…"""
    config = coordinate_recipe(f"coordformer_on_{model}")
    config.optimizer.encoder_multiplier = 0.0
    config.frozen_statistics = "encoder"
    config.total_steps, config.optimizer.warmup_steps = 14_185, 709
    return config
