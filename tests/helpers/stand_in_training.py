"""The training loop in seconds, with a network of three numbers in the place of MaSSFormer.

`python -m tests.helpers.stand_in_training --config=… …` is the command line of
`massformer_jax.main` with this network. What a step computes depends on all crops of all processes
and on their order, as with the real network.
"""

import os
import sys
import time

import jax
import jax.numpy as jnp
import optax

from massformer_jax import main
from massformer_jax.metrics.counts import Counts, zero_counts
from massformer_jax.parallel import sharding
from massformer_jax.training import evaluation, loop
from massformer_jax.training.state import TrainState
from massformer_jax.training.step import keep_finite

LOSSES = ("loss_cls", "loss_mask", "loss_dice", "edge_loss")
BAD_STEP = int(os.environ.get("STAND_IN_BAD_STEP", "0"))  # its loss is not a number
PAUSE = float(os.environ.get("STAND_IN_PAUSE", "0"))  # seconds a step takes at least


def init_state(key, architecture, optimizer):
    params = {"colour": jnp.zeros(3)}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, {"seen": jnp.zeros(())}, optimizer.init(params), zero)


def abstract_state(architecture, optimizer):
    return jax.eval_shape(lambda key: init_state(key, architecture, optimizer), jax.random.key(0))


def training_step(architecture, optimizer, mesh, *, on_nonfinite, **_):
    whole, split = sharding.replicated(mesh), sharding.batch_sharded(mesh)

    def step(state, batch):
        b, *_ = batch["label"].shape
        colours = batch["image"].astype(jnp.float32).mean((1, 2)) / 255
        weights = 1 + jnp.arange(b, dtype=jnp.float32)

        def loss(params):
            return (weights[:, None] * (params["colour"][None] - colours) ** 2).sum()

        value, grads = jax.value_and_grad(loss)(state.params)
        if BAD_STEP:
            value = jnp.where(state.step + 1 == BAD_STEP, jnp.nan, value)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        seen = {"seen": state.batch_stats["seen"] + colours.sum()}
        after = TrainState(state.step + 1, params, seen, opt_state, state.skipped)
        norm = jnp.linalg.norm(grads["colour"])
        state = keep_finite(state, after, jnp.isfinite(value), on_nonfinite)
        terms = {"loss": value, **dict.fromkeys(LOSSES, value), "gradient_norm": norm}
        return state, {**terms, "skipped": state.skipped.astype(jnp.float32)}

    jitted = jax.jit(
        step, in_shardings=(whole, split), out_shardings=(whole, whole), donate_argnums=0
    )

    def slow(state, batch):
        time.sleep(PAUSE)
        return jitted(state, batch)

    return slow


def evaluation_function(architecture, mesh, *, dtype, protocol):
    """Predicts one class everywhere, which a parameter and the photograph's first pixel give."""

    def counts(found, labels):
        """Counts pixels alone, without boundaries and contours, which take long to compile."""
        pixels = jnp.bincount(labels.ravel(), length=7)
        fields = [jnp.zeros(field.shape[1:], jnp.int32) for field in zero_counts()]
        return Counts(jnp.zeros((7, 7), jnp.int32).at[:, found].set(pixels), *fields[1:])

    @jax.jit
    def step(params, batch_stats, images, labels):
        brightness = params["colour"][0] + images[:, 0, 0, 0].astype(jnp.float32) / 255
        found = (7 * brightness).astype(jnp.uint8) % 7
        predictions = jnp.broadcast_to(found[:, None, None], labels.shape)
        return predictions, jax.vmap(counts)(found, labels)

    return step


def install(patch=setattr):
    """Puts the stand-in into its place; `patch` has the arguments of `monkeypatch.setattr`."""
    for name in ("init_state", "abstract_state", "training_step"):
        patch(loop, name, globals()[name])
    patch(evaluation, "evaluation_function", evaluation_function)


if __name__ == "__main__":
    install()
    sys.exit(main.main())
