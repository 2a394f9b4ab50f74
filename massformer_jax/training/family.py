"""What a run of one family of networks hands on otherwise than a run of the other.

MaSSFormer is trained with crops of photographs, CoordFormer with whole ones and coordinates that
are drawn of them.
"""

from typing import Any

import grain
import jax
import ml_collections

from massformer_jax.data import pipeline, whole
from massformer_jax.models.build import is_coordformer
from massformer_jax.models.coordformer import SIDE
from massformer_jax.models.picture_size import trained_pictures
from massformer_jax.training.label_trust import annotations_of, trust_of


def input_batches(config: ml_collections.ConfigDict) -> grain.DatasetIterator:
    """Returns this process's share of the batches.

    See `pipeline.train_dataset` and `whole.coordinate_dataset`.
    """
    shared = {
        "split": config.data.split,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "host_index": jax.process_index(),
        "host_count": jax.process_count(),
        "num_threads": config.data.threads,
        "on_bad_record": config.data.on_bad_record,
    }
    if _at_coordinates(config):
        batches = whole.coordinate_dataset(
            config.data.data_dir,
            side=config.architecture.get("side", SIDE),
            coordinates=config.loss.coordinates,
            **shared,
        )
    else:
        batches = pipeline.train_dataset(
            config.data.data_dir,
            crop_size=config.data.crop_size,
            short_edges=config.data.short_edges,
            max_long_edge=config.data.max_long_edge,
            crops_per_decode=config.data.crops_per_decode,
            annotations=annotations_of(config),
            **shared,
        )
    return iter(batches)


def set_position(
    batches: grain.DatasetIterator, config: ml_collections.ConfigDict, step: int
) -> None:
    """Moves the batches to where a run is that has done `step` steps."""
    batches.set_state(
        pipeline.stream_position(
            step,
            batch_size=config.batch_size,
            host_count=jax.process_count(),
            crops_per_decode=config.data.get("crops_per_decode", 1),
        )
    )


def step_settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the arguments of `step.training_step` that the other family does not have.

    Raises:
        InputError: `config.labels` asks for what is not possible; names the key.
    """
    if _at_coordinates(config):
        return {}
    return {"trust": trust_of(config), **config.loss}


def meant_pictures(config: ml_collections.ConfigDict) -> tuple[int, int] | None:
    """Returns the (height, width) of the pictures that the weights will be meant for, if known.

    CoordFormer sees photographs of any size squeezed to one, and their pixels as they are.
    """
    if _at_coordinates(config):
        return None
    return trained_pictures(config.data.short_edges)


def _at_coordinates(config: ml_collections.ConfigDict) -> bool:
    return is_coordformer(config.architecture.to_dict())
