"""Tests of what a build says about every kind of broken release, as docs/data.md lists them."""

import dataclasses
import re
from pathlib import Path

import pytest
from PIL import Image

from massformer_jax.data.package import build
from massformer_jax.data_builders.mass13k import label_maps
from massformer_jax.data_builders.mass13k.headers import Source
from massformer_jax.data_builders.mass13k.release_folder import Pair, find_pairs
from massformer_jax.data_builders.mass13k.report import DatasetError
from massformer_jax.data_builders.mass13k.shards import read_example
from tests.helpers.broken_releases import CASES, Release, patch

DOCS = Path(__file__).parent.parent.parent / "docs" / "data.md"


def as_template(error, path):
    """Returns the message behind the path, with A in place of other files and folders."""
    assert error.startswith(f"{path}: "), error
    rest = error.removeprefix(f"{path}: ")
    rest = re.sub(rf"{re.escape(str(Path(path).parents[2]))}/\S*?(?=[ ;]|$)", "A", rest)
    return re.sub(r"(?<!\*)\b[\w]+\.(zip|jpeg)(?= has| as)", "A", rest)


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_the_file_and_what_to_do(name, tmp_path):
    spoil, message = CASES[name]
    release = Release(tmp_path / "release")
    path = spoil(release)
    with pytest.raises(DatasetError) as error:
        build(release.root, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert as_template(str(error.value), path) == message
    assert not (tmp_path / "out").exists()


def test_the_table_of_the_page_has_every_kind_and_its_message():
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \|$", DOCS.read_text(), re.MULTILINE)
    assert rows == [(name, message) for name, (_, message) in CASES.items()]
    assert len(rows) >= 25


def test_problems_of_the_contents_are_all_listed_too(tmp_path):
    # They are found after the first record is written, and still nothing is left behind.
    release = Release(tmp_path / "release")
    for mask in release.masks:
        patch(mask, len(mask.read_bytes()) - 300, bytes(100))
    with pytest.raises(DatasetError, match=r"^3 problems.* \(3 damaged label map\):") as error:
        build(release.root, tmp_path / "out")
    assert all(
        f"\n  {mask}: the label map is damaged" in str(error.value) for mask in release.masks
    )
    assert not (tmp_path / "out").exists()


def test_one_file_with_two_ills_is_named_once_and_its_pair_too(tmp_path):
    release = Release(tmp_path / "release")
    release.images[0].write_bytes(b"")
    release.masks[0].write_bytes(b"GIF89a")
    with pytest.raises(DatasetError) as error:
        build(release.root, tmp_path / "out")
    assert [line.split(": ")[0].strip() for line in str(error.value).splitlines()[1:]] == [
        str(release.images[0]),
        str(release.masks[0]),
    ]


def test_a_decoder_that_sees_another_size_than_the_header_is_not_believed(tmp_path):
    release = Release(tmp_path / "release")
    pair = Pair(release.images[0], release.masks[0])
    right = Source(pair, height=96, width=128, turn=1, num_bytes=0)
    assert read_example(right)[0] is not None
    example, _, remarks = read_example(dataclasses.replace(right, height=128, width=96))
    assert example is None and [r.kind for r in remarks] == ["undecodable photograph"]


def test_names_that_differ_in_composition_alone_are_a_pair(tmp_path):
    """As where the photographs come from a Mac, and the label maps from elsewhere."""
    release = Release(tmp_path / "release")
    image = release.images[0].rename(release.images[0].with_stem("cafe\u0301"))
    mask = release.masks[0].rename(release.masks[0].with_stem("caf\u00e9"))
    pairs, remarks = find_pairs(release.root)
    assert Pair(image, mask) in pairs["train"] and len(pairs["train"]) == len(release.images)
    assert not [remark for remark in remarks if remark.level == "problem"]


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    # Simulated, since root may read everything.
    release = Release(tmp_path / "release")
    opened = Image.open

    def refuse(path, *arguments):
        if path == release.images[0]:
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(Image, "open", refuse)
    message = f"^{release.images[0]}: may not be read; change its permissions$"
    with pytest.raises(DatasetError, match=message):
        build(release.root, tmp_path / "out")


def test_the_table_of_colours_holds_each_class_once():
    table = label_maps._label_of_code()
    assert sorted(table[table != label_maps._NO_LABEL].tolist()) == [*range(7), 255]
