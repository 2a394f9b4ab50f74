"""Nothing that is read is written over; files are found through links; names in any Unicode."""

import os
import pathlib

import pytest

from massformer_jax.errors import InputError
from massformer_jax.files import (
    check_new,
    check_outputs,
    composed,
    files_below,
    folder_written_atomically,
    pngs_below,
    some_of,
)


@pytest.fixture
def source(tmp_path):
    """A file that is read, in a folder of its own."""
    path = tmp_path / "read" / "a.png"
    path.parent.mkdir()
    path.write_bytes(b"photograph")
    return path


def spellings(source: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns paths that lead to the source, by what they are."""
    root = source.parent.parent
    (root / "folder").symlink_to(source.parent)
    (root / "link.png").symlink_to(source)
    os.link(source, root / "hard.png")
    return {
        "itself": source,
        "with dots": source.parent / ".." / "read" / "a.png",
        "relative": pathlib.Path(os.path.relpath(source)),
        "through a linked folder": root / "folder" / "a.png",
        "a link": root / "link.png",
        "a hard link": root / "hard.png",
    }


def test_an_output_that_is_read_is_refused_however_it_is_spelt(source, tmp_path):
    for kind, path in spellings(source).items():
        for outputs, inputs in (([tmp_path / "new", path], [source]), ([source], [path])):
            with pytest.raises(InputError, match=r"is read.* and would be written over"):
                check_outputs(outputs, inputs)
                pytest.fail(kind)
    assert source.read_bytes() == b"photograph"


def test_outputs_elsewhere_are_fine(source, tmp_path):
    (tmp_path / "there").write_bytes(b"an older output")
    outputs = [tmp_path / "there", tmp_path / "no" / "folder", source.parent / "b"]
    check_outputs(outputs, [source, tmp_path / "missing"])
    assert not (tmp_path / "no").exists()


def test_two_outputs_are_two_files_and_no_folders(tmp_path):
    with pytest.raises(InputError, match=r"a and .*a are the same file"):
        check_outputs([tmp_path / "a", tmp_path / "b" / ".." / "a"], [])
    with pytest.raises(InputError, match="is a folder"):
        check_outputs([tmp_path], [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("read/a.png", "a.png is no folder; name a new one"),
        ("read", "read holds files already; name a new folder"),
        ("link", "link is no folder"),
        ("gone", "gone is no folder"),
        ("empty", None),
        ("missing", None),
        ("missing/too", None),
    ],
)
def test_what_a_new_folder_is(source, tmp_path, name, message):
    """The renaming that ends the writing would replace a link, and not what it leads to."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    if message is None:
        check_new(tmp_path / name)
    else:
        with pytest.raises(InputError, match=message):
            check_new(tmp_path / name)


def test_files_are_found_through_links_which_may_lead_round(tmp_path):
    for folder in ("labels", "elsewhere"):
        (tmp_path / folder / ".hidden").mkdir(parents=True)
        (tmp_path / folder / ".hidden" / "x.png").touch()
        (tmp_path / folder / "a.png").touch()
    labels = tmp_path / "labels"
    (labels / "city").symlink_to("../elsewhere")
    (labels / "gone.png").symlink_to("nowhere")
    (tmp_path / "elsewhere" / "round").symlink_to(labels)
    found = [str(path) for path in files_below(labels)]
    assert found == ["a.png", "city/a.png", "gone.png"]


def test_names_are_composed(tmp_path):
    assert composed("cafe\u0301.png") == "caf\u00e9.png"
    (tmp_path / "cafe\u0301.PNG").touch()
    (tmp_path / "x.jpg").touch()
    assert pngs_below(tmp_path) == {"caf\u00e9.PNG": tmp_path / "cafe\u0301.PNG"}
    (tmp_path / "caf\u00e9.PNG").touch()
    with pytest.raises(InputError, match="twice, in other Unicode"):
        pngs_below(tmp_path)


def test_some_of():
    assert some_of(["a", "b"]) == "a, b"
    assert some_of(["a", "b", "c", "d"], most=2) == "a, b and 2 more"


def test_a_folder_that_is_replaced_is_never_lost(tmp_path, monkeypatch):
    """Not even by an interrupt when the old one is moved away and the new one is not there yet."""
    folder, rename, calls = tmp_path / "clip", pathlib.Path.rename, []
    folder.mkdir()
    (folder / "a").write_bytes(b"older")

    def interrupted(path, target):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), folder_written_atomically(folder) as part:
        (part / "a").write_bytes(b"newer")
    assert [x.name for x in tmp_path.iterdir()] == ["clip"]
    assert (folder / "a").read_bytes() == b"older"
