"""Kills trainings at random moments, continues them, and compares each end with a sound one.

The training is the project's own: its loop, checkpoints and evaluation. In the place of the network
there is by default one of three numbers, with which a run takes seconds.
"""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from massformer_jax.command import say_beside_output
from massformer_jax.models.checksums import LIST
from massformer_jax.models.weights import BEST, LAST, steps_in
from massformer_jax.training.workdir import EVALUATED
from scripts import ROOT
from tests.helpers.broken_releases import RELEASE

_LIMIT = 1800  # seconds that a process may take
_MOST = 4  # kills of one run
_AIMS = ("any moment", "saving", "evaluating")
_UNFINISHED = "*.orbax-checkpoint-tmp*"


@dataclasses.dataclass
class Training:
    """A training that can be started again and again.

    Attributes:
        command: the command line but for the workdir.
        environment: what is added to the environment.
        evaluations: the steps after which there is one.
    """

    command: Sequence[str]
    environment: dict[str, str]
    evaluations: tuple[int, ...]

    def start(self, workdir: pathlib.Path) -> subprocess.Popen:
        """Starts it, or continues what the workdir holds."""
        with open(f"{workdir}.log", "ab") as log:
            return subprocess.Popen(
                [*self.command, f"--workdir={workdir}"],
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )


@dataclasses.dataclass
class Outcome:
    """What became of the killed trainings.

    Attributes:
        runs: number of runs, each of them killed at least once.
        kills: number of kills by what the run was doing.
        findings: the ends that differ from the undisturbed one, and everything else.
    """

    runs: int = 0
    kills: dict[str, int] = dataclasses.field(default_factory=dict)
    findings: list[str] = dataclasses.field(default_factory=list)


def training(folder: pathlib.Path, *, network: bool) -> Training:
    """Makes a dataset and returns a training on it.

    Args:
        folder: where the dataset and compiled programs lie.
        network: whether to train the network of `configs/sample.py`, on a small sample.
    """
    data, release = folder / "data", RELEASE
    if network:
        release = folder / "photos"
        _run("massformer_jax.data.sample", f"--output={release}", "--train=8", "--val=2")
    _run("massformer_jax.data.build", f"--manual_dir={release}", f"--data_dir={data}")
    if network:
        module, config, total, every = "massformer_jax.main", "configs/sample.py", 8, 4
    else:
        module, config = "tests.helpers.stand_in_training", "tests/helpers/tiny_config.py"
        total, every = 12, 4
    command = [sys.executable, "-m", module, f"--config={config}", f"--config.data.data_dir={data}"]
    command += [f"--config.total_steps={total}", f"--config.eval_every={every}"]
    command += [f"--config.checkpoint_every={every // 2}", "--config.eval.pictures=1"]
    command += [f"--compilation_cache={folder / 'compiled'}", *["--config.batch_size=2"] * network]
    environment = {"JAX_PLATFORMS": "cpu", "STAND_IN_PAUSE": "0.05"}
    return Training(command, environment, tuple(range(every, total + 1, every)))


def kill(
    trained: Training, count: int, *, seed: int, folder: pathlib.Path, processes: int
) -> Outcome:
    """Kills trainings and compares their ends.

    Args:
        trained: what is killed.
        count: number of kills.
        seed: decides when they come, as far as a clock can be followed.
        folder: where workdirs are made.
        processes: number of trainings at the same time.
    """
    sound = folder / "undisturbed"
    begin = time.monotonic()
    status = trained.start(sound).wait(_LIMIT)
    seconds = time.monotonic() - begin
    if status:
        raise RuntimeError(f"the undisturbed training has status {status}; see {sound}.log")
    expected = list(end_of(sound))
    rng = np.random.default_rng(seed)
    plan = []
    while sum(plan) < count:
        plan.append(min(int(rng.integers(1, _MOST + 1)), count - sum(plan)))
    outcome = Outcome()

    def one(number: int) -> None:
        rng = np.random.default_rng((seed, number))
        workdir = folder / f"run{number}"
        done = 0
        while done < plan[number]:
            done += _disturbed(trained, workdir, plan[number] - done, seconds, rng, outcome)
            found = differences(workdir, expected)
            outcome.runs += 1
            say_beside_output(f"{sum(outcome.kills.values())} of {count} kills")
            if found:
                outcome.findings.append(f"{workdir}: {found}")
                workdir = folder / f"run{number}_{done}"
            else:
                shutil.rmtree(workdir)

    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        list(pool.map(one, range(len(plan))))
    return outcome


def _disturbed(
    trained: Training,
    workdir: pathlib.Path,
    count: int,
    seconds: float,
    rng: np.random.Generator,
    outcome: Outcome,
) -> int:
    """Kills a run up to `count` times and lets it end; returns how often it was killed."""
    killed = 0
    while True:
        process = trained.start(workdir)
        aim = _AIMS[int(rng.integers(len(_AIMS)))] if killed < count else "the end"
        moment = time.monotonic() + rng.uniform(0, seconds)
        delay = rng.exponential(0.03) if aim == "saving" else rng.uniform(0, 0.5)
        begin = time.monotonic()
        while process.poll() is None:
            now = time.monotonic()
            if now - begin > _LIMIT:
                process.kill()
                process.wait()
                outcome.findings.append(f"{workdir}: it takes more than {_LIMIT} seconds")
                return max(killed, count)
            if aim == "any moment":
                hit = now >= moment
            else:
                hit = _doing(workdir, trained) == aim
                if hit:
                    time.sleep(delay)
            if hit and process.poll() is None:
                process.kill()
                process.wait()
                killed += 1
                doing = _doing(workdir, trained)
                outcome.kills[doing] = outcome.kills.get(doing, 0) + 1
                break
            time.sleep(0.002)
        else:
            if process.returncode:
                log = pathlib.Path(f"{workdir}.log").read_text(errors="replace")
                outcome.findings.append(
                    f"{workdir}: status {process.returncode}: {log.strip().splitlines()[-1][:300]}"
                )
                return max(killed, count)
            return killed


def _doing(workdir: pathlib.Path, trained: Training) -> str:
    """Returns what a run does, or did when it was killed, as its workdir tells."""
    for name in (LAST, BEST):
        folder = workdir / name
        if any(folder.glob(_UNFINISHED)):
            return "saving"
        if any(not (folder / str(step) / LIST).exists() for step in steps_in(folder)):
            return "saving"
    steps = steps_in(workdir / LAST)
    if not steps:
        return "beginning"
    evaluated = workdir / EVALUATED
    try:
        last = int(evaluated.read_text())
    except FileNotFoundError:
        last = 0
    return "evaluating" if steps[-1] in trained.evaluations and last < steps[-1] else "training"


def end_of(workdir: pathlib.Path) -> Iterator[tuple[str, Any]]:
    """Yields what a run leaves behind, by name: all arrays, and the scores."""
    for name, items in ((LAST, ("model", "optimizer")), (BEST, ("model",))):
        folder = workdir / name
        step = max(steps_in(folder))
        yield f"{name}/step", step
        with ocp.CheckpointManager(epath.Path(folder)) as manager:
            args = {item: ocp.args.StandardRestore() for item in items}
            tree = manager.restore(step, args=ocp.args.Composite(**args))
        for path, leaf in jax.tree.leaves_with_path({item: tree[item] for item in items}):
            yield f"{name}{jax.tree_util.keystr(path)}", np.asarray(leaf)
    scores = json.loads((workdir / "eval" / "metrics.json").read_text())
    scores.pop("provenance", None)  # names the workdir and the time
    yield "metrics.json", json.dumps(scores, sort_keys=True)


def differences(workdir: pathlib.Path, expected: list[tuple[str, Any]]) -> str:
    """Returns which parts of a run's end are not, bit for bit, those of the undisturbed one."""
    try:
        found = list(end_of(workdir))
    except Exception as error:  # whatever it is, it is a finding
        return f"its end cannot be read: {error}"
    if [name for name, _ in found] != [name for name, _ in expected]:
        return "it holds other parts than the undisturbed one"
    other = [
        name
        for (name, value), (_, sound) in zip(found, expected, strict=True)
        if not _same(value, sound)
    ]
    return f"{len(other)} parts differ, {', '.join(other[:3])} among them" if other else ""


def _same(value: Any, sound: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == sound.dtype and value.tobytes() == sound.tobytes()
    return value == sound


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)
