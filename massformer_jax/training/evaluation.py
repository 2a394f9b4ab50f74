"""Evaluations of a run: on the way, and of a workdir that is trained already."""

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from massformer_jax.classes import names_of, palette_of
from massformer_jax.data import pipeline
from massformer_jax.data.bad_records import BadRecords
from massformer_jax.errors import InputError
from massformer_jax.evaluation.evaluate import evaluate, evaluation_function, evaluation_text
from massformer_jax.evaluation.provenance import Dataset, Model
from massformer_jax.files import Place
from massformer_jax.models.build import check_architecture
from massformer_jax.models.weights import LAST, load_weights
from massformer_jax.parallel import processes, sharding
from massformer_jax.parallel.processes import say
from massformer_jax.training.average import evaluated
from massformer_jax.training.checkpoint import Checkpoints
from massformer_jax.training.config import evaluation_protocol
from massformer_jax.training.dataset import check_same_classes, classes_of, with_classes
from massformer_jax.training.progress import Progress
from massformer_jax.training.state import TrainState
from massformer_jax.training.stopping import until_asked
from massformer_jax.training.workdir import last_evaluation, note_evaluation
from massformer_jax.tree import differing_keys

SCALARS = ("aAcc", "mIoU", "mAcc", "mBIoU")  # of an evaluation, in TensorBoard


class Evaluations:
    """The evaluations of a training run, after every `config.eval_every` steps and the last one.

    Raises:
        InputError: there is no such split or protocol, at once.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: Place):
        self._every, self._total, self._workdir = config.eval_every, config.total_steps, workdir
        self._patience = config.patience
        self._evaluate = weights_evaluation(config)

    def is_due(self, step: int) -> bool:
        """Tells whether there is an evaluation after this step."""
        return step > 0 and (step % self._every == 0 or step == self._total)

    def is_missing(self, step: int) -> bool:
        """Tells whether the evaluation after this step was due and did not come to its end."""
        return self.is_due(step) and last_evaluation(self._workdir) < step

    def are_over(self, step: int, checkpoints: Checkpoints) -> bool:
        """Tells whether so many evaluations up to this step were no better that the run ends.

        It follows from the steps of the best weights and of the state, so that a run that is
        continued answers as before.
        """
        best = checkpoints.best_step() if self._patience else None
        return best is not None and step - best >= self._patience * self._every

    def run(
        self,
        state: TrainState,
        checkpoints: Checkpoints,
        progress: Progress,
        *,
        asked: Callable[[], bool],
    ) -> None:
        """Evaluates the weights of a state; keeps them if they are the best.

        Args:
            state: the state after the last step.
            checkpoints: where the best weights are kept.
            progress: gets the scores; the time that this takes is no time of steps.
            asked: says whether to give up, raising Preempted.
        """
        step = int(state.step)
        output = self._workdir / "eval"
        origin = {"checkpoint": str(self._workdir / LAST / str(step)), "step": step}
        summary = self._evaluate(*evaluated(state), output, asked=asked, origin=origin)
        if not math.isnan(summary["mIoU"]):  # it is where nothing is labelled
            progress.write(step, {f"eval/{name}": summary[name] for name in SCALARS})
            checkpoints.save_best(state, summary["mIoU"])
        if processes.is_first():
            note_evaluation(self._workdir, step)
        say(f"evaluation after step {step}\n{evaluation_text(summary, summary['classes'])}")
        progress.pause(step)


def weights_evaluation(config: ml_collections.ConfigDict) -> Callable[..., dict[str, Any]]:
    """Returns evaluate_weights(params, batch_stats, output, asked, origin) -> summary.

    It does what config.eval says. Each process evaluates its own share of the photographs on its
    own devices, at its own pace; the counts are pooled at the end. `asked` says whether to give up,
    raising Preempted. `origin` says where the weights come from, as fields of `Model`.

    Raises:
        InputError: there is no such split, protocol or architecture, at once.
    """
    mesh = sharding.evaluation_mesh(jax.local_devices(), config.mesh.to_dict())
    protocol = evaluation_protocol(config)
    architecture = config.architecture.to_dict()
    check_architecture(architecture)
    classes = classes_of(config)
    evaluate_batch = evaluation_function(architecture, mesh, protocol=protocol, dtype=config.dtype)
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
    # However many are skipped: a run does not lose its evaluations, or itself, to a part of them.
    counted = functools.partial(BadRecords, len(records), config.data.on_bad_record, 1.0)
    counted()  # refuses an unknown policy at once
    info = records.dataset_info
    dataset = Dataset(str(info.data_dir), info.full_name, config.eval.split)
    described = {"architecture": architecture, "config": json.loads(config.to_json())}

    def evaluate_weights(params, batch_stats, output, asked=lambda: False, *, origin):
        bad_records = counted()
        return evaluate(
            evaluate_batch,
            *processes.on_local_devices((params, batch_stats), mesh),
            until_asked(examples(bad_records=bad_records), asked),
            mesh=mesh,
            classes=names_of(classes),
            palette=palette_of(classes),
            protocol=protocol,
            output=output,
            pictures=config.eval.pictures,
            save_predictions=config.eval.save_predictions,
            total=total,
            bad_records=bad_records,
            dataset=dataset,
            model=Model(**origin, **described),
        )

    return evaluate_weights


def evaluate_workdir(
    config: ml_collections.ConfigDict, workdir: Place, step: int | None = None
) -> None:
    """Evaluates the best weights of a workdir, or the last where none are the best yet.

    Args:
        config: the one that it was trained with.
        workdir: folder of the run.
        step: evaluates the weights of this step instead.

    Raises:
        InputError: the workdir holds no weights, or those of another architecture.
    """
    config = with_classes(config)
    evaluate_weights = weights_evaluation(config)
    mesh = sharding.make_mesh(jax.devices())
    weights = load_weights(workdir, sharding.replicated(mesh), step=step)
    for key, ours, theirs in differing_keys(config.architecture.to_dict(), weights.architecture):
        raise InputError(
            f"the checkpoint in {workdir} has architecture.{key}={theirs}, the config {ours}; use "
            "the config it was trained with"
        )
    check_same_classes(weights.classes, classes_of(config), f"the checkpoint in {workdir}")
    origin = {
        "checkpoint": str(weights.folder),
        "step": weights.step,
        "source": weights.source,
    }
    summary = evaluate_weights(weights.params, weights.batch_stats, workdir / "eval", origin=origin)
    say(f"evaluation of step {weights.step}\n{evaluation_text(summary, weights.classes)}")
