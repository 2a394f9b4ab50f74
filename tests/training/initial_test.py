"""Runs start from the weights that they name, and say what stays fresh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from massformer_jax import main
from massformer_jax.classes import CLASSES
from massformer_jax.convert import __main__ as convert_command
from massformer_jax.convert.weights_file import read_weights
from massformer_jax.errors import InputError
from massformer_jax.models import names
from massformer_jax.models.build import abstract_weights
from massformer_jax.models.names import from_torch, weights_by_path
from massformer_jax.models.weights import load_weights
from massformer_jax.training import evaluation, loop
from massformer_jax.training.initial import (
    KnownClasses,
    known_classes,
    read_initial,
    start,
    with_known_classes,
)
from massformer_jax.training.state import TrainState, abstract_state
from tests.helpers import stand_in_training, tiny_config
from tests.helpers.tiny_weights import TINY, tiny_state, tiny_train_state, write

EIGHT = TINY | {"classes": 8}


@pytest.fixture(scope="module")
def state():
    """A fresh state."""
    return tiny_train_state(optax.identity())


def started(state, path):
    """(leaves that came from the file, leaves that stayed fresh), in torch's names."""
    initial = read_initial(path, TINY)
    after = start(state, initial)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    taken, fresh = {}, set()
    before = weights_by_path((state.params, state.batch_stats))
    for leaf_path, leaf in weights_by_path((after.params, after.batch_stats)).items():
        if leaf is before[leaf_path]:
            fresh.add(names.torch_name(leaf_path))
        else:
            taken[names.torch_name(leaf_path)] = names.to_torch_layout(leaf_path, np.asarray(leaf))
    return taken, fresh, initial.message


def in_file(path, names):
    tensors = read_weights(path).tensors
    return {name: tensors[name] for name in names}


def assert_taken(taken, path):
    assert taken
    jax.tree.map(np.testing.assert_array_equal, taken, in_file(path, taken))


def converted(path, folder):
    assert convert_command.main(["--input", str(path), "--output", str(folder)]) == 0
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


def test_classes_of_the_same_name_keep_their_columns(tmp_path):
    """A class more, and two in each other's place; the last column is that of no object."""
    classes = (*CLASSES[:4], "car", CLASSES[5], CLASSES[4], CLASSES[6])
    path = write(tmp_path / "weights.safetensors", tiny_state())
    own = jax.tree.map(jnp.asarray, from_torch(tiny_state(2, classes=8), abstract_weights(EIGHT)))
    before = jax.device_get(own[0]["cls_embed"])
    initial = read_initial(path, EIGHT, classes)
    assert "sky, ground, water are kept, and freshly initialised: car" in initial.message
    step, skipped = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    head = start(TrainState(step, *own, (), skipped), initial).params["cls_embed"]
    of_file = in_file(path, ("decode_head.cls_embed.weight", "decode_head.cls_embed.bias"))
    for name, theirs in zip(("kernel", "bias"), of_file.values(), strict=True):
        kept = head[name][..., [0, 1, 2, 3, 5, 6, 7, 8]]
        np.testing.assert_array_equal(kept, theirs.T[..., [0, 1, 2, 3, 5, 4, 6, 7]])
        np.testing.assert_array_equal(head[name][..., 4], before[name][..., 4])


def test_columns_of_a_network_without_no_object():
    """CoordFormer has a column for each class alone, below `decoder/classify`."""
    known = known_classes({"encoder": {}, "classes": 3}, ("sky", "car", "sea"), ("sea", "sky"))
    assert known == KnownClasses("decoder/classify", (0, 2), (1, 0))
    theirs = {"decoder": {"classify": {"bias": jnp.array([1.0, 2.0])}, "a": 1}, "b": 2}
    ours = {"decoder": {"classify": {"bias": jnp.array([7.0, 8.0, 9.0])}, "a": 3}, "b": 4}
    merged = with_known_classes(theirs, ours, known)
    np.testing.assert_array_equal(merged["decoder"].pop("classify")["bias"], [2, 8, 1])
    assert merged == {"decoder": {"a": 1}, "b": 2}


@pytest.mark.parametrize(
    "change", [{"queries": 9}, {"decoder_width": 16}, {"layers": 2}, {"ffn_width": 32}]
)
def test_another_model_is_refused(change, tmp_path):
    path = write(tmp_path / "weights.safetensors", tiny_state(**change))
    [(key, value)] = change.items()
    with pytest.raises(
        InputError, match=rf"init_from: .* has architecture\.{key}={value}, the config"
    ):
        read_initial(path, TINY)


def test_an_encoder_of_another_depth_is_refused(tmp_path):
    tensors = {k: v for k, v in tiny_state().items() if "backbone" in k}
    path = write(tmp_path / "resnet18.safetensors", tensors)
    with pytest.raises(InputError, match=r"has architecture\.encoder_depth=18, the config 50"):
        read_initial(path, TINY | {"encoder_depth": 50})


def test_the_command_refuses_before_it_makes_a_workdir(tmp_path, data_dir, capsys):
    argv = [f"--config={tiny_config.__file__}", f"--workdir={tmp_path / 'run'}"]
    argv += [f"--config.data.data_dir={data_dir}", f"--config.init_from={tmp_path / 'no.pth'}"]
    assert main.main(argv) == 2
    assert "no.pth cannot be read: No such file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def nothing_learned(monkeypatch):
    """Puts a step that changes no weight in the place of one that takes minutes to compile.

    Fresh weights are zeros, which no weight of the file is.
    """

    def init_state(key, architecture, optimizer):
        shapes = abstract_state(architecture, optimizer)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def training_step(architecture, optimizer, mesh, *, shardings, **_):
        def step(state, batch):
            names = ("loss", *stand_in_training.LOSSES, "gradient_norm", "skipped")
            return state._replace(step=state.step + 1), dict.fromkeys(names, jnp.zeros(()))

        return jax.jit(step, out_shardings=(shardings, None), donate_argnums=0)

    def evaluation_function(*arguments, **settings):
        step = stand_in_training.evaluation_function(*arguments, **settings)
        return lambda params, *rest: step({"colour": jnp.zeros(3)}, *rest)

    monkeypatch.setattr(loop, "init_state", init_state)
    monkeypatch.setattr(loop, "training_step", training_step)
    monkeypatch.setattr(evaluation, "evaluation_function", evaluation_function)


@pytest.mark.slow  # saves arrays of eight devices
def test_a_run_starts_from_a_file(nothing_learned, tmp_path, data_dir, capsys):
    """The step gets the file's weights and statistics, and the run keeps what the step returns."""
    path = write(tmp_path / "weights.safetensors", tiny_state())
    argv = [f"--config={tiny_config.__file__}", f"--workdir={tmp_path / 'run'}"]
    argv += [f"--config.data.data_dir={data_dir}", f"--config.init_from={path}"]
    argv += ["--config.total_steps=1"]
    assert main.main(argv) == 0
    assert "nothing is freshly initialised" in capsys.readouterr().out
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    weights = load_weights(tmp_path / "run", sharding)
    assert weights.step == 1
    trained = {
        names.torch_name(p): names.to_torch_layout(p, np.asarray(leaf))
        for p, leaf in weights_by_path((weights.params, weights.batch_stats)).items()
    }
    assert_taken(trained, path)
    # A finished run needs the file no more.
    path.unlink()
    assert main.main(argv) == 0
