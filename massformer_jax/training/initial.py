"""The weights that a training run starts from, `config.init_from`."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from massformer_jax.classes import are_numbered
from massformer_jax.convert.vit import read_vit
from massformer_jax.convert.weights import is_encoder, recognise, weights_of
from massformer_jax.convert.weights_file import read_weights
from massformer_jax.errors import InputError
from massformer_jax.files import Place, place, some_of
from massformer_jax.models.build import abstract_weights, class_head, is_coordformer
from massformer_jax.models.coordformer import has_coarse_maps
from massformer_jax.models.hub import local_file
from massformer_jax.models.weights import Weights, load_weights
from massformer_jax.parallel.processes import say
from massformer_jax.training.checkpoint import has_state
from massformer_jax.training.state import TrainState
from massformer_jax.tree import differing_keys


class KnownClasses(NamedTuple):
    """Columns of the class head that are taken where the weights are of other classes.

    Attributes:
        head: path of the head's parameters; the last axis of each has a column for every class.
        ours: columns of the model that starts.
        theirs: those of the weights that stand for the same, in this order.
    """

    head: str
    ours: tuple[int, ...]
    theirs: tuple[int, ...]


class Initial(NamedTuple):
    """Weights of some parts of the network: trees that lack the others."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    message: str  # what was taken and what stays freshly initialised
    known: KnownClasses | None = None  # of a class head of other classes, if any is the same


def initial_weights(
    config: ml_collections.ConfigDict, workdir: Place, classes: Sequence[str] = ()
) -> Initial | None:
    """Returns what a new run starts from; None for nothing, or if the run has begun already.

    Raises:
        InputError: see `read_initial`; or statistics are to be frozen that are not there.
    """
    if has_state(workdir):
        return None
    frozen = config.frozen_statistics
    if not config.init_from:
        if frozen != "none":
            raise InputError(
                f"frozen_statistics is {frozen!r}, and there are none without init_from; name "
                "weights there, or use frozen_statistics=none"
            )
        return None
    architecture = config.architecture.to_dict()
    initial = read_initial(config.init_from, architecture, classes)
    if frozen == "all" and not initial.batch_stats.keys() - {"backbone"}:
        raise InputError(
            f"frozen_statistics is 'all', and {config.init_from} holds those of the encoder alone; "
            "use frozen_statistics=encoder"
        )
    return initial


def read_initial(
    path: str | os.PathLike, architecture: Mapping[str, Any], classes: Sequence[str] = ()
) -> Initial:
    """Reads what a run of this model can start from.

    Args:
        path: a workdir, converted weights, a file that `massformer_jax.convert` reads, or a name of
            the Hub that stands for weights or for a .safetensors file. It holds the same model, or
            an encoder of the same depth; or, for CoordFormer, its encoder: the file that
            `convert.vit` reads, or a MaSSFormer. Of a class head of other classes, those are taken
            that have the same name.
        architecture: keyword arguments of MaSSFormer or CoordFormer.
        classes: names of the dataset's classes; without any, only their number is compared.

    Raises:
        InputError: it is none of these, or holds another model; names it.
    """
    weights = _read(path, architecture)
    on_massformer = has_coarse_maps(architecture.get("encoder", {}))
    if on_massformer and not is_coordformer(weights.architecture):
        weights = _as_encoder(weights, architecture)
    for key, theirs, ours in differing_keys(weights.architecture, architecture):
        if key != "classes":
            raise InputError(
                f"init_from: {path} has architecture.{key}={theirs}, the config {ours}; use "
                "weights of the same architecture"
            )
    count = weights.architecture.get("classes")
    if count is None:
        fresh = "all but the encoder is freshly initialised"
    elif count == architecture["classes"] and (
        not classes or are_numbered(weights.classes) or weights.classes == tuple(classes)
    ):
        fresh = "nothing is freshly initialised"
    else:
        return _with_other_classes(path, weights, architecture, classes)
    return Initial(weights.params, weights.batch_stats, f"starts from {path}; {fresh}")


def known_classes(
    architecture: Mapping[str, Any], classes: Sequence[str], theirs: Sequence[str]
) -> KnownClasses | None:
    """Returns the columns of a class head whose classes the weights know by the same name.

    Args:
        architecture: that of the model that starts.
        classes: the names of its classes.
        theirs: those of the weights.
    """
    names = [name for name in classes if name in theirs]
    if not names or are_numbered(theirs):
        return None
    ours, others = [[of.index(name) for name in names] for of in (list(classes), list(theirs))]
    if not is_coordformer(architecture):
        # The last column says that a query finds nothing, which is the same of any classes.
        ours, others = [*ours, len(classes)], [*others, len(theirs)]
    return KnownClasses(class_head(architecture), tuple(ours), tuple(others))


def _with_other_classes(
    path: str | os.PathLike,
    weights: Weights,
    architecture: Mapping[str, Any],
    classes: Sequence[str],
) -> Initial:
    head = class_head(architecture)
    params, known = weights.params, known_classes(architecture, classes, weights.classes)
    if known is None:
        params = _without(params, head)
        fresh = (
            f"the class head ({head}) is freshly initialised, for {architecture['classes']} "
            f"classes instead of {weights.architecture['classes']}"
        )
        if architecture["classes"] == weights.architecture["classes"]:
            fresh = (
                f"the class head ({head}) is freshly initialised, since the weights have other "
                f"classes: {some_of(weights.classes, 8)}"
            )
    else:
        taken = [name for name in classes if name in weights.classes]
        new = [name for name in classes if name not in weights.classes]
        fresh = (
            f"of the class head ({head}), {some_of(taken, 8)} are kept, and freshly initialised: "
            f"{some_of(new, 8) or 'nothing'}"
        )
    return Initial(params, weights.batch_stats, f"starts from {path}; {fresh}", known)


def start(state: TrainState, initial: Initial) -> TrainState:
    """Returns the state with these parts in place of its own, where its own lie."""
    parts = (initial.params, initial.batch_stats)
    own = (state.params, state.batch_stats)
    held = tuple(_part_of(tree, part) for part, tree in zip(parts, own, strict=True))

    def taken(parts, held):
        # Copied by the program, so that nothing else holds the buffers when a step donates them.
        params, batch_stats = jax.tree.map(jnp.copy, parts)
        if initial.known is not None:
            params = with_known_classes(params, held[0], initial.known)
        return params, batch_stats

    where = jax.tree.map(lambda x: x.sharding, held)
    params, batch_stats = (
        _replaced(tree, part)
        for part, tree in zip(jax.jit(taken, out_shardings=where)(parts, held), own, strict=True)
    )
    return state._replace(params=params, batch_stats=batch_stats)


def with_known_classes(theirs: Any, ours: Any, known: KnownClasses) -> Any:
    """Returns their parameters with our class head, in which the known classes are theirs."""
    keys = known.head.split("/")
    head = jax.tree.map(
        lambda mine, other: mine.at[..., np.array(known.ours)].set(
            other[..., np.array(known.theirs)]
        ),
        *(functools.reduce(lambda tree, key: tree[key], keys, tree) for tree in (ours, theirs)),
    )
    return _replaced(theirs, functools.reduce(lambda tree, key: {key: tree}, keys[::-1], head))


def _part_of(tree: Any, part: Any) -> Any:
    """Returns of a tree what stands where a part of it has something."""
    if not isinstance(part, Mapping):
        return tree
    return {key: _part_of(tree[key], value) for key, value in part.items()}


def _replaced(tree: Any, part: Any) -> Any:
    """Returns a tree with a part of it in the place of its own."""
    if not isinstance(part, Mapping):
        return part
    return {**tree, **{key: _replaced(tree[key], value) for key, value in part.items()}}


def _without(tree: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Returns a tree without what is at a path."""
    key, _, rest = path.partition("/")
    kept = {name: value for name, value in tree.items() if name != key}
    return {**kept, key: _without(tree[key], rest)} if rest else kept


def _as_encoder(weights: Weights, architecture: Mapping[str, Any]) -> Weights:
    """Returns what of a MaSSFormer, or of its encoder alone, is the encoder of a CoordFormer."""
    encoder = architecture["encoder"]
    known = {key: value for key, value in weights.architecture.items() if key in encoder}

    def part(tree, like):
        return {
            name: {key: value for key, value in tree[name].items() if key in like[name]}
            for name in like
            if name in tree
        }

    params, batch_stats = (
        {"backbone": part(tree, like["backbone"])}
        for tree, like in zip(
            (weights.params, weights.batch_stats), abstract_weights(architecture), strict=True
        )
    )
    return weights._replace(architecture={"encoder": known}, params=params, batch_stats=batch_stats)


def _read(path: str | os.PathLike, architecture: Mapping[str, Any]) -> Weights:
    named, path = path, local_file(path, (".safetensors",))
    if place(path).is_dir():
        device = jax.local_devices(backend="cpu")[0]
        sharding = jax.sharding.SingleDeviceSharding(device)
        weights = load_weights(path, sharding, encoder=True)
        # The step's program may run on other devices.
        params, batch_stats = jax.device_get((weights.params, weights.batch_stats))
        return weights._replace(params=params, batch_stats=batch_stats)
    if is_coordformer(architecture) and not has_coarse_maps(architecture["encoder"]):
        backbone = read_vit(named, architecture["encoder"])
        only = {"encoder": architecture["encoder"]}
        return Weights(0, only, (), {"backbone": backbone}, {})
    source = read_weights(path)
    for note in source.notes:
        say(f"{path}: {note}")
    known = recognise(source.tensors) or is_encoder(source.tensors) or is_coordformer(architecture)
    return weights_of(source, None if known else architecture)
