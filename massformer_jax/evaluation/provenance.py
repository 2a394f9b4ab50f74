"""Where an evaluation comes from: which model, which photographs, when, by which command."""

import dataclasses
import datetime
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import massformer_jax
from massformer_jax.models.flops import network_size

# Numbers of photographs of the released splits (CVPR 2025, arXiv 2503.18364).
PHOTOGRAPHS = {"train": 11348, "val": 500, "test": 1500}
_PAPER_NAMES = {"train": "train", "validation": "val", "test": "test"}  # by those of the dataset

# Names in the release consist of number, batch, date, place, camera id, size and a rating.
_NAME = re.compile(r"\d+_b\d+_\d{8}_.+_id\d+_(\d+)x(\d+)_K\d+")
_LEAST_PIXELS = 6_000_000  # the release's are of about 10 megapixels, rendered samples of 0.3
# Most, not all: few names of the release are known, and there may be odd ones.
_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Model:
    """What is known of the model that is evaluated.

    Attributes:
        checkpoint: folder of the weights: STEP/ in a workdir or in converted weights.
        step: step of the weights.
        architecture: keyword arguments of MaSSFormer.
        config: all keys of the config, as JSON holds them.
        source: of converted weights, where they came from.
    """

    checkpoint: str
    step: int
    architecture: Mapping[str, Any]
    config: Mapping[str, Any]
    source: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What is known of the photographs or label maps that a model is evaluated on.

    Attributes:
        folder: where they are.
        name: name and version of the dataset, if it has one.
        split: data split as the user named it, if at all.
    """

    folder: str
    name: str | None = None
    split: str | None = None


def mass13k_split(
    names: Sequence[str], sizes: Sequence[tuple[int, int]], split: str | None
) -> tuple[str | None, str]:
    """Tells whether images are all those of a split of MaSS13K, by their number, names and sizes.

    The release has no list of its files to compare with. So a copy at full size under the same
    names passes, and rendered samples, reduced copies, parts of a split and other datasets do not.

    Args:
        names: file names of the photographs or label maps; folders and suffixes do not matter.
        sizes: (height, width) of each in pixels.
        split: what the user says that they are: a split of the dataset, which may be a slice as
            "train[:500]", or the paper's name of one, "val"; None if nothing was said.

    Returns:
        The paper's name of the split and an empty text, or None and the reason.
    """
    count = len(names)
    if split is None:
        claimed = next((name for name, number in PHOTOGRAPHS.items() if number == count), None)
    else:
        base = re.split(r"[\[+]", split)[0]
        claimed = _PAPER_NAMES.get(base, base)
    if claimed not in PHOTOGRAPHS:
        told = f"{count} images" if split is None else f"the split {split!r}"
        return None, f"{told}, and MaSS13K has {_listed()}"
    if count != PHOTOGRAPHS[claimed]:
        return None, f"{count} images, and MaSS13K's {claimed} has {PHOTOGRAPHS[claimed]}"
    sound = sum(map(_is_released, names, sizes))
    if sound < _SHARE * count:
        return None, f"only {sound} of {count} images have names and sizes as MaSS13K's"
    return claimed, ""


def provenance(
    dataset: Dataset,
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    model: Model | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Returns what the JSON of an evaluation holds under `provenance`.

    Args:
        dataset: what was evaluated on.
        names: names of the images.
        sizes: (height, width) of each in pixels.
        model: what was evaluated, if it was a model and not files.
        **more: further facts that JSON can hold.
    """
    split, reason = mass13k_split(names, sizes, dataset.split)
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": massformer_jax.__version__,
        "command": shlex.join(sys.orig_argv),
        **more,
    }
    if model is not None:
        parameters, macs = network_size(model.architecture)
        facts |= {
            "checkpoint": model.checkpoint,
            "step": model.step,
            "architecture": dict(model.architecture),
            "parameters": parameters,
            "macs": macs,
            "config": dict(model.config),
        }
        if model.source is not None:
            facts["source"] = dict(model.source)
    facts["dataset"] = {
        **dataclasses.asdict(dataset),
        "images": len(names),
        "mass13k": split,
        "reason": reason,
    }
    return facts


def provenance_text(facts: Mapping[str, Any]) -> str:
    """Returns what is printed of a provenance: a line, or two for a model."""
    dataset = facts["dataset"]
    named = " ".join(filter(None, (dataset["name"], dataset["split"])))
    whose = (
        f"MaSS13K's {dataset['mass13k']}"
        if dataset["mass13k"]
        else f"not a whole split of MaSS13K: {dataset['reason']}"
    )
    lines = []
    if "checkpoint" in facts:
        lines.append(
            f"{facts['checkpoint']}: {facts['parameters'] / 1e6:.2f} M "
            f"parameters, {facts['macs'] / 1e9:,.0f} GMAC at 4096x3072"
        )
    lines.append(
        f"{f'{named} of ' if named else ''}{dataset['folder']} ({whose}); massformer_jax "
        f"{facts['version']}, {facts['date']}"
    )
    return "\n".join(lines)


def _is_released(name: str, size: tuple[int, int]) -> bool:
    match = _NAME.fullmatch(re.split(r"[/\\]", name)[-1].rsplit(".", 1)[0])
    if not match:
        return False
    # `images_pad` of the release may hold larger photographs than their names say.
    named = int(match[1]) * int(match[2])
    return named >= _LEAST_PIXELS and size[0] * size[1] >= 0.99 * named


def _listed() -> str:
    return ", ".join(f"{name} of {number}" for name, number in PHOTOGRAPHS.items())
