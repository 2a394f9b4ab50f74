"""The programs of docs/export.md use an exported folder where this package cannot be imported."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from massformer_jax.inference.segmenter import Segmenter
from scripts.ci.check_exported import PAGE, programs
from tests.helpers import exported_coordformer
from tests.helpers.exported import exported, photograph, segmenter, weights
from tests.helpers.onnx_models import answer

# A folder of onnxruntime's release, with its headers and its library.
ROOT = os.environ.get("ONNXRUNTIME_ROOT")

# Nothing but these and what they import themselves can be imported.
REFUSED = ("massformer_jax", "flax", "optax", "orbax", "jaxtyping", "etils", "cv2", "tests")


def test_the_page_has_these_programs():
    assert list(programs()) == [
        "exported.py",
        "photograph.py",
        "onnx_photograph.py",
        "photograph.cpp",
        "coordinates_photograph.py",
        "iree_photograph.py",
    ]


@pytest.fixture
def run(tmp_path):
    """Runs Python in a clean folder that holds the programs of the page."""
    folder, refusing = tmp_path / "clean", tmp_path / "refusing"
    folder.mkdir()
    refusing.mkdir()
    for name, text in programs().items():
        (folder / name).write_text(text)

    def process(*arguments, refused=(), allowed=()):
        names = {name: None for name in (*REFUSED, *refused) if name not in allowed}
        (refusing / "sitecustomize.py").write_text(f"import sys\nsys.modules.update({names})\n")
        kept = [path for path in sys.path if path and not (pathlib.Path(path) / "tests").is_dir()]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        environment["PYTHONPATH"] = os.pathsep.join([str(refusing), *kept])
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return folder

    return process


def expected(image: np.ndarray, model: Segmenter) -> np.ndarray:
    labels = model.predict(image)
    assert len(np.unique(labels)) > 1
    return labels


@pytest.mark.slow
def test_jax_alone_gives_the_labels_of_the_segmenter(run, tmp_path):
    image = photograph(200, 300)
    np.save(tmp_path / "image.npy", image)
    # No package of the page's second program.
    code = (
        "import sys, numpy as np\n"
        "from exported import Network\n"
        "network = Network(sys.argv[1])\n"
        "np.save('labels.npy', network(np.load(sys.argv[2])))\n"
        "assert not [name for name in sys.modules if name.startswith('massformer')"
        " and sys.modules[name]]\n"
    )
    folder = exported(tmp_path, "256x512")
    clean = run("-c", code, folder, tmp_path / "image.npy", refused=("PIL",))
    labels = np.load(clean / "labels.npy")
    np.testing.assert_array_equal(labels, expected(image, segmenter()))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["256x256", "any"])
def test_a_photograph_becomes_a_mask(size, run, tmp_path):
    image = photograph(250, 240)
    Image.fromarray(image).save(tmp_path / "photograph.png")
    folder, model = exported(tmp_path, size), segmenter()
    clean = run("photograph.py", folder, tmp_path / "photograph.png", "mask.png")
    mask = Image.open(clean / "mask.png")
    labels = expected(image, model)
    np.testing.assert_array_equal(np.asarray(mask), labels)
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), model.palette[labels])


@pytest.mark.slow
@pytest.mark.parametrize("size", ["256x512", "any"])
def test_onnxruntime_alone_makes_a_mask_of_a_photograph(size, run, tmp_path):
    image = photograph(250, 401)
    Image.fromarray(image).save(tmp_path / "photograph.png")
    folder, model = exported(tmp_path, size, "--format", "onnx"), segmenter()
    refused = "jax", "jaxlib", "onnx", "flatbuffers", "safetensors"
    command = "onnx_photograph.py", folder, tmp_path / "photograph.png", "mask.png"
    mask = Image.open(run(*command, refused=refused) / "mask.png")
    labels = expected(image, model)
    assert np.asarray(mask).shape == labels.shape
    assert (np.asarray(mask) == labels).mean() >= 0.9999
    agree = np.asarray(mask.convert("RGB")) == model.palette[labels]
    assert agree.all(-1).mean() >= 0.9999


@pytest.mark.parametrize(
    "form, refused",
    [
        ("onnx", ("jax", "jaxlib", "onnx", "flatbuffers", "safetensors")),
        pytest.param("stablehlo", ("onnx", "onnxruntime"), marks=pytest.mark.slow),
    ],
)
def test_every_pixel_is_asked_by_two_programs(form, refused, run, tmp_path):
    """Of a photograph of more pixels than a bucket."""
    image, own = exported_coordformer.photograph(130, 150), exported_coordformer.weights()
    Image.fromarray(image).save(tmp_path / "photograph.png")
    folder = exported_coordformer.exported(tmp_path, own, "--format", form)
    command = "coordinates_photograph.py", folder, tmp_path / "photograph.png", "mask.png"
    clean = run(*command, refused=refused, allowed=("cv2",))
    mask, model = Image.open(clean / "mask.png"), Segmenter(own)
    labels = expected(image, model)
    assert np.asarray(mask).shape == labels.shape
    assert (np.asarray(mask) == labels).mean() >= 0.9999
    agree = np.asarray(mask.convert("RGB")) == model.palette[labels]
    assert agree.all(-1).mean() >= 0.9999


@pytest.mark.skipif(not ROOT, reason="ONNXRUNTIME_ROOT names no folder of onnxruntime's release")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++: apt-get install g++")
def test_a_program_in_cpp_makes_a_mask_of_a_photograph(tmp_path):
    (tmp_path / "photograph.cpp").write_text(programs()["photograph.cpp"])
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-L{ROOT}/lib"]
    flags += [
        "-isystem",
        f"{ROOT}/include",
        "-lonnxruntime",
        f"-Wl,-rpath,{ROOT}/lib",
        "-o",
        "photograph",
    ]
    subprocess.run(["g++", "photograph.cpp", *flags], cwd=tmp_path, check=True)
    image = photograph(250, 401)
    Image.fromarray(image).save(tmp_path / "photograph.ppm")
    folder = exported(tmp_path, "256x512", "--format", "onnx")
    arguments = folder / "model.onnx", "photograph.ppm", "mask.png"
    subprocess.run(["./photograph", *arguments], cwd=tmp_path, check=True)
    mask = Image.open(tmp_path / "mask.png")
    padded = np.pad(image, ((0, 6), (0, 111), (0, 0)), mode="edge")
    labels = answer(arguments[0], images=padded[None])[0, :250, :401]
    assert len(np.unique(labels)) > 1
    assert (np.asarray(mask) == labels).mean() >= 0.9999
    agree = np.asarray(mask.convert("RGB")) == np.array(weights().palette, np.uint8)[labels]
    assert agree.all(-1).mean() >= 0.9999
    done = subprocess.run(["./photograph", "missing", *arguments[1:]], cwd=tmp_path)
    assert done.returncode == 1


@pytest.mark.slow
def test_iree_alone_makes_a_mask_of_a_photograph(run, tmp_path):
    for name in ("compiler", "runtime"):
        pytest.importorskip(f"iree.{name}", reason=f"pip install iree-base-{name}")
    image = photograph(250, 240)
    Image.fromarray(image).save(tmp_path / "photograph.png")
    folder, model = exported(tmp_path, "256x256", "--format", "mlir"), segmenter()
    # As the page has it.
    (command,) = re.findall(r"^    (iree-compile (?:.*\\\n)*.*)$", PAGE.read_text(), re.M)
    places = str(pathlib.Path(sys.executable).parent), os.environ["PATH"]
    compiler = shutil.which("iree-compile", path=os.pathsep.join(places))
    words = command.replace("\\\n", " ").replace("EXPORTED", str(folder)).split()
    subprocess.run([compiler, *words[1:]], check=True)
    clean = run(
        "iree_photograph.py", folder, tmp_path / "photograph.png", "mask.png", refused=["jax"]
    )
    mask = Image.open(clean / "mask.png")
    labels = expected(image, model)
    assert (np.asarray(mask) == labels).mean() >= 0.9999
