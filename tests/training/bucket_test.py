"""Training with everything in a bucket, whose server runs on the loopback."""

import os
import signal
import subprocess
import sys
import threading

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.experimental.compilation_cache import compilation_cache

pytest.importorskip("gcp_storage_emulator", reason="pip install -e '.[test]'")

from massformer_jax import Segmenter, compilation
from massformer_jax.convert import __main__ as convert
from massformer_jax.data import pipeline
from massformer_jax.data.records import PipelineError
from massformer_jax.errors import InputError
from massformer_jax.files import names_below
from massformer_jax.models.checksums import LIST, damage
from massformer_jax.models.weights import BEST, LAST, steps_in, unfinished_in
from massformer_jax.training import checkpoint, loop
from massformer_jax.training.optimizer import recipe_optimizer
from scripts import ROOT
from scripts.soak import kills
from tests.helpers import stand_in_training, tiny_config
from tests.helpers.fake_bucket import NAME, fake_bucket
from tests.helpers.stopped import stopped_in
from tests.helpers.tiny_weights import tiny_state, write
from tests.parallel.processes_test import free_port
from tests.training.loop_test import scalars

pytestmark = pytest.mark.slow  # it starts three processes that train
COMMAND = [sys.executable, "-m", "tests.helpers.stand_in_training"]
SETTINGS = {"total_steps": 6, "eval_every": 6, "checkpoint_every": 2}


@pytest.fixture(scope="module", autouse=True)
def no_network():
    with pytest.MonkeyPatch.context() as patch:
        stand_in_training.install(patch.setattr)
        yield


@pytest.fixture(scope="module")
def bucket():
    with fake_bucket() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def data(bucket, data_dir):
    """The sample in the bucket."""
    return bucket.copy(data_dir, "data")


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    """The workdir, on the disk, of a run from beginning to end."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    loop.train_and_evaluate(short(data_dir), workdir)
    return workdir


@pytest.fixture(scope="module")
def trained(bucket, data):
    """The workdir, in the bucket, of a run that was stopped after step 3 and continued."""
    workdir = bucket / "run"
    with stopped_in(3, 6):
        loop.train_and_evaluate(short(data), workdir)
    assert steps_in(workdir / LAST) == [2, 3]
    loop.train_and_evaluate(short(data), workdir)
    return workdir


def short(data_dir):
    config = tiny_config.get_config()
    config.data.data_dir = str(data_dir)
    config.update(SETTINGS)
    config.profile_steps = "5:6"
    return config


def copied(bucket, folder, name):
    """Copies a folder of the bucket inside of it."""
    files, root = fsspec.url_to_fs(str(folder))
    for path in files.find(root):
        files.copy(path, f"{NAME}/{name}{path.removeprefix(root)}")
    return bucket / name


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def arrays_of(folder):
    """The largest object of arrays."""
    names = [name for name in names_below(folder) if name.startswith("model/") and "/d/" in name]
    return max((folder / name for name in names), key=lambda path: path.stat().length)


def test_stopped_and_continued_it_ends_as_on_a_disk(trained, undisturbed):
    assert not kills.differences(trained, list(kills.end_of(undisturbed)))
    for name in ("evaluated", "shardings.txt", "eval/row.md"):
        expected = (undisturbed / name).read_text().replace("undisturbed", "run")
        assert (trained / name).read_text() == expected
    kinds = ("scalars/", "profile/", "checkpoints/", "best/")  # which have names of their own
    here, there = (
        [name for name in names_below(workdir) if not name.startswith(kinds)]
        for workdir in (trained, undisturbed)
    )
    assert here == there
    for step in ("4", "6"):
        assert not damage(trained / LAST / step)


def test_scalars_and_the_trace_are_in_the_bucket(trained, undisturbed, tmp_path):
    for name in names_below(trained / "scalars"):
        (tmp_path / "scalars" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "scalars" / name).write_bytes((trained / "scalars" / name).read_bytes())
    found, expected = scalars(tmp_path), scalars(undisturbed)
    assert found.keys() == expected.keys()
    for tag in ("train/loss", "eval/mIoU"):
        assert found[tag] == expected[tag]
    (trace,) = [x for x in names_below(trained / "profile") if x.endswith(".xplane.pb")]
    assert trace.startswith("plugins/profile/")


def started(bucket, data, workdir, *arguments, devices=8):
    """Starts the command of a training."""
    settings = [f"--config.{name}={value}" for name, value in SETTINGS.items()]
    command = [*COMMAND, f"--config={tiny_config.__file__}", f"--workdir={workdir}", *settings]
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [*command, f"--config.data.data_dir={data}", *arguments],
        cwd=ROOT,
        env=os.environ | bucket.environment | {"XLA_FLAGS": flags},
    )


def test_killed_while_saving_it_continues(bucket, data, undisturbed):
    """What has been written of a state of which the last objects are missing does not count."""
    workdir, written = bucket / "killed", []
    training = started(bucket, data, workdir, "--config.profile_steps=5:6")

    def kill(name):
        written.append(name)
        if name.endswith(f"{LAST}/4/{LIST}"):
            training.kill()

    bucket.on_upload = kill
    try:
        assert training.wait(600) == -signal.SIGKILL
    finally:
        bucket.on_upload = lambda name: None
        training.kill()
    assert any("/4/model/" in name for name in written)
    assert steps_in(workdir / LAST) == [2]
    assert [path.name for path in unfinished_in(workdir / LAST)] == ["4"]
    loop.train_and_evaluate(short(data), workdir)
    assert not kills.differences(workdir, list(kills.end_of(undisturbed)))
    assert steps_in(workdir / LAST) == [4, 6]


def test_several_processes_share_a_bucket(bucket, data):
    """A state and the best weights of the same step may be saved at once."""
    workdir, best_written = bucket / "shared", threading.Event()

    def hold(name):
        if name == f"shared/{BEST}/2/{LIST}":
            best_written.set()
        elif name == f"shared/{LAST}/2/{LIST}":
            best_written.wait(60)

    bucket.on_upload = hold
    several = ["--distributed", f"--coordinator=localhost:{free_port()}", "--processes=2"]
    several += ["--config.total_steps=2", "--config.eval_every=2"]
    processes = [
        started(bucket, data, workdir, *several, f"--process={i}", devices=4) for i in range(2)
    ]
    try:
        assert [process.wait(600) for process in processes] == [0, 0]
    finally:
        bucket.on_upload = lambda name: None
        for process in processes:
            process.kill()
    for name in (LAST, BEST):
        assert steps_in(workdir / name) == [2] and not damage(workdir / name / "2")


def test_a_damaged_object_is_found_and_the_state_before_is_taken(
    bucket, data, trained, undisturbed, capsys
):
    workdir = copied(bucket, trained, "damaged")
    flip(arrays_of(workdir / LAST / "6"))
    before = names_below(workdir / LAST / "6")
    loop.train_and_evaluate(short(data), workdir)
    said = capsys.readouterr().out
    assert f"{workdir / LAST / '6'} is damaged: " in said and "is not what was written" in said
    assert "step 4 of 6" in said
    assert names_below(workdir / LAST / "6.damaged") == before
    assert not kills.differences(workdir, list(kills.end_of(undisturbed)))


def test_a_step_is_chosen(bucket, trained, capsys):
    workdir = copied(bucket, trained, "earlier")
    before = names_below(workdir / LAST / "6")
    checkpoint.set_aside(workdir / LAST, step=4, needed=True)
    assert "6 is later than step 4; it is now 6.later" in capsys.readouterr().out
    assert names_below(workdir / LAST / "6.later") == before
    assert steps_in(workdir / LAST) == [4]


def test_the_state_before_a_step_that_is_not_finite_is_kept(bucket, data):
    optimizer = recipe_optimizer(**short(data).optimizer, total_steps=6)
    state = stand_in_training.init_state(jax.random.key(0), {}, optimizer)
    image = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    workdir = bucket / "nonfinite"
    folder = checkpoint.save_nonfinite(workdir, state, {"image": image}, {"classes": 7})
    assert str(folder) == f"{workdir}/nonfinite" and not damage(folder / "0")
    with (folder / "batch_0.npz").open("rb") as file:
        np.testing.assert_array_equal(np.load(file)["image"], image)


def test_a_workdir_of_another_config_is_refused(data, trained):
    config = short(data)
    config.seed += 1
    with pytest.raises(InputError, match=rf"{trained} belongs to a run with another config: seed"):
        loop.train_and_evaluate(config, trained)


def test_weights_are_converted_into_the_bucket_and_back(bucket, tmp_path, capsys):
    released, again = tmp_path / "released.safetensors", tmp_path / "again.safetensors"
    folder = bucket / "weights"
    write(released, tiny_state())
    assert convert.main([f"--input={released}", f"--output={folder}"]) == 0
    assert convert.main(["--to-torch", f"--input={folder}", f"--output={again}"]) == 0
    here, there = map(safetensors.numpy.load_file, (again, released))
    assert here.keys() == there.keys()
    jax.tree.map(np.testing.assert_array_equal, here, there)
    assert len(Segmenter.load(str(folder)).classes) == 7
    assert convert.main([f"--input={released}", f"--output={folder}"]) == 2
    assert f"{folder} holds files already" in capsys.readouterr().err
    flip(arrays_of(folder / str(*steps_in(folder))))
    with pytest.raises(InputError, match=rf"{folder}/.* is damaged: .* is not what was written"):
        Segmenter.load(str(folder))


def test_a_checkpoint_that_was_copied_into_the_bucket_is_one(bucket, undisturbed):
    folder = bucket.copy(undisturbed / BEST, "copied")
    assert steps_in(folder) == steps_in(undisturbed / BEST)
    assert not damage(folder / str(*steps_in(folder)))


def test_records_know_when_they_are_damaged(bucket, data):
    place = copied(bucket, data, "damaged_data")
    (name,) = [x for x in names_below(place) if "-validation.array_record" in x]
    flip(place / name)
    with pytest.raises(InputError, match=r"record .* cannot be read: .*Corrupted"):
        list(pipeline.eval_examples(str(place), split="validation"))
    (place / name).unlink()
    with pytest.raises(PipelineError, match=f"{place / name}: the file is missing"):
        pipeline.eval_examples(str(place), split="validation")


def test_compiled_programs_are_kept_in_the_bucket(bucket, capsys):
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs")
    names = [f"jax_{name}" for name in (*names, "persistent_cache_enable_xla_caches")]
    before = {name: getattr(jax.config, name) for name in names}
    try:
        compilation.keep_compiled(str(bucket / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        with compilation.waits_said(print):
            for _ in range(2):
                jax.clear_caches()
                jax.jit(lambda x: (compilation.announce("it"), x + 1)[1])(jnp.zeros(3))
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert names_below(bucket / "compiled")
    said = capsys.readouterr().out
    assert "compiled and kept in gs://" in said and "… read from gs://" in said


def test_what_the_best_weights_hold(trained, undisturbed):
    assert steps_in(trained / BEST) == steps_in(undisturbed / BEST)
    assert not damage(trained / BEST / str(*steps_in(trained / BEST)))
