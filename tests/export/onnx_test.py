"""Programs of ONNX answer as the segmenter does, and folders say what they hold."""

import hashlib
import json
import re

import numpy as np
import onnx
import pytest

from massformer_jax.classes import CLASSES
from massformer_jax.data.photographs import read_photograph
from massformer_jax.export import program, traced
from massformer_jax.export.__main__ import main
from massformer_jax.export.form import Form
from massformer_jax.export.onnx import walk
from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.models.build import abstract_weights
from massformer_jax.models.names import from_torch
from massformer_jax.models.weights import Weights, save_weights
from tests.helpers import release
from tests.helpers.exported import checkpoint, exported, photograph, rounded, segmenter, weights
from tests.helpers.onnx_models import answer

ONNX = "--format", "onnx"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "scores"])
def test_strips_answer_as_the_segmenter(kind, tmp_path):
    folder = exported(tmp_path, "256x512", *ONNX, "--answer", kind)
    model = onnx.load(folder / "model.onnx")
    assert [node.op_type for node in model.graph.node].count("Loop") == 3
    image = photograph(256, 512)
    found = answer(folder / "model.onnx", images=image[None])[0]
    if kind == "labels":
        want = segmenter().predict(image)
        assert found.dtype == np.uint8 and len(np.unique(want)) > 1
        assert (found == want).mean() >= 0.9999
    else:
        want = segmenter().scores(image)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, want, rtol=0, atol=5e-5 * want.max())


@pytest.mark.slow  # exports a program, and lowers another
@pytest.mark.parametrize("dtype, share", [("float16", 0.51), ("int8", 0.26)])
def test_weights_of_fewer_bits_are_what_is_computed_with(dtype, share, tmp_path):
    folder = exported(tmp_path, "256x256", *ONNX, "--weights", dtype, "--answer", "scores")
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "export.json"}
    whole = sum(4 * x.size for x in traced_weights().values())
    assert (folder / "model.onnx").stat().st_size < share * whole
    image = photograph(256, 256)
    found = answer(folder / "model.onnx", images=image[None])[0]
    # The same numbers stored as float32.
    plain = lowered(rounded(dtype), (256, 256))
    want = answer(plain, images=image[None])[0]
    np.testing.assert_allclose(found, want, rtol=0, atol=5e-5 * want.max())


@pytest.mark.slow
def test_any_size_answers_as_fixed_ones(tmp_path):
    """Fixed ones are the segmenter's, see above."""
    folder = exported(tmp_path, "any", *ONNX, "--answer", "scores")
    for height, width in ((256, 256), (512, 256), (256, 768)):
        image = photograph(height, width)
        fixed = lowered(weights(), (height, width))
        want = answer(fixed, images=image[None])
        found = answer(folder / "model.onnx", images=image[None])
        np.testing.assert_allclose(found, want, rtol=0, atol=5e-5 * want.max())
        assert (found.argmax(-1) == want.argmax(-1)).mean() >= 0.9999


def test_the_folder_says_what_it_holds(tmp_path):
    folder = exported(tmp_path, "256x256", *ONNX, "--page")
    page = {"index.html", "page.css", "page.js", "worker.js"}
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "export.json"} | page
    assert set(re.findall(r'"(page\.\w+)"', (folder / "index.html").read_text())) < page
    data = (folder / "model.onnx").read_bytes()
    facts = json.loads((folder / "export.json").read_text())
    assert facts["format"] == "onnx"
    assert facts["program"] == {
        "file": "model.onnx",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "operators": 19,
        "ir_version": 9,
        "computes_in": "float32",
    }
    assert facts["weights"] == {"file": "model.onnx", "count": len(traced_weights())}
    image = {"name": "images", "dtype": "uint8", "shape": [1, 256, 256, 3]}
    assert facts["arguments"] == [image]
    assert facts["classes"] == list(CLASSES)
    model = onnx.load_from_string(data)
    assert [x.name for x in model.graph.input] == ["images"]
    assert [x.name for x in model.graph.output] == [facts["output"]["answer"]] == ["labels"]
    bodies = [x.g for node in model.graph.node for x in node.attribute if x.HasField("g")]
    used = [node.op_type for graph in (model.graph, *bodies) for node in graph.node]
    assert used.count("DeformConv") == 8 and len(bodies) == 3  # the last two of them in a loop
    told = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert told == {key: facts[key] for key in ("classes", "palette", "stride")}
    # Of what all runtimes have: nothing of a runtime's own.
    assert {(x.domain, x.version) for x in model.opset_import} == {("", 19)}


def lowered(own, size):
    """Returns the model of scores for images of this size."""
    exported = program.lower(own, Form(size, "scores", "onnx"))
    return onnx.load_from_string(exported.programs["model"].serialized)


def traced_weights():
    return traced.traceable(weights(), Form((256, 256))).weights


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--size", "512x500"], "512x500; sides are multiples of 256: use 512x512"),
        (["--dtype", "bfloat16"], "dtype is bfloat16; programs of ONNX compute in float32"),
        (["--dtype", "float16"], "use one of float32, tf32, bfloat16"),
        (["--platforms", "cpu"], "leave out the platforms"),
        (["--answer", "alpha"], "export scores, or use massformer predict --write alpha"),
        (["--page", "--answer", "scores"], "a page shows labels of a program of ONNX"),
    ],
)
def test_what_cannot_be_done_is_one_line(flags, words, tmp_path, capsys):
    refused(capsys, tmp_path, flags, words)


def test_an_unknown_operation_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(walk.LOWERINGS, "logistic")
    refused(capsys, tmp_path, [], "the program has the operation 'logistic', not known in ONNX")


def test_a_missing_library(tmp_path, capsys, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(program.importlib, "import_module", missing)
    words = "onnx is written with onnx; pip install 'massformer-jax[export]'"
    refused(capsys, tmp_path, [], words)


def refused(capsys, folder, flags, words):
    """Checks that the command prints one line with these words, and writes nothing."""
    argv = ["--checkpoint", str(checkpoint(folder)), "--output", str(folder / "exported")]
    capsys.readouterr()
    assert main([*argv, "--size", "256x256", *ONNX, *flags]) == 2
    printed = capsys.readouterr()
    assert not printed.out and printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1 and words in printed.err, printed.err
    assert [path.name for path in folder.iterdir()] == ["checkpoint"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "manifest, seed, name", [("r18_lite", 3, "infer_lite_256x512"), ("r50", 9, "infer_256x512")]
)
def test_released_networks_give_the_recorded_labels(manifest, seed, name, tmp_path):
    """Those of the released PyTorch; and of the program for any size, too."""
    architecture = release.model_kwargs(manifest)
    state = release.state_dict(manifest, seed)
    own = Weights(0, architecture, CLASSES, *from_torch(state, abstract_weights(architecture)))
    image = read_photograph(release.PARITY / name / "image.png")
    fixed = lowered(own, image.shape[:2])
    found = answer(fixed, images=image[None])[0]
    recorded = release.read_labels(release.PARITY / name / "prediction.png")
    assert (found.argmax(-1) == recorded).mean() >= 0.9999
    want = Segmenter(own).scores(image)
    np.testing.assert_allclose(found, want, rtol=0, atol=5e-5 * want.max())
    save_weights(tmp_path / "checkpoint", own)
    folder = exported(tmp_path, "any", *ONNX)
    found = answer(folder / "model.onnx", images=image[None])[0]
    assert (found == recorded).mean() >= 0.9999
