"""Exported programs answer as the segmenter does, and folders say what they hold."""

import hashlib
import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax import export

import massformer_jax
from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.data.photographs import read_photograph
from massformer_jax.export import stored
from massformer_jax.export.__main__ import main
from massformer_jax.export.program import Form, lower
from massformer_jax.inference import network
from massformer_jax.models.build import abstract_weights
from massformer_jax.models.names import from_torch
from massformer_jax.models.weights import Weights
from massformer_jax.tree import leaves_by_path
from tests.helpers import release
from tests.helpers.exported import checkpoint, exported, rounded, segmenter, weights
from tests.helpers.tiny_weights import TINY

FILES = {"model.stablehlo", "weights.safetensors", "export.json"}


def read(folder: pathlib.Path):
    """Returns the exported program, its weights, and what the folder says."""
    program = export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    tensors = safetensors.numpy.load_file(folder / "weights.safetensors")
    return program, tensors, json.loads((folder / "export.json").read_text())


def photograph(height, width):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["labels", "scores"])
def test_strips_answer_as_the_segmenter(answer, tmp_path, monkeypatch):
    """A photograph that is neither square nor of the exported size, in eight strips of 16 rows."""
    monkeypatch.setattr(network, "STRIP", 16 * 256)
    program, tensors, _ = read(exported(tmp_path, "256x512", "--answer", answer))
    assert "while" in program.mlir_module()
    image = photograph(250, 401)
    padded = np.pad(image, ((0, 6), (0, 111), (0, 0)), mode="edge")
    found = np.asarray(jax.jit(program.call)(tensors, padded[None]))[0, :250, :401]
    model = segmenter()
    want = model.scores(image) if answer == "scores" else model.predict(image)
    assert (found.dtype, found.shape) == (want.dtype, want.shape)
    if answer == "labels":
        assert len(np.unique(want)) > 1
        np.testing.assert_array_equal(found, want)
    else:
        np.testing.assert_allclose(found, want, rtol=0, atol=5e-5 * want.max())


@pytest.fixture(scope="module")
def of_any_size(tmp_path_factory):
    """A program of scores: its weights, what its folder says, and the function that runs it."""
    flags = ["--answer", "scores", "--platforms", "cpu,cuda,tpu"]
    program, tensors, facts = read(exported(tmp_path_factory.mktemp("any"), "any", *flags))
    assert program.platforms == ("cpu", "cuda", "tpu")
    return tensors, facts, jax.jit(program.call)


@pytest.mark.slow
@pytest.mark.parametrize("height, width", [(256, 256), (512, 256), (256, 768)])
def test_any_size_answers_as_the_fixed_one(height, width, of_any_size):
    """Fixed ones are the segmenter's, see above. Tables of positions are computed in float32."""
    tensors, _, call = of_any_size
    image = photograph(height, width)
    found = np.asarray(call(tensors, image[None]))[0]
    want = segmenter().scores(image)
    np.testing.assert_allclose(found, want, rtol=0, atol=5e-5 * want.max())
    assert (found.argmax(-1) == want.argmax(-1)).mean() >= 0.9999


def test_any_size_says_what_is_open(of_any_size):
    tensors, facts, call = of_any_size
    assert facts["input"]["size"] is None
    assert facts["arguments"][-1]["shape"] == [1, "256*h", "256*w", 3]
    assert facts["output"]["shape"] == [1, "256*h", "256*w", 7]
    with pytest.raises(ValueError, match="256"):
        call(tensors, np.zeros((1, 256, 300, 3), np.uint8))


def test_strips_are_those_of_inference(tmp_path, monkeypatch):
    """The larger strips are, the more memory a program takes: so they must not be the whole."""
    memory = []
    for positions in (16 * 128, 1 << 30):
        monkeypatch.setattr(network, "STRIP", positions)
        program, _, _ = read(exported(tmp_path / str(positions), "512x256"))
        memory.append(program.mlir_module())
    assert memory[0] != memory[1]


def test_one_file_for_all_platforms(tmp_path):
    with jax.numpy_dtype_promotion("standard"):
        folder = exported(tmp_path, "256x256", "--platforms", "cpu,cuda,tpu", "--dtype", "bfloat16")
    program, _, facts = read(folder)
    assert list(program.platforms) == facts["program"]["platforms"] == ["cpu", "cuda", "tpu"]
    text = program.mlir_module()
    assert "_platform_index" in text
    # Kernels would belong to one version of jax's compiler.
    assert "triton" not in text
    assert "bf16" in text and facts["program"]["computes_in"] == "bfloat16"


@pytest.mark.slow
def test_weights_of_fewer_bits_are_arguments_of_the_program(tmp_path):
    """What is computed with them: tests/export/onnx_test.py."""
    folder = exported(tmp_path, "256x256", "--weights", "int8")
    program, tensors, facts = read(folder)
    told = [(x["name"], x["dtype"]) for x in facts["arguments"][:-1]]
    assert told == [(name, str(x.dtype)) for name, x in sorted(tensors.items())]
    assert [str(x.dtype) for x in program.in_avals[:-1]] == [dtype for _, dtype in told]
    assert {x.ndim for x in tensors.values() if x.dtype == np.float32} == {1}
    assert facts["weights"]["bytes"] < 0.26 * sum(4 * x.size for x in tensors.values())
    own = rounded("int8")
    want = leaves_by_path({"params": own.params, "batch_stats": own.batch_stats})
    found = stored.restored({name: jnp.asarray(x) for name, x in tensors.items()})
    assert found.keys() == want.keys()
    for name, leaf in want.items():
        np.testing.assert_allclose(found[name], leaf, rtol=1e-6, atol=0)


def test_what_a_dtype_cannot_hold_stays():
    wide = {"wide": np.array([[7e4, 3], [2, -3]], np.float32), "zero": np.zeros((2, 3), np.float32)}
    halves = stored.stored(wide, "float16")
    assert {name: x.dtype for name, x in halves.items()} == {"wide": np.float32, "zero": np.float16}
    bytes_ = stored.restored({k: jnp.asarray(x) for k, x in stored.stored(wide, "int8").items()})
    assert bytes_.keys() == wide.keys()
    np.testing.assert_allclose(bytes_["wide"], [[7e4, 3], [0, -3]], rtol=1e-6)
    np.testing.assert_array_equal(bytes_["zero"], wide["zero"])


def test_mlir_is_the_program_as_text(tmp_path):
    folder = exported(tmp_path, "256x256", "--format", "mlir")
    assert {path.name for path in folder.iterdir()} == FILES - {"model.stablehlo"} | {"model.mlir"}
    facts = json.loads((folder / "export.json").read_text())
    assert facts["program"]["platforms"] == ["cpu"]
    # The arguments in the order that is told, and no number of a platform before them.
    (line,) = re.findall(
        r"^ *func\.func public @main.*$", (folder / "model.mlir").read_text(), re.M
    )
    names = re.findall(r"%arg\d+: tensor<\S+> loc\(\"(?:flat\['(.*?)'\]|(images))\"\)", line)
    assert ["".join(both) for both in names] == [x["name"] for x in facts["arguments"]]


def test_the_folder_says_what_it_holds(tmp_path):
    folder = exported(tmp_path, "256x512")
    assert {path.name for path in folder.iterdir()} == FILES
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "exported"}
    program, tensors, facts = read(folder)
    for part in ("program", "weights"):
        data = (folder / facts[part]["file"]).read_bytes()
        assert facts[part]["bytes"] == len(data)
        assert facts[part]["sha256"] == hashlib.sha256(data).hexdigest()
    version = facts["program"]["calling_convention_version"]
    assert version == program.calling_convention_version
    assert facts["program"]["jax"] == jax.__version__
    assert facts["written_by"] == f"massformer_jax {massformer_jax.__version__}"
    assert facts["classes"] == list(CLASSES) and facts["palette"] == PALETTE.tolist()
    assert facts["stride"] == facts["padding"]["multiple"] == 256
    assert facts["input"]["size"] == [256, 512] and facts["input"]["range"] == [0, 255]
    assert facts["output"]["shape"] == [1, 256, 512] and facts["output"]["dtype"] == "uint8"
    assert facts["architecture"] == TINY and facts["pictures"] == [480, 640]
    known = weights()
    assert facts["checkpoint"] == {"name": "3", "step": 3, "source": known.source}
    # The arguments, in the order of the program that is lowered: none is left out.
    told = [(x["name"], x["dtype"], tuple(x["shape"])) for x in facts["arguments"]]
    assert told[:-1] == [(k, str(tensors[k].dtype), tensors[k].shape) for k in sorted(tensors)]
    assert told[-1] == ("images", "uint8", (1, 256, 512, 3))
    assert [(str(x.dtype), x.shape) for x in program.in_avals] == [x[1:] for x in told]
    assert list(program.module_kept_var_idx) == list(range(len(told)))


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--size", "512x500"], "512x500; sides are multiples of 256: use 512x512"),
        (["--size", "100x256"], "use 256x256"),
        (["--size", "512"], "--size is '512'; use any, or HxW"),
        (["--platforms", "cpu,gpu"], "no platform 'gpu'; use some of cpu, cuda, tpu"),
        (["--platforms", ""], "no platform ''"),
        (["--platforms", "cpu,cpu"], "name each once"),
        (["--answer", "alpha"], "export scores, or use massformer predict --write alpha"),
        (["--answer", "logits"], "use one of labels, scores"),
        (["--dtype", "float16"], "use one of float32, tf32, bfloat16"),
        (["--weights", "int4"], "weights are 'int4'; use one of float32, float16, int8"),
        (["--format", "tflite"], "format is 'tflite'; use one of stablehlo, mlir, onnx"),
        (["--format", "mlir", "--size", "any"], "MLIR is of a fixed size; give its size, as HxW"),
        (["--format", "mlir", "--platforms", "cpu,cuda"], "MLIR is for one of them"),
        (["--page"], "a page shows labels of a program of ONNX; use --format onnx"),
        (["--step", "7"], "no checkpoint of step 7"),
        (["--output", "gs://bucket/exported"], "is in a bucket"),
        (["--checkpoint", "missing"], "missing holds no checkpoint"),
    ],
)
def test_what_cannot_be_done_is_one_line(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "exported"
    argv = ["--checkpoint", str(checkpoint(tmp_path)), "--output", str(output), "--size", "256x256"]
    refused(capsys, [*argv, *flags], words)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_nothing_is_written_over(tmp_path, capsys):
    output = tmp_path / "exported"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    argv = ["--checkpoint", str(checkpoint(tmp_path)), "--output"]
    refused(capsys, [*argv, str(output)], "holds files already; name a new folder")
    refused(capsys, [*argv, str(output / "notes.txt")], "is no folder")
    assert [path.name for path in output.iterdir()] == ["notes.txt"]


def test_a_damaged_checkpoint(tmp_path, capsys):
    folder = checkpoint(tmp_path)
    largest = max(folder.rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    output = tmp_path / "exported"
    refused(capsys, ["--checkpoint", str(folder), "--output", str(output)], "is damaged")
    assert not output.exists()


def test_a_missing_library(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    argv = ["--checkpoint", str(checkpoint(tmp_path)), "--output", str(tmp_path / "exported")]
    refused(capsys, argv, "pip install 'massformer-jax[export]'")


def test_a_folder_is_complete_or_not_there(tmp_path, capsys, monkeypatch):
    """An empty folder may be there; if the disk is full, nothing else is."""
    output = tmp_path / "exported"
    output.mkdir()

    def full(*_):
        raise OSError(28, "No space left on device", "weights.safetensors")

    argv = ["--checkpoint", str(checkpoint(tmp_path)), "--output", str(output), "--size", "256x256"]
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save", full)
        refused(capsys, [*argv, "--platforms", "cpu"], "No space left on device")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "exported"]
    assert not list(output.iterdir())
    assert main([*argv, "--platforms", "cpu"]) == 0
    assert {path.name for path in output.iterdir()} == FILES


def refused(capsys, argv, words):
    """Checks that the command prints one line with these words, and that its status is 2."""
    capsys.readouterr()
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert not printed.out and printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1 and words in printed.err, printed.err


@pytest.mark.slow
def test_the_lite_network_gives_the_recorded_labels():
    """Those of the released PyTorch, of weights and a photograph that both have."""
    architecture = release.model_kwargs("r18_lite")
    state = release.state_dict("r18_lite", 3)
    lite = Weights(0, architecture, CLASSES, *from_torch(state, abstract_weights(architecture)))
    lowered = lower(lite, Form((256, 512), platforms=("cpu",)))
    call = export.deserialize(bytearray(lowered.programs["model"].serialized)).call
    folder = release.PARITY / "infer_lite_256x512"
    image = read_photograph(folder / "image.png")
    found = np.asarray(jax.jit(call)(lowered.weights, image[None]))[0]
    assert (found == release.read_labels(folder / "prediction.png")).mean() >= 0.9999
