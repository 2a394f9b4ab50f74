"""What training carries from step to step, and how it begins."""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Int, Key

from massformer_jax.models.massformer import MaSSFormer
from massformer_jax.models.resnet import ResNet
from massformer_jax.optim import marked_paths


class _Keys(nnx.RngStream):
    """The keys of a stream of `nnx.Rngs`, counted by Python.

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


class TrainState(NamedTuple):
    """Plain pytrees of arrays: what a checkpoint holds."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any
    skipped: Int[Array, ""]  # steps that were not applied, since something was not finite


def model_graph(model: Mapping[str, Any], *, training: bool) -> nnx.GraphDef:
    """The structure of MaSSFormer(**model), without weights.

    Args:
        model: keyword arguments of MaSSFormer.
        training: normalise with batch statistics and update the running ones.
    """
    abstract = nnx.eval_shape(lambda: MaSSFormer(**model, rngs=_rngs(jax.random.key(0))))
    graph, _, _ = nnx.split(
        nnx.view(abstract, use_running_average=not training), nnx.Param, nnx.BatchStat
    )
    return graph


def init_weights(key: Key[Array, ""], model: Mapping[str, Any]) -> tuple[Any, Any]:
    """Fresh (params, batch_stats) of MaSSFormer(**model), as nested dictionaries of arrays."""
    return _split(MaSSFormer(**model, rngs=_rngs(key)))


def _split(network: nnx.Module) -> tuple[Any, Any]:
    # Without `...` at the end: a kind of state this code does not know would raise here.
    _, params, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def compute_params(params: Any, dtype: DTypeLike) -> Any:
    """The parameters as the network computes with them: cast to `dtype`, the compute dtype.

    Norms and the convolutions that predict coordinates keep theirs, float32. The cast is inside the
    loss that is differentiated, so gradients and the optimizer see float32.
    """
    paths = marked_paths(params).values()
    leaves, structure = jax.tree.flatten(params)
    kept = (re.search(r"\bnorm\.|dcn_offset", path) for path in paths)
    cast = (x if keep else x.astype(dtype) for x, keep in zip(leaves, kept, strict=True))
    return jax.tree.unflatten(structure, cast)


def init_state(
    key: Key[Array, ""], model: Mapping[str, Any], optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step; to be jitted, so that it is born into its shardings."""
    params, batch_stats = init_weights(key, model)
    opt_state = optimizer.init(params)
    return TrainState(
        jnp.zeros((), jnp.int32), params, batch_stats, opt_state, jnp.zeros((), jnp.int32)
    )


def abstract_weights(model: Mapping[str, Any]) -> tuple[Any, Any]:
    """Shapes and dtypes of (params, batch_stats)."""
    return jax.eval_shape(functools.partial(init_weights, model=model), _abstract_key())


def abstract_state(model: Mapping[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of the state."""
    init = functools.partial(init_state, model=model, optimizer=optimizer)
    return jax.eval_shape(init, _abstract_key())


def abstract_encoder(depth: int) -> tuple[Any, Any]:
    """Shapes and dtypes of the encoder's part of (params, batch_stats), under `backbone`."""
    params, batch_stats = jax.eval_shape(
        lambda key: _split(ResNet(depth, rngs=_rngs(key))), _abstract_key()
    )
    return {"backbone": params}, {"backbone": batch_stats}


def _abstract_key() -> jax.ShapeDtypeStruct:
    # A key itself would be a program to compile.
    return jax.eval_shape(jax.random.key, 0)
