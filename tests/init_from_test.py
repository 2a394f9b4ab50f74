"""Runs start from the weights that they name, and say what stays fresh."""

import functools

import jax
import numpy as np
import pytest

import tiny_config
from convert_command_test import TINY, tiny_state, write
from massformer_jax import checkpoint, convert, main
from massformer_jax.errors import InputError
from massformer_jax.init_from import read_initial, start
from massformer_jax.optim import optimizer
from massformer_jax.train_state import init_state
from massformer_jax.weights_file import read_weights


@pytest.fixture(scope="module")
def state():
    """A fresh state."""
    tx = optimizer(**tiny_config.get_config().optimizer, total_steps=1)
    init = functools.partial(init_state, model=TINY, optimizer=tx)
    return jax.jit(init)(jax.random.key(0, impl="unsafe_rbg"))


def started(state, path):
    """(leaves that came from the file, leaves that stayed fresh), in torch's names."""
    initial = read_initial(path, TINY)
    after = start(state, initial)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    taken, fresh = {}, set()
    before = convert.flatten((state.params, state.batch_stats))
    for leaf_path, leaf in convert.flatten((after.params, after.batch_stats)).items():
        if leaf is before[leaf_path]:
            fresh.add(convert.torch_name(leaf_path))
        else:
            taken[convert.torch_name(leaf_path)] = convert.to_torch_layout(
                leaf_path, np.asarray(leaf)
            )
    return taken, fresh, initial.message


def in_file(path, names):
    tensors = read_weights(path).tensors
    return {name: tensors[name] for name in names}


def assert_taken(taken, path):
    assert taken
    jax.tree.map(np.testing.assert_array_equal, taken, in_file(path, taken))


def converted(path, folder):
    assert convert.main(["--input", str(path), "--output", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("through", [lambda path, _: path, converted], ids=["file", "checkpoint"])
def test_the_same_model(through, state, tmp_path):
    path = write(tmp_path / "weights.safetensors", tiny_state())
    taken, fresh, message = started(state, through(path, tmp_path / "ours"))
    assert not fresh and "nothing is freshly initialised" in message
    assert_taken(taken, path)


@pytest.mark.parametrize("through", [lambda path, _: path, converted], ids=["file", "checkpoint"])
def test_an_encoder(through, state, tmp_path):
    tensors = {k.removeprefix("backbone."): v for k, v in tiny_state().items() if "backbone" in k}
    path = write(tmp_path / "resnet18.safetensors", tensors)
    taken, fresh, message = started(state, through(path, tmp_path / "ours"))
    assert "all but the encoder is freshly initialised" in message
    assert {name.split(".")[0] for name in fresh} == {"decode_head"}
    assert {name.split(".")[0] for name in taken} == {"backbone"}
    assert_taken(taken, path)


def test_another_number_of_classes(state, tmp_path):
    path = write(tmp_path / "weights.safetensors", tiny_state(classes=3))
    taken, fresh, message = started(state, path)
    assert fresh == {"decode_head.cls_embed.weight", "decode_head.cls_embed.bias"}
    assert "(cls_embed) is freshly initialised, for 7 classes instead of 3" in message
    assert_taken(taken, path)


@pytest.mark.parametrize(
    "change", [{"queries": 9}, {"decoder_width": 16}, {"layers": 2}, {"ffn_width": 32}]
)
def test_another_model_is_refused(change, tmp_path):
    path = write(tmp_path / "weights.safetensors", tiny_state(**change))
    [(key, value)] = change.items()
    with pytest.raises(InputError, match=rf"init_from: .* has model\.{key}={value}, the config"):
        read_initial(path, TINY)


def test_an_encoder_of_another_depth_is_refused(tmp_path):
    tensors = {k: v for k, v in tiny_state().items() if "backbone" in k}
    path = write(tmp_path / "resnet18.safetensors", tensors)
    with pytest.raises(InputError, match=r"has model\.encoder_depth=18, the config 50"):
        read_initial(path, TINY | {"encoder_depth": 50})


def test_the_command_refuses_before_it_makes_a_workdir(tmp_path, data_dir, capsys):
    argv = [f"--config={tiny_config.__file__}", f"--workdir={tmp_path / 'run'}"]
    argv += [f"--config.data.data_dir={data_dir}", f"--config.init_from={tmp_path / 'no.pth'}"]
    assert main.main(["main", *argv]) == 2
    assert "no.pth cannot be read: No such file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_starts_from_a_file(tmp_path, data_dir, capsys):
    """With a learning rate of zero the weights after a step are the file's."""
    path = write(tmp_path / "weights.safetensors", tiny_state())
    argv = [f"--config={tiny_config.__file__}", f"--workdir={tmp_path / 'run'}"]
    argv += [f"--config.data.data_dir={data_dir}", f"--config.init_from={path}"]
    argv += ["--config.total_steps=1", "--config.optimizer.peak_learning_rate=0.0"]
    assert main.main(["main", *argv]) == 0
    assert "nothing is freshly initialised" in capsys.readouterr().out
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    weights = checkpoint.load_weights(tmp_path / "run", sharding)
    trained = {
        convert.torch_name(p): convert.to_torch_layout(p, np.asarray(leaf))
        for p, leaf in convert.flatten(weights.params).items()
    }
    assert_taken(trained, path)
    # A finished run needs the file no more.
    path.unlink()
    assert main.main(["main", *argv]) == 0
