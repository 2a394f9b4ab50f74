"""Files of other libraries are read, whatever keys and prefixes they use; or it is said why not."""

import io
import pickle

import numpy as np
import pytest
import safetensors.numpy

from massformer_jax.convert.weights_file import read_weights
from massformer_jax.errors import InputError
from massformer_jax.models.names import COUNTER
from tests.helpers.pickles import archive, call, dictionary, name, saved, value

ONE = np.arange(6, dtype=np.float32).reshape(2, 3)
NAMES = ("backbone.conv1.weight", "backbone.bn1.weight", "decode_head.query_feat.weight")
STATE = {name: ONE + i for i, name in enumerate(NAMES)}
COUNT = np.array(5, np.int64)


def read(tmp_path, tree, key=None):
    path = tmp_path / "weights.pth"
    path.write_bytes(tree if isinstance(tree, bytes) else saved(tree))
    return read_weights(path, key)


def refusal(tmp_path, tree, key=None) -> str:
    with pytest.raises(InputError) as error:
        read(tmp_path, tree, key)
    message = str(error.value)
    assert str(tmp_path / "weights.pth") in message and message.isprintable()
    return message


def assert_is_state(found):
    assert found.tensors.keys() == STATE.keys() and not found.not_tensors
    for key, tensor in STATE.items():
        np.testing.assert_array_equal(found.tensors[key], tensor)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "segmentor.model.module."],
)
@pytest.mark.parametrize("bare", [False, True])
def test_a_prefix_of_all_names_is_left_out_and_said(prefix, bare, tmp_path):
    own = {
        prefix + (name.removeprefix("backbone.") if bare else name): tensor
        for name, tensor in STATE.items()
    }
    found = read(tmp_path, own)
    assert_is_state(found)
    assert found.notes == (f"all names begin with {prefix!r}, which is left out",)


def test_names_of_the_release_stay(tmp_path):
    found = read(tmp_path, STATE)
    assert_is_state(found)
    assert found.notes == ()
    # An encoder's and a head's names have a common beginning that belongs to them.
    for part in ("backbone", "decode_head"):
        one = {name: tensor for name, tensor in STATE.items() if name.startswith(part)}
        assert read(tmp_path, one).tensors.keys() == one.keys()


def test_a_prefix_of_some_names_stays(tmp_path):
    found = read(tmp_path, {"model." + NAMES[0]: ONE, "loss.weight": ONE})
    assert set(found.tensors) == {"model." + NAMES[0], "loss.weight"}


@pytest.mark.parametrize("count", ["n_averaged", "steps"])
@pytest.mark.parametrize("outer", ["", "ema_model."])
def test_counts_of_averaged_weights_are_left_out(count, outer, tmp_path):
    own = {f"{outer}{count}": COUNT} | {f"{outer}module.{n}": x for n, x in STATE.items()}
    found = read(tmp_path, own)
    assert_is_state(found)
    assert f"'{outer}module.'" in found.notes[0] and f"{outer}{count}" in found.notes[1]


def test_a_tensor_called_as_a_count_stays(tmp_path):
    assert set(read(tmp_path, {"n_averaged": ONE, "w": ONE}).tensors) == {"n_averaged", "w"}


@pytest.mark.parametrize(
    "key",
    ["state_dict", "model", "model_state_dict", "net", "ema_state_dict", "model.state_dict"],
)
def test_the_only_state_dict_is_found(key, tmp_path):
    tree = STATE
    for part in reversed(key.split(".")):
        tree = {part: tree}
    # What else a trainer keeps: Adam's moments, the generator's state, the arguments.
    moments = {"state": {0: {"exp_avg": ONE, "step": COUNT}}, "param_groups": [{"lr": 0.1}]}
    tree |= {"optimizer": moments, "epoch": 3, "rng_state": ONE, "args": {"lr": 0.1}}
    found = read(tmp_path, tree)
    assert_is_state(found)
    said = () if key == "state_dict" else (f"takes the tensors under {key!r}",)
    assert found.notes == said


def test_of_several_state_dicts_the_usual_one_is_taken_and_the_others_are_named(tmp_path):
    other = {name: tensor + 9 for name, tensor in STATE.items()}
    found = read(tmp_path, {"ema_state_dict": other, "state_dict": STATE})
    assert_is_state(found)
    assert found.notes == (
        "takes the tensors under 'state_dict', not those under 'ema_state_dict'",
    )


def test_of_several_state_dicts_one_is_chosen_by_its_key(tmp_path):
    other = {name: tensor + 9 for name, tensor in STATE.items()}
    tree = {"model": other, "ema": {"shadow": STATE}}
    message = refusal(tmp_path, tree)
    assert "holds tensors under 'model', 'ema.shadow'" in message and "--key" in message
    assert_is_state(read(tmp_path, tree, "ema.shadow"))
    message = refusal(tmp_path, tree, "net")
    assert "holds no tensors under 'net'; tensors are under 'model', 'ema.shadow'" in message


def test_a_state_dict_at_the_top_is_not_given_up_for_a_smaller_one(tmp_path):
    found = read(tmp_path, STATE | {"extra": {"w": ONE}})
    assert NAMES[0] in found.tensors and found.not_tensors == ("extra",)


def test_a_counter_is_no_prefix(tmp_path):
    """One that all names share ends before the last part."""
    found = read(tmp_path, {f"bn.{COUNTER}": COUNT})
    assert set(found.tensors) == {COUNTER}


def test_classifiers_of_encoders_have_one_name(tmp_path):
    """mmpretrain calls it `head.fc`, torchvision `fc`."""
    for state in (
        {"head.fc.weight": ONE, "backbone.conv1.weight": ONE},
        {"fc.weight": ONE, "conv1.weight": ONE},
    ):
        found = read(tmp_path, {"state_dict": state})
        assert set(found.tensors) == {"backbone.fc.weight", "backbone.conv1.weight"}


def test_the_format_is_told_by_the_bytes(tmp_path):
    (tmp_path / "a.pth").write_bytes(safetensors.numpy.save(STATE))
    (tmp_path / "a.safetensors").write_bytes(saved(STATE))
    for path in tmp_path.iterdir():
        assert_is_state(read_weights(path))
    with pytest.raises(InputError, match="leave --key out"):
        read_weights(tmp_path / "a.pth", "model")


def numpy_file() -> bytes:
    file = io.BytesIO()
    np.savez(file, w=ONE)
    return file.getvalue()


OBJECT = name("my.models", "Net") + b")\x81}b"  # how a module is pickled as a whole
DETECTRON2 = {"model": {"stem.conv1.weight": ONE}, "__author__": "someone"}
OTHERS = {
    "an object": (archive(OBJECT), "an object of my.models.Net"),
    "an object in a dictionary": (
        archive(dictionary({"model": OBJECT, "epoch": value(3)})),
        "its keys are 'model', 'epoch'",
    ),
    "a tensor": (saved(ONE), "a single tensor"),
    "detectron2": (pickle.dumps(DETECTRON2, 2), "as detectron2 and Caffe2 keep them"),
    "a pickle of arrays": (pickle.dumps(STATE), "a pickle of NumPy arrays, no file of torch.save"),
    "a pickle": (pickle.dumps({"a": 1}), "a plain pickle, no file of torch.save"),
    "npz": (numpy_file(), "an archive of NumPy arrays"),
    "a web page": (b"\n<!doctype html><title>404</title>", "it is a web page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "a compressed file"),
    "anything": (b"hello", "of no known kind, no file of torch.save"),
    "a name to print": (saved({"a\x1b[2J": 1}), "'a\\\\x1b[2J'"),
    "a call": (archive(call("my.models", "make")), "an object of my.models.make"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_file_of_weights_is_called_what_it_is(case, tmp_path):
    data, message = OTHERS[case]
    assert message in refusal(tmp_path, data)


def test_what_is_no_file_is_said(tmp_path):
    with pytest.raises(InputError, match="is no file"):
        read_weights(tmp_path)


def test_without_end(tmp_path):
    """Trees that hold themselves, or are wide or deep, take no time."""
    cyclic = archive(b"}q\x01" + value("model") + b"h\x01s")
    assert "its keys are 'model'" in refusal(tmp_path, cyclic)
    wide = {f"k{i}": {"x": {"y": {}}} for i in range(3000)}
    assert "and 2992 more" in refusal(tmp_path, wide)
