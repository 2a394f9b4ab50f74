"""Tests of several processes: equal results, stops, losses, other numbers of processes.

Most runs use the stand-in for the network. Its steps depend on the place of each crop in the global
batch, and a run takes seconds. One test compares MaSSFormer itself.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import massformer_jax
from massformer_jax.errors import InputError
from massformer_jax.models.weights import load_weights
from massformer_jax.parallel import sharding
from massformer_jax.parallel.processes import (
    LOST_STATUS,
    end,
    gather_bytes,
    initialize,
    is_first,
    several,
)
from massformer_jax.training import checkpoint
from massformer_jax.training.optimizer import recipe_optimizer
from tests.helpers import stand_in_training, tiny_config

CONFIG = pathlib.Path(tiny_config.__file__)
# The processes import the package under test, and the stand-ins from beside it.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(massformer_jax.__file__).parents[1])}
STAND_IN = [sys.executable, "-m", "tests.helpers.stand_in_training"]
MASSFORMER = [sys.executable, "-m", "tests.helpers.exact_massformer"]
# Four steps an epoch, and no evaluation before the end.
SHORT = ["--config.total_steps=8", "--config.batch_size=4", "--config.checkpoint_every=2"]
SHORT += ["--config.eval_every=100"]
# Gloo, which connects CPUs, tells of each connection from a thread of its own, in pieces, and those
# of several may be mixed.
GLOO = (
    r"\[Gloo\]|Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :|\d|\s"
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def start(tmp_path_factory, data_dir):
    """Starts `count` processes of a command with some devices each."""
    cache = tmp_path_factory.mktemp("compiled")
    begun = []

    def run(command, count, devices, workdir, *overrides, **environment):
        shared = {
            **ENVIRONMENT,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            **environment,
        }
        arguments = [f"--config={CONFIG}", f"--workdir={workdir}", *overrides]
        arguments += [f"--config.data.data_dir={data_dir}"]
        several = ["--distributed", f"--coordinator=localhost:{free_port()}"]
        several += [f"--processes={count}"]
        processes = [
            subprocess.Popen(
                [*command, *arguments, *([*several, f"--process={i}"] if count > 1 else [])],
                env=shared,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(count)
        ]
        begun.extend(processes)
        return processes

    yield run
    for process in begun:
        process.kill()


def finished(processes, timeout=1500) -> list[tuple[int, str, str]]:
    """Returns the exit status, the output and the errors of each process."""
    ends = [process.communicate(timeout=timeout) for process in processes]
    return [(p.returncode, *end) for p, end in zip(processes, ends, strict=True)]


def succeeded(processes) -> list[str]:
    """Returns the outputs of the processes, which must all have ended well."""
    ends = finished(processes)
    assert [status for status, _, _ in ends] == [0] * len(ends), "\n".join(e for _, _, e in ends)
    others = "".join(out for _, out, _ in ends[1:])
    assert not re.sub(GLOO, "", others), f"only the first process prints, and not: {others}"
    return [out for _, out, _ in ends]


def has_step(workdir, step, processes) -> bool:
    """Whether processes, which must all be running, have saved the state after a step."""
    if (workdir / checkpoint.LAST / str(step)).exists():
        return True
    for process in processes:
        assert process.poll() is None, process.communicate()
    return False


def wait_for_step(workdir, step, processes) -> None:
    while not has_step(workdir, step, processes):
        time.sleep(0.05)


def last_state(workdir):
    """Returns the step and all numbers of the last state of the stand-in."""
    optimizer = recipe_optimizer(**tiny_config.get_config().optimizer, total_steps=8)
    replicated = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
    shapes = stand_in_training.abstract_state(None, optimizer)
    with checkpoint.Checkpoints(workdir, {}, every=1) as checkpoints:
        state = checkpoints.restore(shapes, jax.tree.map(lambda _: replicated, shapes))
        state = jax.tree.map(np.asarray, state)
    return int(state.step), state


def assert_same_end(workdir, other) -> None:
    (step, state), (other_step, expected) = last_state(workdir), last_state(other)
    assert step == other_step == 8
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state, expected
    )
    assert scores(workdir) == scores(other)


def scores(workdir) -> dict:
    """Returns what is written of an evaluation, except when and by which command it was made."""
    written = json.loads((workdir / "eval" / "metrics.json").read_text())
    del written["provenance"]
    return written


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """Returns the workdir of one process with four devices that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    succeeded(start(STAND_IN, 1, 4, workdir, *SHORT))
    assert len(scores(workdir)["images"]) == 3
    return workdir


@pytest.mark.slow
def test_stopped_by_notice_and_continued_by_others(start, undisturbed, tmp_path):
    """SIGTERM to the third of four stops all after one step; then two continue, and then one."""
    workdir = tmp_path / "run"
    four = start(STAND_IN, 4, 1, workdir, *SHORT, STAND_IN_PAUSE="1")
    wait_for_step(workdir, 2, four)
    four[2].send_signal(signal.SIGTERM)
    ends = finished(four)
    assert [status for status, _, _ in ends] == [75] * 4, "\n".join(err for _, _, err in ends)
    step, _ = last_state(workdir)
    assert 2 < step < 8 and f"stopped after step {step} of 8" in ends[0][1]

    # Two steps are left when it is asked: they take longer than agreeing on one of them.
    pair = start(STAND_IN, 2, 2, workdir, *SHORT, STAND_IN_PAUSE="2")
    wait_for_step(workdir, 6, pair)
    pair[0].send_signal(signal.SIGTERM)
    ends = finished(pair)
    assert [status for status, _, _ in ends] == [75, 75], "\n".join(err for _, _, err in ends)
    assert f"step {step} of 8; 4 devices, 2 processes" in ends[0][1]

    (out,) = succeeded(start(STAND_IN, 1, 4, workdir, *SHORT))
    assert "1 processes" in out
    assert_same_end(workdir, undisturbed)


@pytest.mark.slow
def test_killed_processes_are_named_and_the_rest_is_the_same(start, undisturbed, tmp_path):
    """One pair loses its second process and, at the same time, another pair loses its first."""
    workdirs = [tmp_path / "second", tmp_path / "first"]
    pairs = [start(STAND_IN, 2, 2, workdir, *SHORT, STAND_IN_PAUSE="0.5") for workdir in workdirs]
    alive = {1: (workdirs[0], pairs[0]), 0: (workdirs[1], pairs[1])}
    while alive:  # whichever begins first: it does not wait for the other
        for victim, (workdir, pair) in list(alive.items()):
            if has_step(workdir, 2, pair):
                pair[victim].kill()
                del alive[victim]
        time.sleep(0.05)
    begun = time.monotonic()
    (_, (status, _, err)) = (finished([pairs[1][i]], 60)[0] for i in (0, 1))
    assert status != 0
    assert f"error: process 0 of 2 (on {socket.gethostname()}) is lost" in err
    status, _, err = finished([pairs[0][0]], 60)[0]
    assert time.monotonic() - begun < 60
    assert status == LOST_STATUS
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"error: process 1 of 2 (on {socket.gethostname()}) is lost")
    succeeded(start(STAND_IN, 2, 2, workdirs[0], *SHORT))
    assert_same_end(workdirs[0], undisturbed)


@pytest.mark.slow
@pytest.mark.long
def test_massformer_on_two_processes_equals_one(start, tmp_path):
    """The parameters after five steps in float64 are equal, and the counts of the evaluation.

    In float32 rounding decides the direction of some of Adam's first steps. Then those parameters
    differ by twice the learning rate per step.
    """
    overrides = ["--config.total_steps=5", "--config.batch_size=4", "--config.checkpoint_every=5"]
    overrides += ["--config.eval_every=5", "--config.dtype=float64"]
    runs = {n: start(MASSFORMER, n, 2 // n, tmp_path / str(n), *overrides) for n in (1, 2)}
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    weights = {}
    for n, processes in runs.items():
        assert f"2 devices, {n} processes" in succeeded(processes)[0]
        weights[n] = load_weights(tmp_path / str(n) / checkpoint.LAST, device)
        assert weights[n].step == 5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-8),
        *(jax.tree.map(np.asarray, weights[n].params) for n in (1, 2)),
    )
    assert scores(tmp_path / "1") == scores(tmp_path / "2")


COUNT = """
import json, sys
import numpy as np
from massformer_jax.evaluation.evaluate import pool_processes
from massformer_jax.metrics.counts import zero_counts
from massformer_jax.parallel.processes import end, initialize
process = int(sys.argv[2])
initialize(sys.argv[1], 2, process, until_saved=False)
names, mine = [], zero_counts()
if process:  # the other one has no images at all
    names = ["Straße.jpg", "b.jpg"]
    mine = type(mine)(*(np.stack([np.full(x.shape[1:], 2**40 + i) for i in (1, 3)]) for x in mine))
names, pool = pool_processes(names, mine)
print(json.dumps([names, *(field.tolist() for field in pool)]))
end(0, together=True)
"""


@pytest.mark.slow
def test_counts_are_pooled_exactly():
    """This holds beyond 2^31, which devices cannot count, and if a process has no counts."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, f"localhost:{port}", str(i)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    for status, out, err in finished(processes):
        assert status == 0, err
        names, *fields = json.loads(out.splitlines()[-1])
        assert names == ["Straße.jpg", "b.jpg"] and len(fields) == 7
        for field in fields:
            assert len(field) == 2
            assert all((np.asarray(field[i]) == 2**40 + n).all() for i, n in enumerate((1, 3)))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((None, None, None), "neither a Cloud TPU, nor Slurm, nor Kubernetes"),
        (("localhost:1", None, None), "--processes and --process is missing"),
        (("localhost:1", 2, 2), "0 to N-1"),
        (("localhost", 2, 0), "HOST:PORT"),
        ((None, 2, 0), "--coordinator is missing"),
    ],
)
def test_what_cannot_be_started(arguments, named):
    with pytest.raises(InputError, match=named) as error:
        initialize(*arguments, until_saved=True)
    assert "\n" not in str(error.value)


def test_one_process_gathers_and_ends_alone():
    assert gather_bytes(b"abc") == [b"abc"]
    assert is_first() and not several()
    end(0, together=True)
