"""What a photograph costs a CoordFormer, measured with the smallest one."""

import argparse

import pytest

from massformer_jax.errors import InputError
from massformer_jax.inference.coordinates import BUCKET
from massformer_jax.models import build
from scripts.benchmark import asking
from tests.helpers import tiny_coordformer


def test_a_photograph_is_asked_and_its_parts_are_counted(monkeypatch):
    monkeypatch.setattr(build, "COORDFORMERS", {"tiny": tiny_coordformer.TINY})
    settings = {"model": "tiny", "size": (200, 160), "dtype": "float32", "compile_for": None}
    found = {
        ask: asking._measure(argparse.Namespace(**settings, ask=ask))
        for ask in ("every", "entropy,stride=8,share=0.15")
    }
    every, some = found.values()
    assert every["asked"] == 1 and every["buckets"] == -(-200 * 160 // BUCKET) == 2
    # An eighth of the rows and columns, and 15 % of all pixels.
    assert some["asked"] == pytest.approx(1 / 64 + 0.15, abs=0.01)
    assert some["buckets"] == 4  # the first ones, and one for each distance
    assert every["flops"]["encoder"] == some["flops"]["encoder"]
    assert 2 * every["flops"]["coordinates"] == some["flops"]["coordinates"]  # by buckets
    assert every["flops"]["coordinates"] > 2 * BUCKET * tiny_coordformer.TINY["decoder_width"] ** 2
    assert every["peak_bytes"] >= 0 and set(every["programs"]) == {"encoder", "bucket"}
    with pytest.raises(InputError, match="there is no model 'other'; use one of tiny"):
        asking._measure(argparse.Namespace(**settings | {"model": "other"}, ask="every"))
