"""Tests of pyproject.toml, of what other files repeat of it, and of the wheel."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import massformer_jax
from tests.helpers.imports import modules

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_citation_has_the_version_and_licence_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.+)$", citation, re.M) == [massformer_jax.__version__]
    assert re.findall(r"^license: (.+)$", citation, re.M) == [PROJECT["project"]["license"]]


def test_every_package_is_listed():
    """A package that is not listed would be missing in the wheel, and nowhere else."""
    folders = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders | {"massformer_jax.configs"}


def test_python_versions_are_those_that_were_tried():
    listed = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert listed[0] == PROJECT["project"]["requires-python"].removeprefix(">=")
    assert listed == [f"3.{11 + i}" for i in range(len(listed))]


@pytest.mark.slow
def test_the_wheel_installs_one_package(tmp_path):
    """Every module of the checkout is in it, and nothing beside massformer_jax."""
    # A copy: what an earlier build left in the checkout would be packed as well.
    source = tmp_path / "source"
    for name in ("massformer_jax", "configs", "data_builders"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", str(source)]
    subprocess.run([*command, "--wheel-dir", str(tmp_path)], check=True)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (entries,) = [name for name in names if name.endswith("/entry_points.txt")]
        assert "massformer = massformer_jax.__main__:main" in wheel.read(entries).decode()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"massformer_jax"}
    ours = {name.removesuffix(".py").replace("/", ".") for name in names if name.endswith(".py")}
    expected = set(modules()) | {
        f"massformer_jax.configs.{p.stem}" for p in ROOT.glob("configs/*.py")
    }
    assert {name.removesuffix(".__init__") for name in ours} - expected <= {
        "massformer_jax.data_builders.mass13k.mass13k_dataset_builder_test"
    }
    assert not expected - {name.removesuffix(".__init__") for name in ours}
    others = {str(path.relative_to(ROOT)) for path in (ROOT / "massformer_jax").rglob("*.*")}
    assert not {name for name in others if not name.endswith((".py", ".pyc"))} - set(names)
