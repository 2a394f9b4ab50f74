"""A file as mmengine leaves it after training, written by PyTorch."""

import collections
import pathlib
import sys
import types

import numpy as np


def write_checkpoint(torch, path: pathlib.Path, state: dict, **options) -> None:
    """Writes what mmengine leaves after training: weights between objects of its own classes."""
    name = "mmengine.logging.history_buffer"
    module = sys.modules[name] = types.ModuleType(name)
    for parent in ("mmengine", "mmengine.logging"):
        sys.modules.setdefault(parent, types.ModuleType(parent))
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": name, "mean": lambda self: 0})
    buffer = module.HistoryBuffer()
    buffer.__dict__ = {"_log_history": np.random.default_rng(0).random(80_000), "_max_length": 9}
    tensors = collections.OrderedDict((k, torch.from_numpy(v)) for k, v in state.items())
    classes = tuple(f"name {i}" for i in range(7))
    tree = {
        "meta": {
            "iter": 80_000,
            "dataset_meta": {"classes": classes, "palette": [[i, 2 * i, 9] for i in range(7)]},
            "hook_msgs": {"best_score": np.float64(88.9)},
        },
        "state_dict": tensors,
        "message_hub": {"log_scalars": collections.OrderedDict({"train/loss": buffer})},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.0}]},
        "param_schedulers": [{"last_step": 80_000, "method": buffer.mean}],
    }
    try:
        torch.save(tree, path, **options)
    finally:
        for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
            del sys.modules[name]
