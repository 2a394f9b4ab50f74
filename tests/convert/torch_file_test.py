"""What PyTorch itself writes is read back equal, in every format it has had."""

import collections

import numpy as np
import pytest

from massformer_jax.convert.torch_file import TorchFile
from massformer_jax.convert.torch_pickle import Opaque, Tensor
from massformer_jax.convert.weights_file import read_weights
from tests.helpers import release
from tests.helpers.torch_checkpoint import write_checkpoint

MMENGINE = release.PARITY / "misc" / "mmengine_checkpoint.pth"
FORMATS = [True, False]  # zip, and the one before it


def tensors(torch) -> dict:
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    shared = torch.randn(10)
    parameter = torch.nn.Parameter(torch.randn(3))
    parameter.remark = "so it is written with its attributes"
    return {
        "float32": base,
        "transposed": base.t(),
        "part": base[1:3, 2:],
        "every other": base[::2, ::3],
        "shared": shared[2:5],
        "shared, overlapping": shared[3:9].reshape(2, 3),
        "expanded": base[:1].expand(3, 6),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "float64": base.double(),
        "float16": base.half(),
        "bfloat16": base.bfloat16(),
        "not a number": torch.tensor([float("nan"), -0.0, float("inf")]),
        "counter": torch.tensor(2**40 + 1),
        "int32": torch.arange(5, dtype=torch.int32),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "parameter": parameter,
    }


def bits(torch, tensor) -> bytes:
    """Returns the numbers in row-major order, as they lie in memory."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


@pytest.mark.slow
@pytest.mark.parametrize("zipped", FORMATS)
def test_every_tensor_is_read_back(zipped, tmp_path):
    import torch

    written = tensors(torch)
    path = tmp_path / "weights.pth"
    torch.save(collections.OrderedDict(written), path, _use_new_zipfile_serialization=zipped)
    file = TorchFile(path)
    assert list(file.tree) == list(written)
    for name, tensor in written.items():
        ours = file.array(file.tree[name])
        assert ours.shape == tuple(tensor.shape), name
        assert str(ours.dtype) == str(tensor.dtype).removeprefix("torch."), name
        assert not ours.flags.writeable or ours.size == 0, name
        assert ours.tobytes() == bits(torch, tensor), name


@pytest.mark.slow
def test_safetensors_are_read_back(tmp_path):
    import safetensors.torch
    import torch

    names = ("float32", "float64", "float16", "bfloat16", "not a number", "counter", "empty")
    written = {name: tensors(torch)[name] for name in names}
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(written, path)
    read = read_weights(path).tensors
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].shape == tuple(tensor.shape), name
        assert read[name].tobytes() == bits(torch, tensor), name


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", FORMATS)
def test_every_pickle_protocol(protocol, zipped, tmp_path):
    import torch

    path = tmp_path / "weights.pth"
    plain = {"a": [1, -(2**70), 1.5, None, True, "ü"], "b": {"c": (b"d", ())}, 7: {}}
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    torch.save({"plain": plain, "module": torch.nn.Linear(2, 3).state_dict()}, path, **options)
    tree = TorchFile(path).tree
    if protocol == 2:
        # This protocol has no bytes: they are stored as the call of a codec.
        assert isinstance(tree["plain"]["b"]["c"][0], Opaque)
        tree["plain"]["b"]["c"] = (b"d", ())
    assert tree["plain"] == plain
    assert list(tree["module"]) == ["weight", "bias"]


def test_a_checkpoint_of_mmengine():
    """Structure and meta are those of the released file; what is mmengine's own stays inert."""
    file = TorchFile(MMENGINE)
    assert list(file.tree) == ["meta", "state_dict", "message_hub", "optimizer", "param_schedulers"]
    assert isinstance(file.tree["meta"]["hook_msgs"]["best_score"], Opaque)
    scalars = file.tree["message_hub"]["log_scalars"]
    assert {value.name for value in scalars.values()} == {
        "mmengine.logging.history_buffer.HistoryBuffer"
    }
    weights = read_weights(MMENGINE)
    assert weights.iteration == 80_000
    assert weights.classes == ("background", "person", "building", "tree", "ground", "sky", "water")
    assert weights.palette[2] == (64, 34, 64)
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    assert shapes["0.weight"] == (4, 3, 3, 3) and shapes["1.num_batches_tracked"] == ()
    assert all(np.isfinite(tensor).all() for tensor in weights.tensors.values())


@pytest.mark.slow
def test_the_wrapping_is_like_mmengine_s(tmp_path):
    """The checkpoints that other tests make need classes that PyTorch alone refuses, too."""
    import torch

    path = tmp_path / "iter_80000.pth"
    write_checkpoint(torch, path, {"w": np.ones(3, np.float32)})
    with pytest.raises(Exception, match=r"Unsupported global|not an allowed global"):
        torch.load(path, weights_only=True)
    tree = TorchFile(path).tree
    assert list(tree) == list(TorchFile(MMENGINE).tree)
    assert isinstance(tree["state_dict"]["w"], Tensor)
