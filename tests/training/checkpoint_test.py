"""Checkpoints know when they are damaged: the state before is taken, or it is said which one is."""

import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.errors import InputError
from massformer_jax.models.checksums import LIST, damage, write_checksums
from massformer_jax.models.weights import BEST, LAST, Weights, load_weights, save_weights
from massformer_jax.parallel import sharding
from massformer_jax.training.checkpoint import Checkpoints, save_nonfinite
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import TrainState
from tests.helpers import tiny_config
from tests.helpers.tiny_weights import TINY, tiny_weights

DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def state_of(step: int) -> TrainState:
    params = {"kernel": jnp.full((8, 4), float(step)), "bias": jnp.full(3, float(step))}
    optimizer = recipe_optimizer(**tiny_config.get_config().optimizer, total_steps=10)
    statistics = {"mean": jnp.zeros(2)}
    return TrainState(jnp.int32(step), params, statistics, optimizer.init(params), jnp.int32(0))


@pytest.fixture
def workdir(tmp_path):
    """A run that kept the states of steps 2 and 4, and the weights of step 4."""
    with Checkpoints(tmp_path, TINY, every=2) as checkpoints:
        for step in (2, 4):
            checkpoints.save(state_of(step))
        checkpoints.save_best(state_of(4), 0.5)
    return tmp_path


def restored(workdir, step=None):
    """The step that a run continues from."""
    state = state_of(0)
    replicated = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
    with Checkpoints(workdir, TINY, every=2, step=step) as checkpoints:
        found = checkpoints.restore(state, jax.tree.map(lambda _: replicated, state))
    np.testing.assert_array_equal(found.params["kernel"], float(found.step))
    return int(found.step)


def arrays_of(folder: pathlib.Path) -> pathlib.Path:
    """The largest file of arrays."""
    return max(folder.glob("model/**/d/*"), key=lambda path: path.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a byte of an array": lambda folder: flip(arrays_of(folder)),
    "an array cut": lambda folder: os.truncate(arrays_of(folder), 10),
    "an array missing": lambda folder: arrays_of(folder).unlink(),
    "an item missing": lambda folder: shutil.rmtree(folder / "optimizer"),
    "metadata empty": lambda folder: (folder / "_CHECKPOINT_METADATA").write_bytes(b""),
    "metadata of a time that no calendar has": lambda folder: (
        folder / "_CHECKPOINT_METADATA"
    ).write_text(f'{{"commit_timestamp_nsecs": {10**30}}}'),
    "no list": lambda folder: (folder / LIST).unlink(),
    "list empty": lambda folder: (folder / LIST).write_bytes(b""),
    "list of something else": lambda folder: (folder / LIST).write_text('{"files": [1]}'),
}


def test_every_state_has_its_list(workdir):
    assert [damage(workdir / LAST / step) for step in ("2", "4")] == ["", ""]
    assert damage(workdir / BEST / "4") == ""
    assert restored(workdir) == 4


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_state_before_is_taken_and_said(workdir, capsys, kind):
    DAMAGE[kind](workdir / LAST / "4")
    assert restored(workdir) == 2
    said = capsys.readouterr().out
    assert f"{workdir / LAST / '4'} is damaged: " in said and "4.damaged" in said
    # Nothing is deleted, and the run can write this step again.
    assert (workdir / LAST / "4.damaged").is_dir()
    with Checkpoints(workdir, TINY, every=2) as checkpoints:
        checkpoints.save(state_of(4))
    assert restored(workdir) == 4


def test_all_damaged_is_one_line(workdir):
    for step in ("2", "4"):
        flip(arrays_of(workdir / LAST / step))
    with pytest.raises(InputError, match=r"4 is damaged: .* is not what was written, and no other"):
        restored(workdir)
    assert sorted(path.name for path in (workdir / LAST).iterdir()) == ["2", "4"]


def test_a_step_can_be_chosen(workdir, capsys):
    with pytest.raises(InputError, match="no state of step 3, but those of 2, 4"):
        restored(workdir, step=3)
    assert restored(workdir, step=2) == 2
    assert "4 is later than step 2; it is now 4.later" in capsys.readouterr().out
    assert (workdir / LAST / "4.later").is_dir()


def test_best_weights_that_are_later_than_the_chosen_step_give_way(workdir, capsys):
    with Checkpoints(workdir, TINY, every=2, step=2) as checkpoints:
        assert checkpoints.best_step() is None
        checkpoints.save_best(state_of(3), 0.3)
        checkpoints.save_best(state_of(4), 0.4)
        assert checkpoints.best_step() == 4
    assert f"{workdir / BEST / '4'} is later than step 2" in capsys.readouterr().out
    assert sorted(path.name for path in (workdir / BEST).iterdir()) == ["4", "4.later"]


@pytest.mark.parametrize("miou", [0.4, 0.5])
def test_weights_that_are_not_better_are_not_written(workdir, miou):
    with Checkpoints(workdir, TINY, every=2) as checkpoints:
        checkpoints.save_best(state_of(6), miou)
        assert checkpoints.best_step() == 4
        checkpoints.save_best(state_of(4), 0.500001)  # evaluated again, after it was killed
        checkpoints.save_best(state_of(8), 0.6)
        assert checkpoints.best_step() == 8


def test_states_before_steps_that_are_not_finite_are_all_kept(tmp_path):
    for step in (5, 3, 3):
        batch = {"image": np.full((1, 2), step, np.uint8)}
        folder = save_nonfinite(tmp_path, state_of(step), batch, TINY)
        assert damage(folder / str(step)) == ""
    for name, step in (("nonfinite", 3), ("nonfinite.earlier", 5)):
        assert damage(tmp_path / name / str(step)) == ""
        assert np.load(tmp_path / name / "batch_0.npz")["image"][0, 0] == step


def test_a_damaged_step_is_not_chosen(workdir):
    flip(arrays_of(workdir / LAST / "2"))
    with pytest.raises(InputError, match=r"2 is damaged: .*; name another --step"):
        restored(workdir, step=2)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Weights of the smallest network, as `convert` writes them."""
    folder = tmp_path_factory.mktemp("weights") / "converted"
    save_weights(folder, Weights(7, TINY, ("a",) * 7, *tiny_weights()))
    return folder


def test_damaged_weights_are_refused(converted, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(converted, folder)
    assert load_weights(folder, DEVICE).step == 7
    flip(arrays_of(folder / "7"))
    with pytest.raises(InputError, match=r"7 is damaged: .* is not what was written"):
        load_weights(folder, DEVICE)


def test_damaged_best_weights_give_way_to_the_last(converted, tmp_path):
    for name, step in ((BEST, "3"), (LAST, "5"), (LAST, "9")):
        shutil.copytree(converted / "7", tmp_path / name / step)
    assert load_weights(tmp_path, DEVICE).step == 3
    assert load_weights(tmp_path, DEVICE, step=5).step == 5
    flip(arrays_of(tmp_path / BEST / "3"))
    said = []
    assert load_weights(tmp_path, DEVICE, say=said.append).step == 9
    (line,) = said
    assert f"{tmp_path / BEST / '3'} is damaged" in line and f"{tmp_path / LAST / '9'}" in line


def test_the_list_names_every_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"123")
    (tmp_path / "_CHECKPOINT_METADATA").write_text("{}")
    write_checksums(tmp_path)
    assert damage(tmp_path) == ""
    (tmp_path / "c").write_bytes(b"")  # what is not listed is not read
    assert damage(tmp_path) == ""
    (tmp_path / "a" / "b").write_bytes(b"124")
    assert damage(tmp_path) == "a/b is not what was written"
    (tmp_path / "a" / "b").unlink()
    assert damage(tmp_path) == "a/b is missing"
