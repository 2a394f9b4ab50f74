"""The state that training carries from step to step, and how it begins."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from massformer_jax.models.build import abstract_key, init_weights


class TrainState(NamedTuple):
    """The state of a run, in plain trees of arrays.

    Attributes:
        step: number of steps done.
        params: the parameters.
        batch_stats: the running statistics of the BatchNorms.
        opt_state: the state of the optimizer.
        skipped: number of steps that were not applied, since something was not finite.
        average: {params, batch_stats} averaged over the steps, see `training.average`; or None.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any
    skipped: Int[Array, ""]
    average: Any = None


def init_state(
    key: Key[Array, ""], architecture: Mapping[str, Any], optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns the state before the first step.

    It is meant to be jitted, so that every array is made where it belongs.
    """
    params, batch_stats = init_weights(key, architecture)
    opt_state = optimizer.init(params)
    return TrainState(
        jnp.zeros((), jnp.int32), params, batch_stats, opt_state, jnp.zeros((), jnp.int32)
    )


def abstract_state(
    architecture: Mapping[str, Any], optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns shapes and dtypes of the state."""
    init = functools.partial(init_state, architecture=architecture, optimizer=optimizer)
    return jax.eval_shape(init, abstract_key())
