"""Architectures, and what is built from one: the network's structure, its weights, their shapes.

An architecture is a dictionary of the keyword arguments of `MaSSFormer`, or of `CoordFormer`, whose
has an `encoder`. Weights are two trees of plain arrays, `params` and `batch_stats`.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Key, PyTree

from massformer_jax.errors import InputError
from massformer_jax.models.coordformer import SIDE, CoordFormer
from massformer_jax.models.coordinate_architecture import check_coordformer, wrong_depth
from massformer_jax.models.massformer import MaSSFormer
from massformer_jax.models.resnet import BLOCKS, ResNet
from massformer_jax.models.vit import ENCODERS, ViT
from massformer_jax.tree import leaves_by_path

_HEADS = 8  # of MaSSFormer's attention; they divide the decoder's width

# The released models.
ARCHITECTURES = {
    "massformer_r50": {
        "encoder_depth": 50,
        "decoder_width": 128,
        "ffn_width": 2048,
        "layers": 6,
        "queries": 100,
        "classes": 7,
    },
    "massformer_r18_lite": {
        "encoder_depth": 18,
        "decoder_width": 64,
        "ffn_width": 1024,
        "layers": 6,
        "queries": 100,
        "classes": 7,
    },
}

# CoordFormer with the encoders of the paper; nobody has released one.
COORDFORMERS = {
    f"coordformer_{name}": {
        "encoder": encoder,
        "decoder_width": encoder["features"],
        "heads": encoder["heads"],
        "head_width": encoder["features"] * 2 // 3,
        "classes": 7,
        "side": SIDE // encoder["patch"] * encoder["patch"],
    }
    for name, encoder in ENCODERS.items()
}
# The same decoder on the maps of the released models, which is ours.
COORDFORMERS |= {
    f"coordformer_on_{name}": {
        "encoder": {**{key: found[key] for key in ("encoder_depth", "decoder_width")}, "map": "d3"},
        "decoder_width": 2 * found["decoder_width"],  # that of the memories and queries there
        "heads": _HEADS,
        "head_width": 128,
        "classes": 7,
        "side": SIDE,
    }
    for name, found in ARCHITECTURES.items()
}


def architecture(
    name: str, among: Mapping[str, Mapping[str, Any]] = ARCHITECTURES
) -> dict[str, Any]:
    """Returns an architecture by its name.

    Args:
        name: of the model.
        among: those that there are: the released ones, or `COORDFORMERS`.

    Raises:
        InputError: there is no such name.
    """
    if name not in among:
        raise InputError(f"there is no model {name!r}; use one of {', '.join(among)}")
    return dict(among[name])


def is_coordformer(architecture: Mapping[str, Any]) -> bool:
    """Tells whether a network is a CoordFormer; else it is a MaSSFormer."""
    return "encoder" in architecture


def class_head(architecture: Mapping[str, Any]) -> str:
    """Returns the path of the parameters whose shapes follow from the number of classes."""
    return "decoder/classify" if is_coordformer(architecture) else "cls_embed"


FROZEN_STATISTICS = ("none", "encoder", "all")
# The smallest and the largest value of all arguments but the depth. Beyond the largest no model is
# built in a reasonable time, and a label is a byte of which 255 says "ignored".
_LIMITS = {
    "decoder_width": (8, 4096),
    "ffn_width": (1, 2**16),
    "layers": (1, 64),
    "queries": (1, 10_000),
    "classes": (1, 255),
}


def check_architecture(architecture: Mapping[str, Any], *, training: bool = False) -> None:
    """Checks that MaSSFormer(**architecture) can be built.

    Args:
        architecture: keyword arguments of MaSSFormer; of an encoder alone only `encoder_depth`.
        training: whether it is also to be trained, which gives each class of a photograph a query
            of its own.

    Raises:
        InputError: it cannot; names the key, as `architecture.KEY`.
    """
    if not isinstance(architecture, Mapping):
        raise InputError(
            f"architecture is {str(architecture)[:40]!r}; it must have keys and values"
        )
    if is_coordformer(architecture):
        check_coordformer(architecture)
        return
    known = ("encoder_depth", *_LIMITS)
    unknown = sorted(str(key) for key in architecture if key not in known)
    missing = [key for key in known if key not in architecture]
    if unknown:
        raise InputError(f"there is no architecture.{unknown[0][:40]}; use {', '.join(known)}")
    if missing and (training or set(architecture) != {"encoder_depth"}):
        raise InputError(f"architecture.{missing[0]} is missing")
    for key, value in architecture.items():
        if type(value) is not int:
            raise InputError(
                f"architecture.{key} is {str(value)[:40]!r}; it must be a whole number"
            )
    if architecture["encoder_depth"] not in BLOCKS:
        raise InputError(wrong_depth("encoder_depth", architecture["encoder_depth"]))
    for key, (least, most) in _LIMITS.items():
        if key in architecture and not least <= architecture[key] <= most:
            raise InputError(
                f"architecture.{key} is {architecture[key]}; it must be {least} to {most}"
            )
    if architecture.get("decoder_width", _HEADS) % _HEADS:
        raise InputError(
            f"architecture.decoder_width is {architecture['decoder_width']}; it must be a multiple "
            f"of {_HEADS}"
        )
    if training and architecture["queries"] < architecture["classes"]:
        raise InputError(
            f"architecture.queries is {architecture['queries']}; it must be at least the number of "
            f"classes, {architecture['classes']}"
        )


def model_graph(
    architecture: Mapping[str, Any], *, training: bool, frozen_statistics: str = "none"
) -> nnx.GraphDef:
    """Returns the structure of the network, without weights.

    Args:
        architecture: keyword arguments of MaSSFormer or CoordFormer.
        training: whether to normalise with batch statistics and update the running ones.
        frozen_statistics: one of `FROZEN_STATISTICS`: where to use the running ones in training.

    Raises:
        InputError: there is no such model; see `check_architecture`.
    """
    check_architecture(architecture)
    abstract = nnx.eval_shape(lambda: _network(jax.random.key(0), architecture))
    running = not training or frozen_statistics == "all"
    network = nnx.view(abstract, use_running_average=running)
    if frozen_statistics == "encoder":
        network.backbone = nnx.view(network.backbone, use_running_average=True)
    graph, _, _ = nnx.split(network, nnx.Param, nnx.BatchStat)
    return graph


def family_name(architecture: Mapping[str, Any]) -> str:
    """Returns what the network is called."""
    return "CoordFormer" if is_coordformer(architecture) else "MaSSFormer"


def answers_at_coordinates(graph: nnx.GraphDef) -> bool:
    """Tells whether a network is asked for labels at coordinates; others answer for all pixels."""
    return graph.nodes[0].type is CoordFormer


def init_weights(key: Key[Array, ""], architecture: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns fresh (params, batch_stats) of the network: nested dicts of arrays."""
    return _weights(_network(key, architecture))


def _network(key: Key[Array, ""], architecture: Mapping[str, Any]) -> MaSSFormer | CoordFormer:
    family = CoordFormer if is_coordformer(architecture) else MaSSFormer
    return family(**architecture, rngs=_rngs(key))


def _weights(network: nnx.Module) -> tuple[Any, Any]:
    # Without `...` at the end: a kind of state this code does not know would raise here.
    _, params, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def compute_params(params: Any, dtype: DTypeLike) -> Any:
    """Returns the parameters as the network computes with them: cast to `dtype`.

    Norms and the convolutions that predict coordinates keep theirs, float32. The cast is inside the
    loss that is differentiated, so gradients and the optimizer see float32.
    """
    paths = marked_paths(params).values()
    leaves, structure = jax.tree.flatten(params)
    kept = (re.search(r"\bnorm\.|dcn_offset", path) for path in paths)
    cast = (x if keep else x.astype(dtype) for x, keep in zip(leaves, kept, strict=True))
    return jax.tree.unflatten(structure, cast)


def abstract_weights(architecture: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns shapes and dtypes of (params, batch_stats).

    Raises:
        InputError: there is no such model; see `check_architecture`.
    """
    check_architecture(architecture)
    return jax.eval_shape(
        functools.partial(init_weights, architecture=architecture), abstract_key()
    )


def abstract_encoder(depth: int) -> tuple[Any, Any]:
    """Returns shapes and dtypes of the encoder's (params, batch_stats), under `backbone`.

    Raises:
        InputError: there is no encoder of this depth.
    """
    check_architecture({"encoder_depth": depth})
    params, batch_stats = jax.eval_shape(
        lambda key: _weights(ResNet(depth, rngs=_rngs(key))), abstract_key()
    )
    return {"backbone": params}, {"backbone": batch_stats}


def abstract_vit(encoder: Mapping[str, Any]) -> Any:
    """Returns shapes and dtypes of the parameters of ViT(**encoder)."""
    return jax.eval_shape(lambda key: _weights(ViT(**encoder, rngs=_rngs(key)))[0], abstract_key())


def abstract_key() -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of a random key."""
    # A key itself would be a program to compile.
    return jax.eval_shape(jax.random.key, 0)


def marked_paths(tree: PyTree[Any]) -> dict[str, str]:
    """Returns for the path of every leaf the same path, where norms are marked as such.

    The last part of a norm's path becomes `norm.scale` or `norm.bias`. Only norms have a scale, so
    a bias beside a scale is a norm's.
    """
    paths = leaves_by_path(tree)
    norms = {path.removesuffix("scale") for path in paths if path.split("/")[-1] == "scale"}
    marked = {}
    for path in paths:
        parent, name = re.fullmatch(r"(.*/|)([^/]+)", path).groups()
        marked[path] = f"{parent}norm.{name}" if parent in norms else path
    return marked


class _Keys(nnx.RngStream):
    """A stream of `nnx.Rngs` whose keys are counted by Python.

    The original counts them in an array. When it is traced, each count makes JAX search all that
    was traced before for a message that nobody sees: the shapes of a network then take 1.6 s
    instead of 0.3 s (two cores of an AMD EPYC, jax 0.10.2, flax 0.12.8, 2026-11-26).
    """

    drawn = 0

    def __call__(self) -> Key[Array, ""]:
        """Returns the next key."""
        self.drawn += 1
        return jax.random.fold_in(self.key[...], self.drawn - 1)


def _rngs(key: Key[Array, ""]) -> nnx.Rngs:
    rngs = nnx.Rngs(params=key)
    rngs.params = _Keys(key, tag="params")
    return rngs
