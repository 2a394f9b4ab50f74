"""The exponential moving average of the weights, which evaluations and predictions use."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from massformer_jax.training.state import TrainState


def begun(state: TrainState) -> TrainState:
    """Returns the state with an average that begins with its weights; works on shapes, too."""
    copy = jax.tree.map(
        lambda x: x if isinstance(x, jax.ShapeDtypeStruct) else jnp.copy(x),
        {"params": state.params, "batch_stats": state.batch_stats},
    )
    return state._replace(average=copy)


def moved(
    average: Any, params: Any, batch_stats: Any, *, decay: float, step: Int[Array, ""]
) -> Any:
    """Returns the average after a step: decay · average + (1 - decay) · weights.

    In the first steps the decay is (1 + step) / (10 + step), if that is less: else a short run
    would end with an average that is mostly its beginning. Running statistics are averaged as well,
    since they belong to the weights.

    Args:
        average: the average before; None for none, and then this is None.
        params: the parameters after the step.
        batch_stats: the running statistics after the step.
        decay: of the average, 0..1.
        step: number of the steps that were done before.
    """
    if average is None:
        return None
    share = 1 - _decay(decay, step)
    weights = {"params": params, "batch_stats": batch_stats}

    def move(old, new):
        return old + share.astype(old.dtype) * (new - old)

    return jax.tree.map(move, average, weights)


def evaluated(state: TrainState) -> tuple[Any, Any]:
    """Returns the (params, batch_stats) to evaluate and keep: the average, if there is one."""
    if state.average is None:
        return state.params, state.batch_stats
    return state.average["params"], state.average["batch_stats"]


def _decay(decay: float, step: Int[Array, ""]) -> Float[Array, ""]:
    done = step.astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + done) / (10 + done))
