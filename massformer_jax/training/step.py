"""One step of training: gradient of the loss, optimizer, running statistics."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool

from massformer_jax.compilation import announce
from massformer_jax.models.build import compute_params, model_graph
from massformer_jax.models.recomputation import recomputing
from massformer_jax.ops.precision import computation, computing
from massformer_jax.parallel import sharding
from massformer_jax.training.accumulation import accumulated, in_parts
from massformer_jax.training.average import moved
from massformer_jax.training.losses import total
from massformer_jax.training.objective import objective_of
from massformer_jax.training.optimizer import gradient_norm
from massformer_jax.training.state import TrainState


def training_step(
    architecture: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    dtype: str,
    on_nonfinite: str = "halt",
    remat: bool = False,
    frozen_statistics: str = "none",
    accumulate: int = 1,
    average: float = 0.0,
    shardings: TrainState | None = None,
    **settings: Any,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """Returns a jitted function, step(state, batch) -> (state, scalars).

    The batch is one of the network's objective, see `massformer_jax.training.objective`; split over
    all devices. The state is donated. The scalars are the loss terms, their sum `loss`, the norm of
    the gradient before clipping, and `skipped` of the new state, all float32.

    A step whose loss or gradient is not finite is not applied, but counted as `skipped`.

    Args:
        architecture: keyword arguments of MaSSFormer or CoordFormer.
        optimizer: of `massformer_jax.training.optimizer.recipe_optimizer`.
        mesh: of `massformer_jax.parallel.sharding.make_mesh`.
        seed: decides what the objective draws.
        dtype: what the network computes in, one of `massformer_jax.ops.precision.DTYPES`.
            Parameters, statistics, coordinates, losses and the optimizer are always float32.
        on_nonfinite: "skip" goes on after a step that was not applied; with "halt" no later one is
            applied either, so that the state stays what it was before, also its number of steps.
        remat: compute the network's intermediate maps again in the backward pass, stage by stage
            (`massformer_jax.models.recomputation`): less memory for more time
            (docs/performance.md). The step is the same.
        frozen_statistics: which BatchNorms normalise by their running statistics, and leave these
            as they are: "none", as released; those of the "encoder"; or "all".
        accumulate: number of parts in which the batch is computed, one after the other. The losses
            are those of the whole batch, but BatchNorms that are not frozen normalise each part by
            its own statistics, and move their running ones once a part.
        average: decay of the moving average of the weights, for a state that has one.
        shardings: where the state lies, see `massformer_jax.parallel.sharding.state_shardings`;
            replicated if None.
        **settings: of the objective: `points` and others of `objective.mask_objective`; none of
            CoordFormer.

    Raises:
        InputError: there is no such dtype.
    """
    arrays = computation(dtype).arrays
    graph = model_graph(architecture, training=True, frozen_statistics=frozen_statistics)
    objective = objective_of(architecture, **settings)
    replicated, batch_sharded = sharding.replicated(mesh), sharding.batch_sharded(mesh)
    placed = replicated if shardings is None else shardings

    def step(state, batch):
        announce(f"training steps of {objective.examples(batch)}")
        # What is drawn depends on the seed and the step alone: a continued run draws the same.
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        drawn = objective.draw(key, batch)

        def forward(params, batch_stats, batch):
            # Split parameters are gathered, once a step and in the compute dtype. Left alone, the
            # compiler may move activations instead, which are larger.
            params = jax.lax.with_sharding_constraint(compute_params(params, arrays), replicated)
            network = nnx.merge(graph, params, batch_stats, copy=True)
            with recomputing(remat):
                answers = objective.answers(network, batch, arrays)
            _, _, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)
            return answers, nnx.to_pure_dict(batch_stats)

        def gradient(batch_stats, part, whole=None):
            batch, drawn = part

            def loss(params):
                answers, after = forward(params, batch_stats, batch)
                terms = objective.terms(answers, batch, drawn, whole)
                return total(terms), (terms, after)

            return jax.grad(loss, has_aux=True)(state.params)

        if accumulate == 1:
            with computing(dtype), sharding.training_on(mesh):
                grads, (terms, batch_stats) = gradient(state.batch_stats, (batch, drawn))
        else:
            gradient = functools.partial(gradient, whole=objective.whole(batch))
            parts = (
                in_parts(batch, accumulate, mesh),
                in_parts(drawn, accumulate, mesh, axis=1),
            )
            with computing(dtype), sharding.training_on(mesh):
                grads, (terms, batch_stats) = accumulated(gradient, state.batch_stats, parts)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        scalars = {"loss": total(terms), **terms, "gradient_norm": gradient_norm(opt_state)}
        mean = moved(state.average, params, batch_stats, decay=average, step=state.step)
        after = TrainState(state.step + 1, params, batch_stats, opt_state, state.skipped, mean)
        finite = jnp.isfinite(scalars["loss"]) & jnp.isfinite(scalars["gradient_norm"])
        state = keep_finite(state, after, finite, on_nonfinite)
        return state, {**scalars, "skipped": state.skipped.astype(jnp.float32)}

    return jax.jit(
        step,
        in_shardings=(placed, batch_sharded),
        out_shardings=(placed, replicated),
        donate_argnums=0,
    )


def keep_finite(
    before: TrainState, after: TrainState, finite: Bool[Array, ""], on_nonfinite: str
) -> TrainState:
    """Returns the state after a step: `after`, or what the policy says if the step was not finite.

    Args:
        before: the state that the step began with.
        after: the one that it ended with.
        finite: whether that may be used.
        on_nonfinite: see `training_step`.
    """
    applied = finite
    if on_nonfinite == "halt":
        applied &= before.skipped == 0
    kept = jax.tree.map(lambda new, old: jnp.where(applied, new, old), after, before)
    step = kept.step if on_nonfinite == "halt" else after.step
    return kept._replace(step=step, skipped=before.skipped + (~applied).astype(jnp.int32))
