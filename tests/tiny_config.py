"""The smallest network that has every part, for tests that train."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.model = {
        "encoder_depth": 18,
        "decoder_width": 8,
        "ffn_width": 16,
        "layers": 1,
        "queries": 8,
        "classes": 7,
    }
    config.dtype = "float32"
    config.remat = False
    config.init_from = ""
    config.data = {
        "data_dir": "",
        "split": "train",
        "crop_size": 256,
        "short_edges": (256, 320),
        "max_long_edge": 1024,
        "threads": 2,
        "on_bad_record": "fail",
        "crops_per_decode": 1,
    }
    config.mesh = {"data": -1, "fsdp": 1, "spatial": 1}
    config.shardings = ((r"(bias|scale)$", ()), (r"", "fsdp"))
    config.batch_size = 8
    config.total_steps = 4
    config.optimizer = {
        "peak_learning_rate": 1e-3,
        "weight_decay": 0.05,
        "encoder_multiplier": 1.0,
        "clip_norm": 0.01,
    }
    config.loss = {"points": 64, "edge_target": "edges"}
    config.eval = {
        "split": "validation",
        "resolution": "256x256",
        "window": "",
        "stride": "",
        "blend": "average",
        "scales": (1.0,),
        "flip": False,
        "pictures": 1,
        "save_predictions": False,
    }
    config.log_every = 1
    config.checkpoint_every = 1
    config.eval_every = 4
    config.on_nonfinite = "halt"
    config.profile_steps = ""
    return config
