"""Tests of the rooms of the package: imports point one way, as docs/architecture.md says."""

import re

import pytest

from tests.helpers.imports import COMMANDS, PACKAGE, ROOT, import_graph, modules, reached, room

# From the ground up: a room imports from itself and from those before it.
ROOMS = (
    "ground",
    "ops",
    "parallel",
    "models",
    "data",
    "metrics",
    "inference",
    "convert",
    "export",
    "report",
    "output",
    "video",
    "demo",
    "evaluation",
    "training",
    "commands",
)


@pytest.fixture(scope="module")
def graph():
    return import_graph()


def ours(targets):
    return {target for target in targets if target.split(".")[0] == PACKAGE}


def test_every_module_has_a_room(graph):
    assert {room(name) for name in graph} == set(ROOMS)


def test_no_arrow_points_up(graph):
    upward = [
        f"{name} ({room(name)}) imports {target} ({room(target)})"
        for name, targets in graph.items()
        for target in ours(targets)
        # The package itself only hands out the version and the Segmenter.
        if target != PACKAGE and ROOMS.index(room(target)) > ROOMS.index(room(name))
    ]
    assert not upward


def test_no_circles(graph):
    circles = [name for name in graph if name != PACKAGE and name in reached_again(name, graph)]
    assert not circles


def reached_again(name, graph):
    """Returns everything that is imported by what `name` imports."""
    again = set()
    for target in graph[name] - {PACKAGE}:
        again |= reached(target, graph)
    return again


def test_predicting_needs_neither_the_optimizer_nor_training_data(graph):
    for start in (f"{PACKAGE}.predict", f"{PACKAGE}.inference.segmenter"):
        found = reached(start, graph)
        assert f"{PACKAGE}.models.massformer" in found  # so this looks far enough
        assert not {"optax", "grain", "tensorflow_datasets"} & found
        assert not [name for name in found if room(name) in ("training", "evaluation", "convert")]


def test_the_top_of_the_package_is_small():
    files = {path.stem for path in (ROOT / PACKAGE).glob("*.py")}
    assert len(files) <= 12
    assert set(COMMANDS) <= files


def test_files_are_of_a_size_to_read(graph):
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    long = {name: length for name, length in lengths.items() if length > 420}
    assert not long


def test_the_document_names_rooms_and_arrows_as_they_are(graph):
    page = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", page, re.M)
    told = {name: set(re.findall(r"`(\w+)`", arrows)) for name, arrows in rows}
    found = {
        name: {
            room(target)
            for module, targets in graph.items()
            if room(module) == name
            for target in ours(targets) - {PACKAGE}
        }
        - {name}
        for name in ROOMS
    }
    assert told == found
    assert [name for name, _ in rows] == list(reversed(ROOMS))


def test_the_document_names_files_that_exist():
    page = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`([\w/]+/[\w.]+\.(?:py|md|csv))`", page))
    assert len(named) > 20
    missing = [
        name
        for name in named
        if not (ROOT / PACKAGE / name).exists() and not (ROOT / name).exists()
    ]
    assert not missing
