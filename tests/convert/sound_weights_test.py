"""Weights that are not finite numbers are refused by name; encoders are told from one another."""

import pathlib

import ml_dtypes
import numpy as np
import pytest

from massformer_jax.convert import __main__ as convert_command
from massformer_jax.convert.weights import recognise, weights_of
from massformer_jax.convert.weights_file import WeightsFile, read_weights
from massformer_jax.errors import InputError
from massformer_jax.models.build import check_architecture
from massformer_jax.models.names import COUNTER
from tests.helpers.pickles import saved
from tests.helpers.tiny_weights import TINY, tiny_state, write

KERNEL, VARIANCE = "backbone.conv1.weight", "backbone.bn1.running_var"
COUNT = f"backbone.bn1.{COUNTER}"


def refusal(state, tmp_path) -> str:
    path = write(tmp_path / "weights.safetensors", {"w": np.zeros(1, np.float32)})
    with pytest.raises(InputError) as error:
        weights_of(WeightsFile(path, state, (), None, None, None))
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    return message


@pytest.fixture(scope="module")
def state():
    return tiny_state()


def changed(state, name, number, count=1):
    tensor = state[name].copy()
    tensor.reshape(-1)[:count] = number
    return state | {name: tensor}


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_counted_and_named(number, state, tmp_path):
    wrong = changed(changed(state, KERNEL, number, 3), VARIANCE, number)
    message = refusal(wrong, tmp_path)
    assert message.count("\n") == 0 and ": weights that are not finite, or " in message
    assert f"3 of 9,408 in {KERNEL}" in message and f"1 of 64 in {VARIANCE}" in message


@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.bfloat16])
def test_what_float32_cannot_hold_is_not_finite(dtype, state, tmp_path, recwarn):
    tensor = state[KERNEL].astype(dtype)
    tensor.reshape(-1)[5] = 1e300 if dtype is np.float64 else np.nan
    assert f"1 of 9,408 in {KERNEL}" in refusal(state | {KERNEL: tensor}, tmp_path)
    assert not recwarn.list


def test_a_negative_variance_is_refused(state, tmp_path):
    assert f"2 of 64 in {VARIANCE}" in refusal(changed(state, VARIANCE, -1e-3, 2), tmp_path)


@pytest.mark.parametrize("count", [np.nan, np.inf, 1e300, -1.0])
def test_a_counter_that_counts_nothing_is_refused(count, state, tmp_path):
    message = refusal(state | {COUNT: np.array(count)}, tmp_path)
    assert f"{COUNT} is {count}, which is no number of steps" in message


def test_many_tensors_are_not_all_named(state, tmp_path):
    bad = {name: np.full_like(x, np.nan) for name, x in state.items() if x.dtype == np.float32}
    assert len(refusal(state | bad, tmp_path)) < 700


def run(capsys, *argv) -> tuple[int, str]:
    status = convert_command.main([str(argument) for argument in argv])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def test_the_command_refuses_them(state, tmp_path, capsys):
    source = write(tmp_path / "in.safetensors", changed(state, KERNEL, np.nan))
    status, printed = run(capsys, "--input", source, "--output", tmp_path / "ours")
    assert status == 2 and printed.startswith(f"error: {source}: weights that are not finite")
    assert not (tmp_path / "ours").exists()


def test_the_command_says_what_it_takes(state, tmp_path, capsys):
    source = tmp_path / "in.pth"
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
    source.write_bytes(saved({"model": wrapped, "ema": {"w": np.zeros(2, np.float32)}}))
    status, printed = run(capsys, "--input", source, "--output", tmp_path / "ours")
    assert status == 2 and "choose one" in printed
    arguments = ("--input", source, "--output", tmp_path / "ours", "--key", "model")
    status, printed = run(capsys, *arguments)
    assert status == 0 and "MaSSFormer" in printed
    assert f"{source}: takes the tensors under 'model', not those under 'ema'\n" in printed
    assert f"{source}: all names begin with '_orig_mod.', which is left out\n" in printed


def encoder(state) -> dict:
    return {name: x for name, x in state.items() if name.startswith("backbone.")}


def test_an_encoder_of_mmpretrain_is_one(state, tmp_path):
    """Its classifier is `head.fc`."""
    head = {"head.fc.weight": np.ones((9, 512), np.float32), "head.fc.bias": np.ones(9, np.float32)}
    source = tmp_path / "resnet18.pth"
    source.write_bytes(saved({"meta": {}, "state_dict": encoder(state) | head}))
    assert weights_of(read_weights(source)).architecture == {"encoder_depth": 18}


def test_a_damaged_model_is_compared_with_the_nearest_one(state, tmp_path):
    """A ResNet-18 with a stranger's head lacks nothing of a ResNet-50."""
    message = refusal(encoder(state) | {"neck.weight": np.ones(9, np.float32)}, tmp_path)
    assert "conv3" not in message and "neck.weight" in message


@pytest.mark.parametrize(
    ("last", "blocks", "depth"),
    [("conv2", (3, 4, 6, 3), 34), ("conv3", (3, 4, 23, 3), 101), ("conv3", (3, 8, 36, 3), 152)],
)
def test_another_resnet_is_named(last, blocks, depth, tmp_path):
    state = {
        f"backbone.layer{stage + 1}.{block}.{last}.weight": np.ones(1, np.float32)
        for stage, count in enumerate(blocks)
        for block in range(count)
    }
    assert f"holds a ResNet-{depth}; the encoder is" in refusal_of_encoder(state, tmp_path)


def refusal_of_encoder(state, tmp_path: pathlib.Path) -> str:
    path = write(tmp_path / "encoder.safetensors", state)
    with pytest.raises(InputError) as error:
        weights_of(read_weights(path))
    return str(error.value)


def test_what_cannot_be_built_is_not_recognised(state):
    assert recognise(state) == TINY
    check_architecture(TINY)
    width = "decode_head.pixel_decoder.pixel_decoder.conv_avg.conv.weight"
    wrong = np.broadcast_to(np.zeros((), np.float32), (12, 512, 1, 1))
    assert recognise(state | {width: wrong}) is None
