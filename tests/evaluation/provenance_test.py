"""What an evaluation says about where it comes from, and which images count as MaSS13K's."""

import shlex
import sys

import pytest

import massformer_jax
from massformer_jax.evaluation.provenance import (
    PHOTOGRAPHS,
    Dataset,
    Model,
    mass13k_split,
    provenance,
    provenance_text,
)
from tests.helpers import tiny_config

SIZES = [(3648, 2736), (3072, 4096), (3264, 2448)]


def released(count: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Names as the release has them, and the sizes of their photographs."""
    sizes = [SIZES[i % 3] for i in range(count)]
    names = [
        f"{i:05d}_b{i % 30:02d}_20230210_tianjin_id{i:04d}_{width}x{height}_K3.png"
        for i, (height, width) in enumerate(sizes)
    ]
    return names, sizes


@pytest.mark.parametrize(
    "split, count, expected",
    [
        ("validation", 500, "val"),
        ("val", 500, "val"),
        ("test", 1500, "test"),
        ("train", 11348, "train"),
        ("validation[:100%]", 500, "val"),
        (None, 500, "val"),
        (None, 1500, "test"),
    ],
)
def test_whole_splits_of_the_release(split, count, expected):
    assert mass13k_split(*released(count), split) == (expected, "")


@pytest.mark.parametrize(
    "split, count, reason",
    [
        ("validation", 499, "499 images, and MaSS13K's val has 500"),
        ("train[:500]", 500, "500 images, and MaSS13K's train has 11348"),
        ("test", 500, "500 images, and MaSS13K's test has 1500"),
        ("mine", 500, "the split 'mine', and MaSS13K has train of 11348, val of 500, test of 1500"),
        (None, 8, "8 images, and MaSS13K has train of 11348, val of 500, test of 1500"),
        ("validation", 0, "0 images, and MaSS13K's val has 500"),
    ],
)
def test_parts_and_other_splits(split, count, reason):
    assert mass13k_split(*released(count), split) == (None, reason)


def test_other_photographs_of_the_same_number():
    names, sizes = released(500)
    told = "images have names and sizes as MaSS13K's"
    reduced = [(height // 4, width // 4) for height, width in sizes]
    assert mass13k_split(names, reduced, "val") == (None, f"only 0 of 500 {told}")
    own = [f"photo_{i}.png" for i in range(500)]
    assert mass13k_split(own, sizes, "val")[0] is None
    # As the sample is rendered: its names have the form of the release's.
    rendered = [f"{i:05d}_b01_20240601_rendered_id{i:04d}_640x480_K3.png" for i in range(500)]
    assert mass13k_split(rendered, [(480, 640)] * 500, "val")[0] is None
    mixed = names[:449] + own[449:]
    assert mass13k_split(mixed, sizes, "val") == (None, f"only 449 of 500 {told}")
    # A few odd names do no harm, nor do folders, nor photographs padded to more than they say.
    odd = [f"deep/{name}" for name in names[:450]] + own[450:]
    padded = [(height + 64, width + 32) for height, width in sizes]
    assert mass13k_split(odd, padded, "val") == ("val", "")


def test_what_is_told_of_a_model():
    architecture = tiny_config.get_config().architecture.to_dict()
    model = Model("/runs/one", 4711, architecture, {"seed": 1})
    told = provenance(
        Dataset("/data/mass13k/1.1.0", "mass13k/1.1.0", "validation"), *released(500), model
    )
    assert told["version"] == massformer_jax.__version__
    assert told["command"] == shlex.join(sys.orig_argv)
    assert told["dataset"] == {
        "folder": "/data/mass13k/1.1.0",
        "name": "mass13k/1.1.0",
        "split": "validation",
        "images": PHOTOGRAPHS["val"],
        "mass13k": "val",
        "reason": "",
    }
    assert "source" not in told, "only converted weights have one"
    first, second = provenance_text(told).splitlines()
    assert first.startswith("/runs/one: ") and "GMAC at 4096x3072" in first
    assert second.startswith("mass13k/1.1.0 validation of /data/mass13k/1.1.0 (MaSS13K's val); ")


def test_what_is_told_of_files():
    told = provenance(Dataset("/labels"), ["x.png"], [(9, 9)], predictions="/mine")
    assert told["predictions"] == "/mine" and "checkpoint" not in told
    assert provenance_text(told).startswith("/labels (not a whole split of MaSS13K: 1 images, ")
