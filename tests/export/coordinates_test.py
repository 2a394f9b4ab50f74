"""Exported CoordFormers answer as the segmenter does, and folders say what they hold."""

import functools
import hashlib
import json
import re

import jax
import numpy as np
import onnx
import pytest
from jax import export

from massformer_jax.export import program
from massformer_jax.export.__main__ import main
from massformer_jax.export.form import Form
from massformer_jax.export.onnx import walk
from massformer_jax.inference.segmenter import Segmenter
from tests.helpers.exported_coordformer import (
    ARCHITECTURES,
    answers,
    checkpoint,
    exported,
    photograph,
    weights,
)

ONNX = "--format", "onnx"
slow = pytest.mark.slow
# Both sides of the one are at least as long as the square of the small networks, and not of the
# other.
LARGE, WIDE = (70, 90), (50, 90)


@functools.cache
def wanted(name, size):
    return Segmenter(weights(name)).scores(photograph(*size))


@pytest.mark.parametrize(
    "name, flags",
    [
        ("turned", ()),
        ("turned", ONNX),
        pytest.param("learned", (), marks=slow),
        ("learned", ONNX),
        pytest.param("massformer", (), marks=slow),
        pytest.param("massformer", ONNX, marks=slow),
    ],
    ids=lambda x: x if isinstance(x, str) else "".join(x[1:]) or "stablehlo",
)
def test_scores_are_those_of_the_segmenter(name, flags, tmp_path):
    folder = exported(tmp_path, weights(name), *flags, "--answer", "scores")
    for size in (LARGE, WIDE):
        found, want = answers(folder, photograph(*size)), wanted(name, size)
        assert (found.dtype, found.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(found, want, rtol=0, atol=5e-5 * want.max())
        assert (found.argmax(-1) == want.argmax(-1)).mean() >= 0.9999


def test_labels_are_those_of_the_segmenter(tmp_path):
    """Labels of StableHLO, and those of a photograph of more pixels: tests/export/page_test.py."""
    folder = exported(tmp_path, weights(), *ONNX)
    want = wanted("turned", WIDE).argmax(-1)
    assert len(np.unique(want)) > 1
    found = answers(folder, photograph(*WIDE), bucket=999)
    assert found.dtype == np.uint8
    assert (found == want).mean() >= 0.9999


def test_the_folder_says_what_it_holds(tmp_path):
    folder = exported(tmp_path, weights())
    facts = json.loads((folder / "export.json").read_text())
    names = {"memory.stablehlo", "answers.stablehlo", "weights.safetensors"}
    assert {path.name for path in folder.iterdir()} == names | {"export.json"}
    parts = [*facts["programs"].values(), facts["weights"]]
    assert {part["file"] for part in parts} == names
    for part in parts:
        data = (folder / part["file"]).read_bytes()
        assert (part["bytes"], part["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    for part in facts["programs"].values():
        called = export.deserialize(bytearray((folder / part["file"]).read_bytes()))
        for told, avals in (
            (part["arguments"], called.in_avals),
            (part["outputs"], called.out_avals),
        ):
            shapes = [[x if isinstance(x, int) else str(x) for x in aval.shape] for aval in avals]
            assert [x["shape"] for x in told] == shapes
            assert [x["dtype"] for x in told] == [str(aval.dtype) for aval in avals]
        # The same weights come first in both, and none is left out.
        assert len(part["arguments"]) > facts["weights"]["count"]
        assert list(called.module_kept_var_idx) == list(range(len(called.in_avals)))
    memory, asked = facts["programs"].values()
    assert [x["name"] for x in asked["arguments"][-4:]] == ["keys", "values", "patches", "places"]
    assert [x["shape"] for x in asked["arguments"][-2:]] == [["p", 8, 8, 3], ["p", 2]]
    assert memory["outputs"] == asked["arguments"][-4:-2]
    assert facts["side"] == 64 and facts["input"]["size"] == [64, 64]
    assert facts["questions"]["bucket"] is None
    assert facts["output"]["answer"] == "labels" and facts["output"]["shape"] == ["p"]
    assert facts["classes"] == ["sky", "tree", "rock"] and facts["palette"][2] == [99, 99, 99]
    assert facts["architecture"] == ARCHITECTURES["turned"]
    assert not {"program", "arguments", "padding", "stride"} & facts.keys()


def test_models_of_onnx_hold_what_they_need(tmp_path):
    folder = exported(tmp_path, weights(), *ONNX, "--weights", "int8")
    facts = json.loads((folder / "export.json").read_text())
    assert {path.name for path in folder.iterdir()} == {*facts["weights"]["files"], "export.json"}
    models = [onnx.load(folder / name) for name in facts["weights"]["files"]]
    held = [{x.name for x in model.graph.initializer if "/" in x.name} for model in models]
    assert not held[0] & held[1] and "params/decoder/k_proj/kernel" in held[0]
    for model, part in zip(models, facts["programs"].values(), strict=True):
        onnx.checker.check_model(model, full_check=True)
        assert [x.name for x in model.graph.input] == [x["name"] for x in part["arguments"]]
        assert [x.name for x in model.graph.output] == [x["name"] for x in part["outputs"]]
        told = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
        assert told == {key: facts[key] for key in ("classes", "palette", "side")}
        assert {(x.domain, x.version) for x in model.opset_import} == {("", 19)}
    whole = sum(4 * x.size for x in jax.tree.leaves(weights()[3:5]))
    assert sum(x.ByteSize() for model in models for x in model.graph.initializer) < 0.5 * whole


def test_deformable_convolutions_are_operators_of_onnx():
    """Those of a MaSSFormer's coarse maps: none was traced before names were kept."""
    found = program.lower(weights("massformer"), Form(format="onnx"))
    model = onnx.load_from_string(found.programs["memory"].serialized)
    assert [node.op_type for node in model.graph.node].count("DeformConv") == 6


def test_mlir_is_for_one_bucket(tmp_path):
    folder = exported(tmp_path, weights(), "--format", "mlir")
    facts = json.loads((folder / "export.json").read_text())
    assert facts["questions"]["bucket"] == 16384
    assert facts["output"]["shape"] == [16384]
    for part in facts["programs"].values():
        text = (folder / part["file"]).read_text()
        (line,) = re.findall(r"^ *func\.func public @main.*$", text, re.M)
        names = re.findall(r"%arg\d+: tensor<\S+> loc\(\"(?:flat\['(.*?)'\]|(\w+))\"\)", line)
        assert ["".join(both) for both in names] == [x["name"] for x in part["arguments"]]


def test_one_file_for_all_platforms():
    with jax.numpy_dtype_promotion("standard"):
        found = program.lower(weights(), Form(dtype="bfloat16", weights="int8"))
    for part in found.programs.values():
        assert part.facts["platforms"] == ["cpu", "cuda", "tpu"]
        assert "bf16" in export.deserialize(bytearray(part.serialized)).mlir_module()
    assert {str(x.dtype) for x in found.programs["memory"].outputs.values()} == {"bfloat16"}
    assert {str(x.dtype) for x in found.weights.values()} == {"int8", "float32"}


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--size", "1024x1024"], "squeezed to its own square; leave out the size"),
        (["--size", "any"], "squeezed to its own square; leave out the size"),
        ([*ONNX, "--page"], "the page shows answers of a MaSSFormer; leave out the page"),
        (["--answer", "alpha"], "export scores, or use massformer predict --write alpha"),
        ([*ONNX, "--dtype", "bfloat16"], "programs of ONNX compute in float32"),
        (["--format", "mlir", "--platforms", "cpu,cuda"], "MLIR is for one of them"),
        (["--step", "8"], "no checkpoint of step 8"),
    ],
)
def test_what_cannot_be_done_is_one_line(flags, words, tmp_path, capsys):
    refused(capsys, tmp_path, flags, words)


def test_an_unknown_operation_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(walk.LOWERINGS, "gather")
    words = "the program has the operation 'gather', not known in ONNX"
    refused(capsys, tmp_path, ONNX, words)


def refused(capsys, folder, flags, words):
    """Checks that the command prints one line with these words, and writes nothing."""
    argv = ["--checkpoint", str(checkpoint(folder, weights())), "--output", str(folder / "out")]
    capsys.readouterr()
    assert main([*argv, *flags]) == 2
    printed = capsys.readouterr()
    assert not printed.out and printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1 and words in printed.err, printed.err
    assert [path.name for path in folder.iterdir()] == ["checkpoint"]
