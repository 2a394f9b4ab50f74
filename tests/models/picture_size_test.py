"""For what size of picture weights are meant: from the recipes, and what is said of others."""

import pathlib

import pytest

from massformer_jax.convert.weights import weights_of
from massformer_jax.convert.weights_file import read_weights
from massformer_jax.models.picture_size import (
    RELEASED_PICTURES,
    pictures_of,
    remark,
    trained_pictures,
)
from tests.helpers import release
from tests.helpers.configs import load
from tests.helpers.tiny_weights import tiny_state, write

ROOT = pathlib.Path(__file__).parents[2]


def test_the_released_recipe_is_for_the_released_photographs():
    def pictures(name):
        return trained_pictures(load(ROOT / "configs" / f"{name}.py").data.short_edges)

    assert pictures("massformer_r50") == pictures("massformer_r18_lite") == RELEASED_PICTURES
    assert pictures("sample") == (339, 452)


def test_released_weights_are_for_the_released_photographs(tmp_path):
    """Of another model that tells nothing, nothing is known."""
    released = write(tmp_path / "released.safetensors", release.state_dict("r18_lite", 1))
    assert weights_of(read_weights(released)).pictures == RELEASED_PICTURES
    tiny = write(tmp_path / "tiny.safetensors", tiny_state())
    assert weights_of(read_weights(tiny)).pictures is None


@pytest.mark.parametrize(
    "value", [None, 3072, [3072], [0, 4096], ["3072", 4096], [3072.0, 4096], [10**7, 1], [True, 1]]
)
def test_what_is_no_size(value):
    assert pictures_of(value) is None
    assert pictures_of([3072, 4096]) == (3072, 4096)


def test_four_times_as_many_pixels_or_as_few_are_said():
    near = [(3072, 4096), (4096, 3072), (6143, 8192), (1537, 2048)]
    assert remark((3072, 4096), near) == ""
    assert remark((3072, 4096), []) == ""
    line = remark((3072, 4096), [*near, (1536, 2048), (480, 640), (6144, 8192)])
    assert line == (
        "of 7 photographs the network sees 1 far larger and 2 far smaller than the pictures that "
        "the weights are meant for, 4096x3072; classes may be wrong, and --resolution 3072x4096 "
        "shows them at that size"
    )
    assert remark((30, 40), [(60, 80)]).startswith("the network sees 80x60 pixels, far larger than")
