"""The configuration of a run: what each key means, its default, and what makes one impossible.

The defaults are the released recipe of MaSSFormer, and the published one of CoordFormer. A file in
configs/ takes them and changes what differs.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any

import ml_collections
from jax.sharding import Mesh

from massformer_jax.errors import InputError
from massformer_jax.inference.protocol import Protocol
from massformer_jax.models.build import (
    COORDFORMERS,
    FROZEN_STATISTICS,
    architecture,
    check_architecture,
    is_coordformer,
)
from massformer_jax.models.coordformer import has_coarse_maps
from massformer_jax.models.massformer import STRIDE
from massformer_jax.ops.precision import computation
from massformer_jax.parallel.sharding import check_batch_size
from massformer_jax.training.optimizer import SCHEDULES
from massformer_jax.training.profiling import parse_steps
from massformer_jax.training.rules import is_multiplier, is_placement
from massformer_jax.tree import leaves_by_path

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
    "remat",
    "mesh.data",
    "mesh.fsdp",
    "mesh.spatial",
    "shardings",
)

# The least value that each of these keys may have.
_LEAST = {
    "log_every": 1,
    "checkpoint_every": 1,
    "eval_every": 1,
    "total_steps": 1,
    "patience": 0,
    "data.threads": 0,
    "optimizer.peak_learning_rate": 0,
    "optimizer.weight_decay": 0,
    "optimizer.encoder_multiplier": 0,
    "optimizer.clip_norm": 0,
}
_LEAST_OF_MASKS = {"data.crops_per_decode": 1, "data.max_long_edge": 1, "loss.points": 4}


def released_recipe(name: str = "massformer_r50") -> ml_collections.ConfigDict:
    """Returns the released recipe for one of `models.build.ARCHITECTURES`.

    Every key can be changed: in a config file, and on the command line as --config.a.b=…
    """
    config = _shared_recipe(architecture(name))
    config.data.update(
        {
            "crop_size": 1024,
            "short_edges": tuple(int(3072 * x * 0.1) for x in range(5, 21)),  # 0.5 to 2 times 4K
            "max_long_edge": 8192,
            "crops_per_decode": 1,  # as released; 2 or 4 of one photograph are faster, see docs
        }
    )
    # How far labels are to be trusted, see docs/new_classes.md. As released: completely.
    config.labels = {
        # (class, pixels of a crop) of classes with pseudo labels: by how much their borders may be
        # wrong. There a pixel counts 1 / (1 + pseudo_strength · |W|); exact ones count 1 + 5 · |W|.
        "pseudo": (),
        "pseudo_strength": 20.0,
        # The class to which exact labels count those classes, such as "background" of MaSS13K: then
        # pixels of all other classes are exact. "" if pseudo labels may be wrong over any class.
        "split_from": "",
        # (regular expression of file names, classes) that are not annotated in those photographs.
        "unannotated": (),
        # Pixels of the label 255: "outside" of every mask, as released, or "left_out".
        "unknown": "outside",
    }
    config.loss = {"points": 12544, "edge_target": "edges"}
    config.eval.update(
        {
            "resolution": "release",  # or native, or HxW
            # How photographs are shown to the network, see massformer_jax/inference/protocol.py.
            # Windows of "HxW" every "HxW" pixels, blended by "average" (as released) or "smooth";
            # "" for none.
            "window": "",
            "stride": "",
            "blend": "average",
            # Test-time augmentation; the release has (0.5, 0.75, 1.0, 1.25, 1.5, 1.75) and flips.
            "scales": (1.0,),
            "flip": False,
        }
    )
    return config


def coordinate_recipe(name: str = "coordformer_dinov3_splus16") -> ml_collections.ConfigDict:
    """Returns the published recipe for one of `models.build.COORDFORMERS`.

    Source: Curti et al., "CoordFormer" (arXiv 2609.08660). Keys can be changed as those of
    `released_recipe`.
    """
    config = _shared_recipe(architecture(name, COORDFORMERS))
    config.dtype = "bfloat16"
    epoch = 11_348 / config.batch_size  # steps in which each photograph of MaSS13K is seen once
    # Paper: "about 170 epochs with early stopping". Here the rate reaches 0 after 170; the best
    # weights are kept in any case.
    config.total_steps = round(170 * epoch)
    config.optimizer.update(
        peak_learning_rate=1e-4,
        warmup_steps=round(10 * epoch),
        schedule="linear",
        weight_decay=1e-4,
        # Paper: the encoder is trained, too; no other rate is mentioned for it, and no clipping.
        encoder_multiplier=1.0,
        clip_norm=0.0,
    )
    config.loss = {"coordinates": 16_384}  # that are drawn of each photograph
    # Which pixels are asked, see massformer_jax/inference/protocol.py; or every, entropy, stride=8.
    config.eval.ask = "sefi"
    return config


def _shared_recipe(architecture: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the keys that all networks have, with the values of the released recipe."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # The keyword arguments of models.massformer.MaSSFormer or models.coordformer.CoordFormer.
    # `classes` has to be the dataset's number; None, as a placeholder, follows the dataset.
    config.architecture = architecture
    config.dtype = "float32"  # what the network computes in; or tf32, bfloat16
    config.remat = False  # less memory, more time: for batches that do not fit otherwise
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
        "threads": 8,  # per process; a core makes 20 crops a second, or 4 whole photographs
        # What cannot be read: training takes the next one, for up to 1 % of them, and an evaluation
        # leaves it out and names it; or "fail".
        "on_bad_record": "skip",
    }
    # How the devices are arranged, -1 for the rest; see docs/pods.md. Training splits its batch
    # over all of them; `fsdp` also splits parameters and optimizer, `spatial` the rows of a
    # photograph that is evaluated.
    config.mesh = {"data": -1, "fsdp": 1, "spatial": 1}
    # (regular expression of a parameter's path, what it is split by); the first match wins.
    config.shardings = ((r"(bias|scale)$", ()), (r"", "fsdp"))
    config.batch_size = 16  # over all devices
    config.total_steps = 80_000
    # Arguments of training.optimizer.recipe_optimizer.
    config.optimizer = {
        "peak_learning_rate": 3e-4,
        "warmup_steps": 0,  # in which the learning rate rises; then it falls to 0
        "schedule": "cosine",  # along which line it falls; or "linear"
        "weight_decay": 0.05,
        "encoder_multiplier": 0.1,  # 0 freezes the encoder
        # (regular expression of a parameter's path, factor of its learning rate), first match wins.
        "multipliers": (),
        "clip_norm": 0.01,  # 0 for none
    }
    config.eval = {
        "split": "validation",
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
    check_architecture(config.architecture.to_dict(), training=True)
    coordinates = is_coordformer(config.architecture.to_dict())
    _check_keys(config, coordinates=coordinates)
    if config.frozen_statistics not in FROZEN_STATISTICS:
        raise InputError(
            f"frozen_statistics is {config.frozen_statistics!r}; use one of "
            f"{', '.join(FROZEN_STATISTICS)}"
        )
    (_check_coordinates if coordinates else _check_masks)(config)
    check_batch_size(
        config.batch_size,
        mesh,
        parts=config.accumulate,
        # Of a single photograph there are many coordinates to normalise over.
        normalised=not coordinates and config.frozen_statistics != "all",
    )
    if not 0 <= config.seed < 2**32:
        raise InputError(f"seed is {config.seed}; it must be 0 to {2**32 - 1}")
    for rule in config.shardings:
        if not is_placement(rule):
            raise InputError(f"shardings has {rule!r}; a rule is (regular expression, axes)")
    _check_least(config, _LEAST)
    if not 0 <= config.average < 1:
        raise InputError(f"average is {config.average}; it must be 0, or less than 1")
    for rule in config.optimizer.multipliers:
        if not is_multiplier(rule):
            raise InputError(
                f"optimizer.multipliers has {rule!r}; a rule is (regular expression, factor)"
            )
    if not 0 <= config.optimizer.warmup_steps < config.total_steps:
        raise InputError(
            f"optimizer.warmup_steps is {config.optimizer.warmup_steps}; it must be at least 0, "
            f"and less than total_steps, {config.total_steps}"
        )
    if config.optimizer.schedule not in SCHEDULES:
        raise InputError(
            f"optimizer.schedule is {config.optimizer.schedule!r}; use {' or '.join(SCHEDULES)}"
        )
    computation(config.dtype)
    if config.on_nonfinite not in ("halt", "skip"):
        raise InputError(f"on_nonfinite is {config.on_nonfinite!r}; use 'halt' or 'skip'")
    parse_steps(config.profile_steps)
    evaluation_protocol(config)


def _check_least(config: ml_collections.ConfigDict, least: Mapping[str, int]) -> None:
    for key, lowest in least.items():
        value = functools.reduce(operator.getitem, key.split("."), config)
        if not value >= lowest:
            raise InputError(f"{key} is {value}; it must be at least {lowest}")


def _check_keys(config: ml_collections.ConfigDict, *, coordinates: bool) -> None:
    """Checks that the keys are those of the network's own recipe, and of no other's."""
    ours, others = coordinate_recipe, released_recipe
    if not coordinates:
        ours, others = others, ours
    given, needed, strange = (_keys(each) for each in (config, ours(), others()))
    for key in sorted(needed - given):
        raise InputError(
            f"{key} is missing; start from training.config.{ours.__name__} for this architecture"
        )
    for key in sorted(given & (strange - needed)):
        raise InputError(
            f"{key} means nothing for this architecture; start from training.config.{ours.__name__}"
        )


def _keys(config: ml_collections.ConfigDict) -> set[str]:
    """Returns the dotted keys of a config, but for those of its architecture."""
    tree = {key: value for key, value in config.to_dict().items() if key != "architecture"}
    return set(leaves_by_path(tree, separator=".", is_leaf=lambda x: not isinstance(x, dict)))


def _check_masks(config: ml_collections.ConfigDict) -> None:
    """Checks the keys that MaSSFormer's recipe has alone."""
    crop = config.data.crop_size
    if crop < STRIDE or crop % STRIDE:
        raise InputError(f"data.crop_size is {crop}; it must be a multiple of {STRIDE}")
    if config.loss.edge_target not in ("edges", "ones"):
        raise InputError(f"loss.edge_target is {config.loss.edge_target!r}; use 'edges' or 'ones'")
    edges = config.data.short_edges
    if not edges or min(edges) < 1:
        raise InputError(f"data.short_edges is {edges}; it must hold one size in pixels or more")
    _check_least(config, _LEAST_OF_MASKS)


def _check_coordinates(config: ml_collections.ConfigDict) -> None:
    """Checks the keys that CoordFormer's recipe has alone, and those that its encoder restricts."""
    encoder = config.architecture.encoder.to_dict()
    if config.frozen_statistics == "encoder" and not has_coarse_maps(encoder):
        raise InputError(
            "frozen_statistics is 'encoder', and a vision transformer has no statistics; use none, "
            "or all for those of the head"
        )
    if config.loss.coordinates < 2:
        raise InputError(
            f"loss.coordinates is {config.loss.coordinates}; it must be at least 2, over which the "
            "decoder's head is normalised"
        )


def evaluation_protocol(config: ml_collections.ConfigDict) -> Protocol:
    """Returns how photographs are shown to the network in an evaluation.

    Raises:
        InputError: `config.eval` asks for what does not exist; names the key.
    """
    names = [field.name for field in dataclasses.fields(Protocol) if field.name in config.eval]
    try:
        return Protocol(**{name: config.eval[name] for name in names})
    except InputError as error:
        raise InputError(f"config.eval: {error}") from error
