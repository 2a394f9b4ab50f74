"""What pyproject.toml says and what other files repeat stay the same."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_citation_has_the_version_and_licence_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.+)$", citation, re.M) == [project["version"]]
    assert re.findall(r"^license: (.+)$", citation, re.M) == [project["license"]]


def test_every_package_is_listed():
    """One that is not listed is missing from the wheel, and only there."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("massformer_jax", "data_builders")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert set(packages) == folders | {"massformer_jax.configs"}
