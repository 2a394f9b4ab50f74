"""Training, from top to bottom: mesh, data, model, state, steps, evaluation."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import grain
import jax
import ml_collections
import numpy as np
import tensorboardX

from massformer_jax import checkpoint, distributed, sharding
from massformer_jax.compilation import announce
from massformer_jax.data import pipeline
from massformer_jax.data.classes import CLASSES
from massformer_jax.evaluate import evaluate, evaluation_step, report
from massformer_jax.files import write_whole
from massformer_jax.init_from import read_initial, start
from massformer_jax.optim import learning_rate, optimizer
from massformer_jax.profiling import Profile, parse_steps
from massformer_jax.progress import Progress
from massformer_jax.step import training_step
from massformer_jax.stopping import NonFiniteLoss, Preempted, stop_notice, until_asked
from massformer_jax.train_state import TrainState, abstract_state, init_state
from massformer_jax.workdir import (
    check_config,
    claim,
    eval_protocol,
    last_evaluation,
    note_evaluation,
)


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains to `config.total_steps`, continuing what `workdir` holds, and evaluates on the way.

    Of several processes all call it; the first one prints and writes what is written once.

    Raises:
        InputError: the config cannot be trained here, or the workdir belongs to another one.
        Preempted: the run was asked to stop, and its state is saved.
        NonFiniteLoss: the policy is to halt; the state and the batch are saved.
    """
    mesh = sharding.make_mesh(jax.devices(), config.mesh.to_dict())
    check_config(config, mesh)
    iterator = input_batches(config)
    evaluate_weights = evaluation(config)
    model = config.model.to_dict()
    begun = checkpoint.has_state(workdir)
    initial = read_initial(config.init_from, model) if config.init_from and not begun else None
    tx = optimizer(**config.optimizer, total_steps=config.total_steps)
    shapes = abstract_state(model, tx)
    specs = sharding.parameter_specs(mesh, shapes.params, config.shardings)
    shardings = sharding.state_shardings(mesh, shapes, specs)
    first_process = distributed.is_first()
    claim(workdir, config, write=first_process)

    placement, lines = sharding.describe(mesh, shapes, specs)
    if first_process:
        write_whole(workdir / "shardings.txt", lines.encode())
    say(placement)
    step = training_step(
        model,
        tx,
        mesh,
        seed=config.seed,
        dtype=config.dtype,
        on_nonfinite=config.on_nonfinite,
        remat=config.remat,
        shardings=shardings,
        **config.loss,
    )

    with (
        stop_notice() as notice,
        checkpoint.last_manager(workdir) as last,
        checkpoint.best_manager(workdir) as best,
    ):
        split = sharding.batch_sharded(mesh)
        state = checkpoint.restore(last, checkpoint.abstract(shapes, shardings))
        if state is None:
            # Of the generators this one compiles fastest: 13 seconds instead of 35 for some 300
            # leaves.
            key = jax.random.key(config.seed, impl="unsafe_rbg")

            def init(key):
                announce("fresh weights")
                return init_state(key, model=model, optimizer=tx)

            state = jax.jit(init, out_shardings=shardings)(key)
            if initial is not None:
                state = start(state, initial)
                say(initial.message)
        del initial
        first, total = int(state.step), config.total_steps
        iterator.set_state(
            pipeline.stream_position(
                first,
                batch_size=config.batch_size,
                host_count=jax.process_count(),
                crops_per_decode=config.data.crops_per_decode,
            )
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        say(
            f"{count:,} parameters; step {first} of {total}; {mesh.size} devices, "
            f"{jax.process_count()} processes"
        )

        schedule = learning_rate(config.optimizer.peak_learning_rate, total)
        progress = Progress(first, total, config.batch_size)
        profile = Profile(parse_steps(config.profile_steps), workdir / "profile")
        scalars = tensorboardX.SummaryWriter(
            str(workdir / "scalars"), purge_step=first + 1, write_to_disk=first_process
        )

        def evaluate_step(i):
            summary = evaluate_weights(
                state.params, state.batch_stats, workdir / "eval", asked=notice.now
            )
            for name in ("aAcc", "mIoU", "mAcc", "mBIoU"):
                scalars.add_scalar(f"eval/{name}", summary[name], i)
            checkpoint.save_best(best, state, summary["mIoU"], model)
            best.wait_until_finished()
            if first_process:
                note_evaluation(workdir, i)
            say(f"evaluation after step {i}\n{report(summary, CLASSES)}")
            progress.pause(i)

        def evaluated_after(i):
            return i > 0 and (i % config.eval_every == 0 or i == total)

        with scalars:
            if evaluated_after(first) and last_evaluation(workdir) < first:
                evaluate_step(first)
            before = None
            for i in range(first + 1, total + 1):
                with profile.step(i):
                    with progress.part("input"):
                        local = next(iterator)
                    batch = jax.tree.map(
                        functools.partial(jax.make_array_from_process_local_data, split), local
                    )
                    state, terms = step(state, batch)
                if i == first + 1:
                    jax.block_until_ready(terms)
                    say(f"the first step, compiled, took {progress.pause(i):.0f} s")
                if profile.stop_after(i, terms):
                    progress.pause(i)

                asked = notice.at_step(i)
                logged = i % config.log_every == 0 or i == total
                saved = i % config.checkpoint_every == 0 or evaluated_after(i) or asked
                if config.on_nonfinite == "halt":
                    # Of the step before, while the device is busy with this one: so the host does
                    # not keep it waiting. Where this one's numbers are needed anyway, of both.
                    steps = [before] if before else []
                    before = local, terms
                    for batch_and_terms in steps + [before] * (logged or saved):
                        halt_if_skipped(*batch_and_terms, state, workdir, model)
                if logged and first_process:
                    numbers = {name: float(value) for name, value in terms.items()}
                    numbers |= progress.report(i, numbers)
                    numbers["learning_rate"] = float(schedule(i - 1))
                    for name, value in numbers.items():
                        scalars.add_scalar(f"train/{name}", value, i)
                # Saved before it is evaluated: a run killed meanwhile evaluates this step again.
                if saved:
                    with progress.part("checkpoint"):
                        checkpoint.save(last, state, model)
                if asked:
                    raise Preempted(f"stopped after step {i} of {total}, as asked")
                if evaluated_after(i):
                    evaluate_step(i)


def input_batches(config: ml_collections.ConfigDict) -> grain.DatasetIterator:
    """This process's share of the batches; see `pipeline.train_dataset`."""
    return iter(
        pipeline.train_dataset(
            config.data.data_dir,
            split=config.data.split,
            batch_size=config.batch_size,
            seed=config.seed,
            crop_size=config.data.crop_size,
            short_edges=config.data.short_edges,
            max_long_edge=config.data.max_long_edge,
            host_index=jax.process_index(),
            host_count=jax.process_count(),
            num_threads=config.data.threads,
            on_bad_record=config.data.on_bad_record,
            crops_per_decode=config.data.crops_per_decode,
        )
    )


def halt_if_skipped(
    batch: dict[str, np.ndarray],
    terms: dict[str, jax.Array],
    state: TrainState,
    workdir: pathlib.Path,
    model: dict[str, Any],
) -> None:
    """Waits for a step; if it was not applied, saves its batch and the state, and raises."""
    if not float(terms["skipped"]):
        return
    folder = checkpoint.save_nonfinite(workdir, state, batch, model)
    raise NonFiniteLoss(
        f"step {int(state.step) + 1} has a loss of {float(terms['loss'])} and a gradient norm of "
        f"{float(terms['gradient_norm'])}; the state before it and its batch are in {folder}; "
        "--config.on_nonfinite=skip leaves such steps out"
    )


def evaluation(config: ml_collections.ConfigDict) -> Callable[..., dict[str, Any]]:
    """Returns evaluate_weights(params, batch_stats, output, asked) -> summary, for config.eval.

    Each process evaluates its own share of the photographs on its own devices, at its own pace; the
    counts are pooled at the end. `asked` says whether to give up, raising Preempted.

    Raises:
        InputError: there is no such split or protocol, at once.
    """
    mesh = sharding.evaluation_mesh(jax.local_devices(), config.mesh.to_dict())
    protocol = eval_protocol(config)
    step = evaluation_step(config.model.to_dict(), mesh, protocol=protocol, dtype=config.dtype)
    examples = functools.partial(
        pipeline.eval_examples,
        config.data.data_dir,
        split=config.eval.split,
        host_index=jax.process_index(),
        host_count=jax.process_count(),
        num_threads=config.data.threads,
    )
    records = pipeline.open_split(config.data.data_dir, config.eval.split)
    total = len(range(jax.process_index(), len(records), jax.process_count()))

    def evaluate_weights(params, batch_stats, output, asked=lambda: False):
        return evaluate(
            step,
            *distributed.on_local_devices((params, batch_stats), mesh),
            until_asked(examples(), asked),
            mesh=mesh,
            classes=CLASSES,
            protocol=protocol,
            output=output,
            pictures=config.eval.pictures,
            save_predictions=config.eval.save_predictions,
            total=total,
            split_name=config.eval.split,
        )

    return evaluate_weights


def say(line: str) -> None:
    """Prints, on the first process."""
    if distributed.is_first():
        print(line, flush=True)
