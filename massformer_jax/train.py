"""Training, from top to bottom: mesh, data, model, state, steps, evaluation."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import tensorboardX
from jax.sharding import Mesh

from massformer_jax import checkpoint, sharding
from massformer_jax.data import pipeline
from massformer_jax.data.classes import CLASSES
from massformer_jax.evaluate import evaluate, evaluation_step, report
from massformer_jax.init_from import read_initial, start
from massformer_jax.optim import learning_rate, optimizer
from massformer_jax.progress import Progress
from massformer_jax.step import training_step
from massformer_jax.train_state import init_state
from massformer_jax.workdir import check_config, claim, eval_protocol


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains to `config.total_steps`, continuing what `workdir` holds, and evaluates on the way.

    Raises:
        InputError: the config cannot be trained here, or the workdir belongs to another one.
    """
    mesh = sharding.make_mesh(jax.devices())
    check_config(config, mesh)
    iterator = iter(
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
    evaluate_weights = evaluation(config, mesh)
    model = config.model.to_dict()
    begun = checkpoint.has_state(workdir)
    initial = read_initial(config.init_from, model) if config.init_from and not begun else None
    claim(workdir, config)

    tx = optimizer(**config.optimizer, total_steps=config.total_steps)
    step = training_step(model, tx, mesh, seed=config.seed, dtype=config.dtype, **config.loss)

    last, best = checkpoint.last_manager(workdir), checkpoint.best_manager(workdir)
    whole, split = sharding.replicated(mesh), sharding.batch_sharded(mesh)
    init = functools.partial(init_state, model=model, optimizer=tx)
    like = checkpoint.abstract(init, whole)
    state = checkpoint.restore(last, like, iterator)
    if state is None:
        # Of the generators this one compiles fastest: 13 seconds instead of 35 for some 300 leaves.
        key = jax.random.key(config.seed, impl="unsafe_rbg")
        state = jax.jit(init, out_shardings=whole)(key)
        if initial is not None:
            state = start(state, initial, whole)
            print(initial.message)
    del initial
    first = int(state.step)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(
        f"{count:,} parameters; step {first} of {config.total_steps}; {len(mesh.devices)} devices"
    )

    schedule = learning_rate(config.optimizer.peak_learning_rate, config.total_steps)
    progress = Progress(first, config.total_steps, config.batch_size)
    with tensorboardX.SummaryWriter(str(workdir / "scalars"), purge_step=first + 1) as scalars:
        for i in range(first + 1, config.total_steps + 1):
            batch = jax.tree.map(
                functools.partial(jax.make_array_from_process_local_data, split), next(iterator)
            )
            state, terms = step(state, batch)
            finished = i == config.total_steps
            if i == first + 1:
                jax.block_until_ready(terms)
                print(f"the first step, compiled, took {progress.pause(i):.0f} s", flush=True)
            if i % config.log_every == 0 or finished:
                # The only place where the host waits for the device.
                terms = {name: float(value) for name, value in terms.items()}
                speed = progress.report(i, terms)
                terms |= {"learning_rate": float(schedule(i - 1)), "images_per_second": speed}
                for name, value in terms.items():
                    scalars.add_scalar(f"train/{name}", value, i)
            # Evaluated before it is saved: a run killed in between evaluates this step again.
            if i % config.eval_every == 0 or finished:
                summary = evaluate_weights(state.params, state.batch_stats, workdir / "eval")
                for name in ("aAcc", "mIoU", "mAcc", "mBIoU"):
                    scalars.add_scalar(f"eval/{name}", summary[name], i)
                checkpoint.save_best(best, state, summary["mIoU"], model)
                print(f"evaluation after step {i}\n{report(summary, CLASSES)}", flush=True)
                progress.pause(i)
            if i % config.checkpoint_every == 0 or finished:
                checkpoint.save(last, state, iterator, model)
    last.close()
    best.close()


def evaluation(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> Callable[[Any, Any, pathlib.Path], dict[str, Any]]:
    """Returns evaluate_weights(params, batch_stats, output) -> summary, for the config's split.

    Raises:
        InputError: there is no such split or protocol, at once.
    """
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

    def evaluate_weights(params, batch_stats, output):
        return evaluate(
            step,
            params,
            batch_stats,
            examples(),
            mesh=mesh,
            classes=CLASSES,
            protocol=protocol,
            output=output,
            pictures=config.eval.pictures,
            save_predictions=config.eval.save_predictions,
            total=total,
        )

    return evaluate_weights
