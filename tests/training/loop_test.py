"""The training loop with a stand-in for the network: stops, failures, traces, what it logs."""

import json
import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from massformer_jax.errors import InputError
from massformer_jax.parallel import sharding
from massformer_jax.training import checkpoint, evaluation, loop, profiling
from massformer_jax.training.optimizer import learning_rate, recipe_optimizer
from massformer_jax.training.state import TrainState
from massformer_jax.training.step import keep_finite
from massformer_jax.training.stopping import NonFiniteLoss, Preempted
from tests.helpers import stand_in_training, tiny_config
from tests.helpers.stopped import stopped_in


@pytest.fixture(scope="module", autouse=True)
def no_network():
    with pytest.MonkeyPatch.context() as patch:
        stand_in_training.install(patch.setattr)
        yield


@pytest.fixture
def config(data_dir):
    return short(data_dir)


def short(data_dir):
    config = tiny_config.get_config()
    config.data.data_dir = str(data_dir)
    config.total_steps = 6
    config.eval_every = 4
    config.checkpoint_every = 2
    return config


def last_state(workdir, config):
    """The newest state, as saved."""
    optimizer = recipe_optimizer(**config.optimizer, total_steps=config.total_steps)
    replicated = sharding.replicated(sharding.make_mesh(jax.devices()))
    shapes = stand_in_training.abstract_state(None, optimizer)
    with checkpoint.Checkpoints(workdir, {}, every=1) as checkpoints:
        state = checkpoints.restore(shapes, jax.tree.map(lambda _: replicated, shapes))
        return jax.tree.map(np.asarray, state)


def assert_equal(state, other):
    jax.tree.map(np.testing.assert_array_equal, state, other)


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    """The workdir and the last state of a run from beginning to end."""
    workdir, config = tmp_path_factory.mktemp("runs") / "undisturbed", short(data_dir)
    loop.train_and_evaluate(config, workdir)
    assert len(json.loads((workdir / "eval" / "metrics.json").read_text())["images"]) == 3
    return workdir, last_state(workdir, config)


def scalars(workdir) -> dict[str, dict[int, float]]:
    """All scalars by tag and step. A record: length u64, its checksum u32, data, checksum u32."""
    found = {}
    for path in sorted((workdir / "scalars").glob("events*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


class TestStopping:
    @pytest.mark.parametrize("step", [1, 5])
    def test_sigterm_saves_and_the_rest_is_the_same(self, config, undisturbed, tmp_path, step):
        workdir = tmp_path / "stopped"
        with stopped_in(step, 6):
            loop.train_and_evaluate(config, workdir)
        assert int(last_state(workdir, config).step) == step
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        loop.train_and_evaluate(config, workdir)
        assert_equal(last_state(workdir, config), undisturbed[1])

    def test_stopped_during_evaluation_it_evaluates_again(
        self, config, tmp_path, monkeypatch, capsys
    ):
        workdir, evaluated = tmp_path / "run", []
        make = evaluation.evaluation_function

        def counting(*args, **kwargs):
            inner = make(*args, **kwargs)

            def run(*inputs):
                evaluated.append(1)
                if len(evaluated) == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                return inner(*inputs)

            return run

        monkeypatch.setattr(evaluation, "evaluation_function", counting)
        config.data.threads = 1
        # One at a time: otherwise all three are in the first batch.
        make_mesh = sharding.make_mesh
        monkeypatch.setattr(sharding, "make_mesh", lambda found, *axes: make_mesh(found[:1], *axes))
        with pytest.raises(Preempted):
            loop.train_and_evaluate(config, workdir)
        assert not (workdir / "eval" / "metrics.json").exists()
        assert int(last_state(workdir, config).step) == 4
        capsys.readouterr()
        loop.train_and_evaluate(config, workdir)
        printed = capsys.readouterr().out
        assert "evaluation after step 4" in printed and "evaluation after step 6" in printed
        loop.train_and_evaluate(config, workdir)
        assert "evaluation" not in capsys.readouterr().out


def test_weights_tell_for_what_pictures_they_are_meant(config, undisturbed):
    """The states and the best weights: the middle of 256 and 320 rows."""
    workdir, _ = undisturbed
    assert config.data.short_edges == (256, 320)
    told = [
        json.loads(path.read_text())["pictures"]
        for folder in (checkpoint.LAST, checkpoint.BEST)
        for path in (workdir / folder).glob("*/meta/metadata")
    ]
    assert len(told) > 1 and all(pictures == [286, 381] for pictures in told)


def test_what_a_killed_save_left_is_not_chosen(config, undisturbed):
    """Orbax renames a folder when it is complete: another name is no state."""
    workdir, state = undisturbed
    half = workdir / checkpoint.LAST / "7.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "model").write_bytes(b"half")
    assert checkpoint.has_state(workdir)
    assert_equal(last_state(workdir, config), state)


class TestNotFinite:
    @pytest.fixture(autouse=True)
    def bad_step(self, monkeypatch):
        monkeypatch.setattr(stand_in_training, "BAD_STEP", 3)

    @pytest.mark.parametrize("log_every", [1, 6])
    def test_halt_keeps_the_state_before_and_the_batch(self, config, tmp_path, log_every):
        """Whether the host looks at the step itself, or at it one step later."""
        config.log_every, config.checkpoint_every = log_every, 2
        with pytest.raises(NonFiniteLoss, match="step 3 has a loss of nan"):
            loop.train_and_evaluate(config, tmp_path)
        before = last_state(tmp_path, config)  # the save after step 2
        kept = pathlib.Path(tmp_path, checkpoint.NONFINITE)
        state = last_state_in(kept, config)
        assert int(state.step) == 2 and int(state.skipped) >= 1
        assert_equal(state._replace(skipped=before.skipped), before)
        batches = [next(iterator) for iterator in [loop.input_batches(config)] for _ in range(3)]
        with np.load(kept / "batch_0.npz") as batch:
            np.testing.assert_array_equal(batch["image"], batches[2]["image"])
            np.testing.assert_array_equal(batch["label"], batches[2]["label"])

    def test_halt_after_skip_goes_on(self, config, tmp_path, monkeypatch):
        """What was left out under the other policy ends no run."""
        config.on_nonfinite, config.total_steps, config.checkpoint_every = "skip", 4, 1
        loop.train_and_evaluate(config, tmp_path)
        assert int(last_state(tmp_path, config).skipped) == 1
        monkeypatch.setattr(stand_in_training, "BAD_STEP", 0)
        config.on_nonfinite = "halt"
        # So that a step is left to do, after the one that was left out.
        (tmp_path / "checkpoints" / "4").rename(tmp_path / "4")
        (tmp_path / "evaluated").unlink()
        loop.train_and_evaluate(config, tmp_path)
        assert int(last_state(tmp_path, config).step) == 4

    def test_the_learning_rate_is_that_of_the_step(self, config, tmp_path):
        """The optimizer does not count a step that was left out."""
        config.on_nonfinite = "skip"
        loop.train_and_evaluate(config, tmp_path)
        rates = scalars(tmp_path)["train/learning_rate"]
        schedule = learning_rate(config.optimizer.peak_learning_rate, config.total_steps)
        expected = [float(schedule(count)) for count in (0, 1, 2, 2, 3, 4)]
        np.testing.assert_allclose([rates[step] for step in range(1, 7)], expected, rtol=1e-5)

    def test_skip_goes_on_and_counts(self, config, tmp_path, capsys):
        config.on_nonfinite = "skip"
        loop.train_and_evaluate(config, tmp_path)
        assert "loss nan" in capsys.readouterr().out
        counted = scalars(tmp_path)["train/skipped"]
        assert [counted[step] for step in range(1, 7)] == [0, 0, 1, 1, 1, 1]
        state = last_state(tmp_path, config)
        assert int(state.step) == 6 and int(state.skipped) == 1
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    ("policy", "skipped", "finite", "expected"),
    [
        ("halt", 0, True, (3, 1.0, 0)),
        ("halt", 0, False, (2, 0.0, 1)),
        ("halt", 1, True, (2, 0.0, 2)),  # nothing after a step that was not finite
        ("skip", 0, False, (3, 0.0, 1)),
        ("skip", 1, True, (3, 1.0, 1)),
    ],
)
def test_what_is_applied(policy, skipped, finite, expected):
    before, after = (
        TrainState(jnp.int32(step), value, value, value, jnp.int32(skipped))
        for step, value in ((2, jnp.float32(0)), (3, jnp.float32(1)))
    )
    state = keep_finite(before, after, jnp.bool(finite), policy)
    assert (int(state.step), float(state.params), int(state.skipped)) == expected
    assert state.params == state.batch_stats == state.opt_state


def last_state_in(folder, config):
    (step,) = [path.name for path in folder.iterdir() if path.name.isdigit()]
    moved = folder.parent / "moved" / checkpoint.LAST
    moved.mkdir(parents=True)
    (folder / step).rename(moved / step)
    return last_state(moved.parent, config)


def test_times_are_split(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stand_in_training, "PAUSE", 0.05)
    config.log_every, config.eval_every = 3, 6
    loop.train_and_evaluate(config, tmp_path)
    logged = scalars(tmp_path)
    assert logged["train/seconds_step"][3] >= 0.05
    assert logged["train/seconds_checkpoint"][3] > 0  # after step 2
    assert logged["train/seconds_input"][6] >= 0
    for step in (3, 6):
        whole = 8 / logged["train/images_per_second"][step]
        parts = sum(logged[f"train/seconds_{p}"][step] for p in ("input", "step", "checkpoint"))
        assert whole == pytest.approx(parts, rel=1e-4)
    assert "images/s (seconds: input " in capsys.readouterr().out


def test_profile_holds_its_steps(config, tmp_path, capsys):
    config.profile_steps = "2:4"
    loop.train_and_evaluate(config, tmp_path)
    (path,) = (tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb")
    assert f"the trace of steps 2 to 3 is in {tmp_path / 'profile'}" in capsys.readouterr().out
    data = jax.profiler.ProfileData.from_file(str(path))
    events = (event for plane in data.planes for line in plane.lines for event in line.events)
    steps = {dict(event.stats).get("step_num") for event in events if event.name == "train"}
    assert steps == {2, 3}


def test_a_profile_that_the_end_cuts_short_is_written(config, tmp_path, capsys):
    config.profile_steps = "5:9"
    loop.train_and_evaluate(config, tmp_path)
    assert len(list((tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb"))) == 1
    assert f"the trace of the steps from 5 is in {tmp_path / 'profile'}" in capsys.readouterr().out


@pytest.mark.parametrize("steps", ["10", "3:3", "0:2", "a:b", "1:2:3"])
def test_wrong_profile_steps(steps):
    with pytest.raises(InputError, match="profile_steps"):
        profiling.parse_steps(steps)


def test_right_profile_steps():
    assert profiling.parse_steps("10:13") == range(10, 13)
    assert not profiling.parse_steps("")
