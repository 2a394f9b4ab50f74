"""Names of the Hub: what they say, and what is none."""

import pathlib

import pytest

from massformer_jax.errors import InputError
from massformer_jax.models.hub import is_hub_name, local_folder, parse_name

NAMES = {
    "hf://a/b": ("a/b", None, ""),
    "hf://a/b/": ("a/b", None, ""),
    "hf://some-one/ma.ss_13k@v1.0": ("some-one/ma.ss_13k", "v1.0", ""),
    "hf://a/b@refs/pr/3": ("a/b", "refs/pr/3", ""),
    "hf://a/b@refs/pr/3/r50/best": ("a/b", "refs/pr/3", "r50/best"),
    "hf://a/b/r50/iter_80000.pth": ("a/b", None, "r50/iter_80000.pth"),
}


@pytest.mark.parametrize("text", NAMES)
def test_names(text):
    name = parse_name(text)
    assert tuple(name) == NAMES[text]
    assert str(name) == text.rstrip("/")
    assert is_hub_name(text)


NONE = [
    "hf://",
    "hf://a",
    "hf:/a/b",
    "hf://a/b@",
    "hf://a/b@../c",
    "hf://a/b@v1..2",
    "hf://a/b/../c",
    "hf://a/b//c",
    "hf://a/b/*",
    "hf://a/b/.git",
    "hf://a/-b",
    "hf://a/b--c",
    "hf://a/b.git",
    "hf://a/b c",
    "hf://a/b\n",
    "hf://ä/b",
    "hf://datasets/a/b",
    f"hf://a/{'b' * 96}",
    "a/b",
]


@pytest.mark.parametrize("text", NONE)
def test_what_is_none_is_refused(text):
    with pytest.raises(InputError, match="write hf://OWNER/NAME"):
        parse_name(text)


def test_a_path_is_no_name_and_a_name_is_no_path():
    assert local_folder("runs/hf/a") == "runs/hf/a"
    with pytest.raises(InputError, match="as text"):
        local_folder(pathlib.Path("hf://a/b"))
