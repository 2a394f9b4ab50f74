"""A few minutes on a small rendered dataset: does everything work, and does it learn?

    make sample

Hardware: two CPU cores.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.model = {
        "encoder_depth": 18,
        "decoder_width": 32,
        "ffn_width": 128,
        "layers": 3,
        "queries": 20,
        "classes": 7,
    }
    config.dtype = "float32"
    config.remat = False
    config.init_from = ""
    config.data = {
        "data_dir": "sample/data",
        "split": "train",
        "crop_size": 256,
        "short_edges": (256, 320, 384, 448),
        "max_long_edge": 1024,
        "threads": 2,
        "on_bad_record": "fail",
        "crops_per_decode": 1,
    }
    config.mesh = {"data": -1, "fsdp": 1, "spatial": 1}
    config.shardings = ((r"(bias|scale)$", ()), (r"", "fsdp"))
    config.batch_size = 4
    config.total_steps = 120
    config.optimizer = {
        "peak_learning_rate": 1e-3,
        "weight_decay": 0.05,
        "encoder_multiplier": 1.0,
        "clip_norm": 0.01,
    }
    config.loss = {"points": 2048, "edge_target": "edges"}
    config.eval = {
        "split": "validation",
        "resolution": "native",
        "window": "",
        "stride": "",
        "blend": "average",
        "scales": (1.0,),
        "flip": False,
        "pictures": 8,
        "save_predictions": False,
    }
    config.log_every = 10
    config.checkpoint_every = 40
    config.eval_every = 120
    config.on_nonfinite = "halt"
    config.profile_steps = ""
    return config
