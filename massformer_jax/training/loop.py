"""Training, from top to bottom: mesh, data, model, state, steps, evaluation."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from massformer_jax.classes import names_of
from massformer_jax.compilation import announce
from massformer_jax.files import Place, write_atomically
from massformer_jax.parallel import processes, sharding
from massformer_jax.parallel.processes import say
from massformer_jax.training.average import begun
from massformer_jax.training.checkpoint import Checkpoints
from massformer_jax.training.config import validate
from massformer_jax.training.dataset import classes_of, with_classes
from massformer_jax.training.evaluation import Evaluations
from massformer_jax.training.family import (
    input_batches,
    meant_pictures,
    set_position,
    step_settings,
)
from massformer_jax.training.finite import FiniteWatch
from massformer_jax.training.initial import Initial, initial_weights, start
from massformer_jax.training.optimizer import learning_rate, recipe_optimizer
from massformer_jax.training.profiling import Profile, parse_steps
from massformer_jax.training.progress import Progress
from massformer_jax.training.state import TrainState, abstract_state, init_state
from massformer_jax.training.step import training_step
from massformer_jax.training.stopping import Preempted, stop_notice
from massformer_jax.training.workdir import claim


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: Place, continue_from: int | None = None
) -> None:
    """Trains to `config.total_steps`, continuing what `workdir` holds, and evaluates on the way.

    Of several processes all call it; the first one prints and writes what is written once.

    Args:
        config: see `training.config`.
        workdir: folder of the run.
        continue_from: the step whose state is continued; None for the newest.

    Raises:
        InputError: the config cannot be trained here, or the workdir belongs to another one.
        Preempted: the run was asked to stop, and its state is saved.
        NonFiniteLoss: the policy is to halt; the state and the batch are saved.
    """
    mesh = sharding.make_mesh(jax.devices(), config.mesh.to_dict())
    config = with_classes(config)
    validate(config, mesh)
    architecture, total = config.architecture.to_dict(), config.total_steps
    halts = config.on_nonfinite == "halt"
    batches, evaluations = input_batches(config), Evaluations(config, workdir)
    classes = classes_of(config)
    initial = initial_weights(config, workdir, names_of(classes))
    optimizer = recipe_optimizer(**config.optimizer, total_steps=total)
    shapes = abstract_state(architecture, optimizer)
    if config.average:
        shapes = begun(shapes)
    step_of_state = step_of(config, optimizer, mesh)
    # Only now that all of the config was looked at: what is claimed refuses another one.
    claim(workdir, config, write=processes.is_first())
    shardings = placement(mesh, shapes, config.shardings, workdir)
    step = step_of_state(shardings=shardings)
    with (
        stop_notice() as notice,
        Checkpoints(
            workdir,
            architecture,
            every=config.checkpoint_every,
            step=continue_from,
            pictures=meant_pictures(config),
            classes=classes,
        ) as checkpoints,
    ):
        state = checkpoints.restore(shapes, shardings)
        if state is None:
            state = fresh_state(config, optimizer, shardings, initial)
        elif halts:
            # Steps that were left out before, when the policy was another one, end no run now.
            state = state._replace(skipped=jnp.zeros_like(state.skipped))
        del initial
        first = int(state.step)
        set_position(batches, config, first)
        say_what_runs(state, first, total, mesh)
        finite = FiniteWatch(workdir, architecture, halts=halts, classes=classes)
        steps = parse_steps(config.profile_steps)
        with (
            run_progress(config, workdir, first) as progress,
            Profile(steps, workdir / "profile") as profile,
        ):
            if evaluations.is_missing(first):
                evaluations.run(state, checkpoints, progress, asked=notice.now)
            over = evaluations.are_over(first, checkpoints)
            for i in range(first + 1, 1 + (first if over else total)):
                with profile.step(i):
                    with progress.part("input"):
                        local = next(batches)
                    batch = to_devices(local, mesh)
                    # What a step needs is on the devices: else every step would wait for it.
                    with jax.transfer_guard("disallow"):
                        state, terms = step(state, batch)
                progress.stepped(i, terms)
                if profile.stop_after(i, terms):
                    progress.pause(i)

                asked, evaluated = notice.at_step(i), evaluations.is_due(i)
                saved = checkpoints.is_due(i) or evaluated or asked
                finite.check(local, terms, state, now=saved or progress.is_due(i))
                if progress.is_due(i):
                    progress.report(i, terms)
                # Saved before it is evaluated: a run killed meanwhile evaluates this step again.
                if saved:
                    with progress.part("checkpoint"):
                        checkpoints.save(state)
                if asked:
                    raise Preempted(f"stopped after step {i} of {total}, as asked")
                if evaluated:
                    evaluations.run(state, checkpoints, progress, asked=notice.now)
                    over = i < total and evaluations.are_over(i, checkpoints)
                    if over:
                        break
            if over:
                say(f"no better mIoU than that of step {checkpoints.best_step()}: the run ends")


def step_of(
    config: ml_collections.ConfigDict,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> Callable[..., Callable[[TrainState, dict], tuple[TrainState, dict]]]:
    """Returns `training_step` with all that a config says of it; `shardings` is left to be given.

    Raises:
        InputError: `config.labels` asks for what is not possible; names the key.
    """
    return functools.partial(
        training_step,
        config.architecture.to_dict(),
        optimizer,
        mesh,
        seed=config.seed,
        dtype=config.dtype,
        on_nonfinite=config.on_nonfinite,
        remat=config.remat,
        frozen_statistics=config.frozen_statistics,
        accumulate=config.accumulate,
        average=config.average,
        **step_settings(config),
    )


def to_devices(local: dict[str, Any], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Returns the global batch, of which this process holds the share `local`."""
    split = sharding.batch_sharded(mesh)
    return jax.tree.map(functools.partial(jax.make_array_from_process_local_data, split), local)


def placement(
    mesh: jax.sharding.Mesh, shapes: TrainState, rules: Any, workdir: Place
) -> TrainState:
    """Returns the sharding of every array of the state; prints a summary and writes the rest.

    Args:
        mesh: the devices.
        shapes: shapes and dtypes of the state.
        rules: see `sharding.parameter_specs`.
        workdir: where `shardings.txt` is written, a line for each parameter.
    """
    specs = sharding.parameter_specs(mesh, shapes.params, rules)
    summary, lines = sharding.describe(mesh, shapes, specs)
    if processes.is_first():
        write_atomically(workdir / "shardings.txt", lines.encode())
    say(summary)
    return sharding.state_shardings(mesh, shapes, specs)


def fresh_state(
    config: ml_collections.ConfigDict,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    initial: Initial | None,
) -> TrainState:
    """Returns the state before the first step, with `initial` in place of its random weights."""

    def init(key):
        announce("fresh weights")
        return init_state(key, architecture=config.architecture.to_dict(), optimizer=optimizer)

    # Of the generators this one compiles fastest: 13 seconds instead of 35 for some 300 leaves.
    key = jax.random.key(config.seed, impl="unsafe_rbg")
    state = jax.jit(init, out_shardings=shardings._replace(average=None))(key)
    if initial is not None:
        state = start(state, initial)
        say(initial.message)
    if config.average:
        state = begun(state)
    return state


def run_progress(config: ml_collections.ConfigDict, workdir: Place, first: int) -> Progress:
    """Returns the progress of a run that continues from step `first`."""
    optimizer = config.optimizer
    return Progress(
        workdir / "scalars",
        first,
        total_steps=config.total_steps,
        batch_size=config.batch_size,
        every=config.log_every,
        schedule=learning_rate(
            optimizer.peak_learning_rate,
            config.total_steps,
            warmup_steps=optimizer.warmup_steps,
            schedule=optimizer.schedule,
        ),
    )


def say_what_runs(state: TrainState, first: int, total: int, mesh: jax.sharding.Mesh) -> None:
    """Prints the size of the model, where the run is, and what it runs on."""
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    say(
        f"{count:,} parameters; step {first} of {total}; {mesh.size} devices, "
        f"{jax.process_count()} processes"
    )
