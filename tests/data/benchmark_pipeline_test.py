"""The script behind the figures of docs/pipeline.md, on pictures that are small."""

import importlib.util
from pathlib import Path

import pytest

from massformer_jax.data.crops import ResizedCrop

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_pipeline.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark_pipeline", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SIZES", ((120, 160), (160, 120)))
    monkeypatch.setattr(module, "CROP", ResizedCrop(64, (80, 130, 200), max_long_edge=300))
    return module


def test_both_ways_make_the_same_crops(script, tmp_path, capsys):
    script.render(tmp_path)
    results = script.measure(tmp_path, 4)
    names = list(results)
    assert names[0] == "(a) the released steps" and len(names) == 6
    for stages, crops in results.values():
        assert crops in (4, 8, 16)
        assert stages.seconds["distort colours"] > 0
    script.measure_reduced(tmp_path, 2)
    assert capsys.readouterr().out.count("\n|") == 6


def test_a_difference_is_noticed(script, tmp_path, monkeypatch):
    script.render(tmp_path)
    released = script.released

    def wrong(*args):
        element = released(*args)
        element["image"][0, 0, 0] ^= 1
        return element

    monkeypatch.setattr(script, "released", wrong)
    with pytest.raises(AssertionError):
        script.measure(tmp_path, 1)
