"""The configuration of a run: what each key means, its default, and what makes one impossible.

The defaults are the released recipe. A file in configs/ takes them and changes what differs.
"""

import dataclasses
import re
from typing import Any

import ml_collections
from jax.sharding import Mesh

from massformer_jax.errors import InputError
from massformer_jax.inference.protocol import Protocol
from massformer_jax.models.build import FROZEN_STATISTICS, architecture, check_architecture
from massformer_jax.models.massformer import STRIDE
from massformer_jax.ops.precision import computation
from massformer_jax.parallel.sharding import check_batch_size
from massformer_jax.training.profiling import parse_steps

# Keys that may change when a run continues: they move or report it. All others belong to the run.
CHANGEABLE = (
    "data.data_dir",
    "data.threads",
    "data.on_bad_record",
    "eval.pictures",
    "eval.save_predictions",
    "log_every",
    "checkpoint_every",
    "eval_every",
    "patience",
    "on_nonfinite",
    "profile_steps",
    "mesh.data",
    "mesh.fsdp",
    "mesh.spatial",
    "shardings",
)


def released_recipe(name: str = "massformer_r50") -> ml_collections.ConfigDict:
    """Returns the released recipe for one of `models.build.ARCHITECTURES`.

    Every key can be changed: in a config file, and on the command line as --config.a.b=…
    """
    config = ml_collections.ConfigDict()
    config.seed = 0
    # The keyword arguments of massformer_jax.models.massformer.MaSSFormer. `classes` has to be the
    # dataset's number; None, as a placeholder, follows the dataset.
    config.architecture = architecture(name)
    config.dtype = "float32"  # what the network computes in; or tf32, bfloat16
    config.remat = False  # less memory, more time: for crops that do not fit otherwise
    # In how many parts a batch is computed, one after the other: the memory is that of one part.
    # BatchNorms that are not frozen see one part at a time. On CPUs this is slow: docs/finetune.md.
    config.accumulate = 1
    # Which BatchNorms keep the statistics that they start with: "none", those of the "encoder", or
    # "all", for small batches and weights that were trained before.
    config.frozen_statistics = "none"
    # Decay of a moving average of the weights, 0.999 for instance, which is then what is evaluated
    # and predicts; 0 for none.
    config.average = 0.0
    # What to start from: a workdir, converted weights, a .pth or .safetensors file, or a name
    # hf://OWNER/NAME; "" for nothing.
    config.init_from = ""
    config.data = {
        # What python -m massformer_jax.data.build wrote: the folder of all datasets, or DATA/NAME.
        "data_dir": "data",
        "split": "train",
        "crop_size": 1024,
        "short_edges": tuple(int(3072 * x * 0.1) for x in range(5, 21)),  # 0.5 to 2 times 4K
        "max_long_edge": 8192,
        "threads": 8,  # per process; each makes about 20 crops per second and core
        # What cannot be read: training takes the next one, for up to 1 % of them, and an evaluation
        # leaves it out and names it; or "fail".
        "on_bad_record": "skip",
        "crops_per_decode": 1,  # as released; 2 or 4 of one photograph are faster, see docs
    }
    # How far labels are to be trusted, see docs/new_classes.md. As released: completely.
    config.labels = {
        # (class, pixels of a crop) of classes with pseudo labels: by how much their borders may be
        # wrong. There a pixel counts 1 / (1 + pseudo_strength · |W|); exact ones count 1 + 5 · |W|.
        "pseudo": (),
        "pseudo_strength": 20.0,
        # (regular expression of file names, classes) that are not annotated in those photographs.
        "unannotated": (),
        # Pixels of the label 255: "outside" of every mask, as released, or "left_out".
        "unknown": "outside",
    }
    # How the devices are arranged, -1 for the rest; see docs/pods.md. Training splits its batch
    # over all of them; `fsdp` also splits parameters and optimizer, `spatial` the rows of a
    # photograph that is evaluated.
    config.mesh = {"data": -1, "fsdp": 1, "spatial": 1}
    # (regular expression of a parameter's path, what it is split by); the first match wins.
    config.shardings = ((r"(bias|scale)$", ()), (r"", "fsdp"))
    config.batch_size = 16  # over all devices
    config.total_steps = 80_000
    # Arguments of training.optimizer.recipe_optimizer; the learning rate falls to 0 along a cosine.
    config.optimizer = {
        "peak_learning_rate": 3e-4,
        "weight_decay": 0.05,
        "encoder_multiplier": 0.1,  # 0 freezes the encoder
        # (regular expression of a parameter's path, factor of its learning rate), first match wins.
        "multipliers": (),
        "clip_norm": 0.01,
    }
    config.loss = {"points": 12544, "edge_target": "edges"}
    config.eval = {
        "split": "validation",
        "resolution": "release",  # or native, or HxW
        # How photographs are shown to the network, see massformer_jax/inference/protocol.py.
        # Windows of "HxW" every "HxW" pixels, blended by "average" (as released) or "smooth"; ""
        # for none.
        "window": "",
        "stride": "",
        "blend": "average",
        # Test-time augmentation; the release has (0.5, 0.75, 1.0, 1.25, 1.5, 1.75) and flips.
        "scales": (1.0,),
        "flip": False,
        "ask": "every",  # which pixels of a CoordFormer's photographs: or sefi, entropy, stride=8
        "pictures": 16,  # photographs that are drawn beside truth and prediction
        "save_predictions": False,  # whether all label maps are written, as PNG
    }
    config.log_every = 50
    config.checkpoint_every = 1000
    config.eval_every = 5000
    # Number of evaluations without a better mIoU after which a run ends; 0 for never.
    config.patience = 0
    config.on_nonfinite = "halt"  # ends a run with state and batch saved; "skip" drops the step
    config.profile_steps = ""  # "10:13" traces the steps 10, 11 and 12
    return config


def validate(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Checks that a run of this config can be trained on this mesh.

    What the dataset must say, a split that exists for instance, is checked where it is opened.

    Raises:
        InputError: it cannot; names the key.
    """
    if config.frozen_statistics not in FROZEN_STATISTICS:
        raise InputError(
            f"frozen_statistics is {config.frozen_statistics!r}; use one of "
            f"{', '.join(FROZEN_STATISTICS)}"
        )
    check_batch_size(
        config.batch_size,
        mesh,
        parts=config.accumulate,
        normalised=config.frozen_statistics != "all",
    )
    check_architecture(config.architecture.to_dict(), training=True)
    if not 0 <= config.seed < 2**32:
        raise InputError(f"seed is {config.seed}; it must be 0 to {2**32 - 1}")
    for rule in config.shardings:
        if not _is_rule(rule):
            raise InputError(f"shardings has {rule!r}; a rule is (regular expression, axes)")
    crop = config.data.crop_size
    if crop < STRIDE or crop % STRIDE:
        raise InputError(f"data.crop_size is {crop}; it must be a multiple of {STRIDE}")
    for key in ("log_every", "checkpoint_every", "eval_every", "total_steps"):
        if config[key] < 1:
            raise InputError(f"{key} is {config[key]}; it must be at least 1")
    if config.patience < 0:
        raise InputError(f"patience is {config.patience}; it must be at least 0")
    if not 0 <= config.average < 1:
        raise InputError(f"average is {config.average}; it must be 0, or less than 1")
    for rule in config.optimizer.multipliers:
        if not _is_multiplier(rule):
            raise InputError(
                f"optimizer.multipliers has {rule!r}; a rule is (regular expression, factor)"
            )
    if config.loss.edge_target not in ("edges", "ones"):
        raise InputError(f"loss.edge_target is {config.loss.edge_target!r}; use 'edges' or 'ones'")
    computation(config.dtype)
    if config.loss.points < 4:
        raise InputError(f"loss.points is {config.loss.points}; it must be at least 4")
    if config.on_nonfinite not in ("halt", "skip"):
        raise InputError(f"on_nonfinite is {config.on_nonfinite!r}; use 'halt' or 'skip'")
    parse_steps(config.profile_steps)
    evaluation_protocol(config)


def _is_rule(rule: Any) -> bool:
    """Tells whether this is a rule of `sharding.parameter_specs`: a text, and one or several."""
    if not isinstance(rule, list | tuple) or len(rule) != 2:
        return False
    axes = rule[1] if isinstance(rule[1], list | tuple) else (rule[1] or "-",)
    return isinstance(rule[0], str) and all(isinstance(axis, str | None) for axis in axes)


def is_pattern(text: Any) -> bool:
    """Tells whether this is a regular expression."""
    try:
        re.compile(text)
    except (TypeError, re.error):
        return False
    return isinstance(text, str)


def _is_multiplier(rule: Any) -> bool:
    """Tells whether this is a rule of `optimizer.parameter_groups`: a pattern and a factor."""
    if not isinstance(rule, list | tuple) or len(rule) != 2:
        return False
    pattern, factor = rule
    return is_pattern(pattern) and isinstance(factor, int | float) and factor >= 0


def evaluation_protocol(config: ml_collections.ConfigDict) -> Protocol:
    """Returns how photographs are shown to the network in an evaluation.

    Raises:
        InputError: `config.eval` asks for what does not exist; names the key.
    """
    names = [field.name for field in dataclasses.fields(Protocol)]
    try:
        return Protocol(**{name: config.eval[name] for name in names})
    except InputError as error:
        raise InputError(f"config.eval: {error}") from error
