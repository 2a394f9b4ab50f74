"""Tests of the script behind the figures of docs/pipeline.md, on small pictures."""

import pytest

from massformer_jax.data.crops import ResizedCrop
from scripts.benchmark import pipeline


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(pipeline, "SIZES", ((120, 160), (160, 120)))
    monkeypatch.setattr(pipeline, "CROP", ResizedCrop(64, (80, 130, 200), max_long_edge=300))


def test_both_ways_make_the_same_crops(tmp_path, capsys):
    pipeline.render(tmp_path)
    results = pipeline.measure(tmp_path, 4)
    names = list(results)
    assert names[0] == "(a) the released steps" and len(names) == 6
    for stages, crops in results.values():
        assert crops in (4, 8, 16)
        assert stages.seconds["distort colours"] > 0
    pipeline.measure_reduced(tmp_path, 2)
    assert capsys.readouterr().out.count("\n|") == 6


def test_a_difference_is_noticed(tmp_path, monkeypatch):
    pipeline.render(tmp_path)
    released = pipeline.released

    def wrong(*args):
        element = released(*args)
        element["image"][0, 0, 0] ^= 1
        return element

    monkeypatch.setattr(pipeline, "released", wrong)
    with pytest.raises(AssertionError):
        pipeline.measure(tmp_path, 1)
