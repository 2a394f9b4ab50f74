"""The command makes checkpoints that predict from files, and the same files again, bit for bit."""

import contextlib
import hashlib
import os
import resource
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from massformer_jax.convert import __main__ as convert_command
from massformer_jax.convert.weights import to_torch, write_exchanged
from massformer_jax.convert.weights_file import read_weights
from massformer_jax.data.images import decode_mask
from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.models.weights import load_weights
from massformer_jax.predict import main as predict_main
from tests.helpers import release
from tests.helpers.tiny_weights import TINY, counted, tiny_state, write
from tests.helpers.torch_checkpoint import write_checkpoint

DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def run(capsys, *argv) -> tuple[int, str]:
    status = convert_command.main([str(argument) for argument in argv])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def assert_equal(ours: dict, expected: dict) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert ours[name].dtype == tensor.dtype and ours[name].shape == tensor.shape, name
        assert ours[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("manifest", ["r50", "r18_lite"])
def test_there_and_back_is_bit_identical(manifest, tmp_path, capsys):
    """All 660 tensors, the counters among them, go through both commands."""
    state = counted(release.state_dict(manifest, 9))
    source = write(tmp_path / "in.safetensors", state)
    status, printed = run(capsys, "--input", source, "--output", tmp_path / "ours")
    assert status == 0 and "MaSSFormer" in printed, printed
    back = tmp_path / "back.safetensors"
    back_again = ("--to-torch", "--input", tmp_path / "ours", "--output", back)
    status, printed = run(capsys, *back_again, "--step", 3)
    assert (status, "no checkpoint of step 3" in printed) == (2, True)
    assert run(capsys, *back_again)[0] == 0
    assert_equal(safetensors.numpy.load_file(back), state)
    assert set(state) == set(release.shapes(manifest))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("bare", [False, True])
def test_prefixes(prefix, bare, tmp_path, capsys):
    state = tiny_state()
    shown = {
        prefix + (name.removeprefix("backbone.") if bare else name): tensor
        for name, tensor in state.items()
    }
    source = write(tmp_path / "in.safetensors", shown)
    assert run(capsys, "--input", source, "--output", tmp_path / "ours")[0] == 0
    assert_equal(to_torch(load_weights(tmp_path / "ours", DEVICE)), state)


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_provenance_names_and_colours(zipped, tmp_path, capsys):
    """All of them come from the file."""
    import torch

    source = tmp_path / "iter_80000.pth"
    write_checkpoint(torch, source, tiny_state(), _use_new_zipfile_serialization=zipped)
    assert run(capsys, "--input", source, "--output", tmp_path / "ours")[0] == 0
    weights = load_weights(tmp_path / "ours", DEVICE)
    assert weights.step == 80_000 and weights.architecture == TINY
    assert weights.classes == tuple(f"name {i}" for i in range(7))
    assert weights.palette == tuple((i, 2 * i, 9) for i in range(7))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    counters = weights.source.pop("counters")
    assert weights.source == {"file": source.name, "sha256": digest, "iteration": 80_000}
    assert min(counters.values()) == 80_000 < max(counters.values())

    back = tmp_path / "back.safetensors"
    assert run(capsys, "--to-torch", "--input", tmp_path / "ours", "--output", back)[0] == 0
    again = read_weights(back)
    expected = (80_000, weights.classes, weights.palette)
    assert (again.iteration, again.classes, again.palette) == expected


@pytest.mark.slow
def test_masks_have_the_file_s_colours(tmp_path, capsys):
    source = write(tmp_path / "in.safetensors", tiny_state(classes=3))
    assert run(capsys, "--input", source, "--output", tmp_path / "ours")[0] == 0
    photo = release.PARITY / "infer_256x512" / "image.png"
    options = ["--checkpoint", str(tmp_path / "ours"), "--write=labels,overlay", str(photo)]
    assert predict_main(["--output", str(tmp_path / "masks"), *options]) == 0
    with Image.open(tmp_path / "masks" / "image.png") as mask:
        assert mask.getpalette()[:12] == [255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255]
    assert decode_mask(tmp_path / "masks" / "image.png").max() < 3


def test_an_encoder_alone(tmp_path, capsys):
    """The file is like torchvision's: it has no prefix, a classifier, and no decoder."""
    state = {k.removeprefix("backbone."): v for k, v in tiny_state().items() if "backbone" in k}
    state |= {"fc.weight": np.ones((9, 512), np.float32), "fc.bias": np.ones(9, np.float32)}
    source = write(tmp_path / "resnet18.safetensors", state)
    status, printed = run(capsys, "--input", source, "--output", tmp_path / "ours")
    assert status == 0 and "encoder only, 11,176,512 parameters" in printed, printed
    weights = load_weights(tmp_path / "ours", DEVICE, encoder=True)
    assert list(weights.params) == ["backbone"] and weights.architecture == {"encoder_depth": 18}
    target = tmp_path / "back.safetensors"
    status, printed = run(capsys, "--to-torch", "--input", tmp_path / "ours", "--output", target)
    assert status == 2 and "an encoder alone" in printed and not target.exists()


def refused(tmp_path, capsys, state, *options) -> str:
    source = write(tmp_path / "in.safetensors", state)
    status, printed = run(capsys, "--input", source, "--output", tmp_path / "ours", *options)
    assert status == 2 and printed.startswith("error: ") and str(source) in printed
    assert not (tmp_path / "ours").exists()
    return printed


def test_what_does_not_fit_is_listed_and_nothing_written(tmp_path, capsys):
    state = tiny_state()
    name = "decode_head.transformer_decoder.layers.0.norms.0.weight"
    state["decode_head.extra"] = state.pop(name)
    printed = refused(tmp_path, capsys, state)
    assert "1 missing, 1 left over" in printed and name in printed
    assert "decode_head.extra" in printed


def test_another_model_than_named(tmp_path, capsys):
    printed = refused(tmp_path, capsys, tiny_state(), "--model", "massformer_r18_lite")
    name = "decode_head.pixel_decoder.pixel_decoder.conv_avg.conv.weight"
    assert f"{name} is (8, 512, 1, 1), the model's is (64, 512, 1, 1)\n" in printed


def test_a_checkpoint_is_never_written_over(tmp_path, capsys):
    source = write(tmp_path / "in.safetensors", tiny_state())
    assert run(capsys, "--input", source, "--output", tmp_path / "ours")[0] == 0
    kept = max((tmp_path / "ours").rglob("*"), key=lambda path: path.stat().st_size)
    before = kept.read_bytes()
    output = tmp_path / "linked.safetensors"
    output.symlink_to(kept)
    status, printed = run(capsys, "--to-torch", "--input", tmp_path / "ours", "--output", output)
    assert status == 2 and "would be written over" in printed and printed.count("\n") == 1
    assert output.read_bytes() == before
    # What the command wrote into the checkpoint's folder before may be written again.
    output = tmp_path / "ours" / "back.safetensors"
    for _ in range(2):
        assert run(capsys, "--to-torch", "--input", tmp_path / "ours", "--output", output)[0] == 0


def test_exchanged_weights_are_never_written_over(tmp_path, capsys):
    """They are in a .safetensors, as what is written."""
    source = write(tmp_path / "in.safetensors", tiny_state())
    assert run(capsys, "--input", source, "--output", tmp_path / "ours")[0] == 0
    exchanged = tmp_path / "exchanged"
    exchanged.mkdir()
    write_exchanged(load_weights(tmp_path / "ours", DEVICE), exchanged)
    output = exchanged / "model.safetensors"
    before = output.read_bytes()
    status, printed = run(capsys, "--to-torch", "--input", exchanged, "--output", output)
    assert status == 2 and "would be written over" in printed and printed.count("\n") == 1
    assert output.read_bytes() == before


@contextlib.contextmanager
def small_disk():
    """Lets files grow to a megabyte, as where the disk is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_does_not_fit_is_one_line_and_leaves_nothing(tmp_path, capfd, caplog):
    """With the same command once there is room, both files and folders are written."""
    source, ours = write(tmp_path / "in.safetensors", tiny_state()), tmp_path / "ours"
    back = tmp_path / "back.safetensors"
    there = {source}
    for argv in (
        ("--input", source, "--output", ours),
        ("--to-torch", "--input", ours, "--output", back),
    ):
        with small_disk():
            status, printed = run(capfd, *argv)
        assert status == 2 and printed.startswith("error: ") and printed.count("\n") == 1, printed
        assert "File too large" in printed and set(tmp_path.iterdir()) == there
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
        status, printed = run(capfd, *argv)
        assert status == 0, printed
        there.add(argv[-1])
    umask = os.umask(0)
    os.umask(umask)
    assert back.stat().st_mode & 0o777 == 0o666 & ~umask
    assert_equal(safetensors.numpy.load_file(back), tiny_state())


@pytest.mark.parametrize("flags", [(), ("--to-torch",)])
def test_what_cannot_be_written_is_one_line(flags, tmp_path, capsys):
    source = write(tmp_path / "in.safetensors", tiny_state())
    if flags:
        assert run(capsys, "--input", source, "--output", tmp_path / "ours")[0] == 0
        source = tmp_path / "ours"
    argv = (*flags, "--input", source, "--output", "/proc/nothing.safetensors")
    status, printed = run(capsys, *argv)
    assert status == 2 and printed.startswith("error: /proc/"), printed
    assert printed.count("\n") == 1


def test_an_output_that_exists_is_left_alone(tmp_path, capsys):
    source = write(tmp_path / "in.safetensors", tiny_state())
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "mine.txt").write_text("mine")
    status, printed = run(capsys, "--input", source, "--output", tmp_path / "ours")
    assert status == 2 and "name a new folder" in printed
    assert os.listdir(tmp_path / "ours") == ["mine.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("manifest", "seed", "folder"),
    [
        ("r50", 9, "infer_256x512"),
        ("r50", 2, "infer_512x768"),
        ("r18_lite", 3, "infer_lite_256x512"),
    ],
)
def test_a_full_size_file_predicts_the_recorded_labels(manifest, seed, folder, tmp_path):
    import torch

    source, ours = tmp_path / "iter_80000.pth", tmp_path / "ours"
    write_checkpoint(torch, source, release.state_dict(manifest, seed))
    # The process reads its own peak memory: that of `wait4` includes this process before `exec`.
    code = (
        "import sys; from massformer_jax.convert.__main__ import main; status = main(sys.argv[1:]);"
        "print(next(line for line in open('/proc/self/status') if 'VmHWM' in line).split()[1]);"
        "sys.exit(status)"
    )
    command = [sys.executable, "-c", code, "--input", str(source), "--output", str(ours)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})  # one core
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    seconds, peak = usage.ru_utime + usage.ru_stime, int(printed.split()[-1]) * 1024
    print(f"{source.stat().st_size:,} bytes: {seconds:.1f} s of one core, peak {peak:,} bytes")
    assert seconds < 20 and peak < 10**9

    image = release.read_rgb(release.PARITY / folder / "image.png")
    labels = Segmenter.load(ours).predict(image)
    expected = release.read_labels(release.PARITY / folder / "prediction.png")
    assert np.mean(labels == expected) >= 0.9999
