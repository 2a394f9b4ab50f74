"""Names of formats, classes and files."""

from pathlib import Path, PurePath

import pytest

from massformer_jax.classes import CLASSES
from massformer_jax.errors import InputError
from massformer_jax.output.formats import (
    FORMATS,
    Options,
    all_groups,
    check_formats,
    encode_all,
    files_of,
    parse_formats,
    parse_groups,
)
from massformer_jax.output.names import of_group
from massformer_jax.output.prediction import Group
from tests.helpers.predictions import SKY, TREE_AND_PERSON, random_prediction


def test_formats_are_read_in_their_order_and_once():
    assert parse_formats("overlay, labels,overlay") == ("overlay", "labels")


@pytest.mark.parametrize("text, told", [("", "no format"), ("labels,maks", "'maks'")])
def test_what_is_no_format_is_told_with_all_formats(text, told):
    with pytest.raises(InputError, match=f"{told}.*labels.*psd$"):
        parse_formats(text)


def test_groups_are_classes_and_unions():
    assert parse_groups("sky, tree+person", CLASSES) == (SKY, TREE_AND_PERSON)


def test_a_class_can_be_named_by_its_label():
    odd = ("a, b", "c+d", "3")
    assert parse_groups("0+1,3", odd) == (Group("a, b+c+d", (0, 1)), Group("3", (2,)))


@pytest.mark.parametrize(
    "text, told",
    [
        ("skye", "no class 'skye'; did you mean sky"),
        ("", "no class ''"),
        ("7", "no class '7'.*background, person"),
        ("sky,tree+", "no class ''"),
        ("tree+tree", "twice in 'tree\\+tree'"),
        ("tree+sky,sky+tree", "'sky\\+tree' twice"),
    ],
)
def test_what_is_no_group_is_told(text, told):
    with pytest.raises(InputError, match=told):
        parse_groups(text, CLASSES)


def test_without_a_choice_each_class_is_a_group():
    assert all_groups(CLASSES)[5] == SKY and len(all_groups(CLASSES)) == 7


@pytest.mark.parametrize("name", ["colmap", "nerfstudio", "metashape"])
def test_what_is_ignored_must_be_chosen(name):
    with pytest.raises(InputError, match=f"--write {name} .* --classes sky"):
        check_formats(("labels", name), None, Options())
    check_formats(("labels", name), "sky", Options())


def test_transforms_are_for_nerfstudio():
    with pytest.raises(InputError, match="pass --write nerfstudio"):
        check_formats(("labels",), "sky", Options(transforms=Path("transforms.json")))


@pytest.mark.parametrize("values", [{"opacity": 1.5}, {"opacity": float("nan")}, {"alpha_bits": 1}])
def test_options_out_of_range_are_refused(values):
    with pytest.raises(InputError):
        Options(**values)


def test_files_are_named_before_anything_is_computed():
    names = files_of(tuple(FORMATS), PurePath("trip/IMG_1.jpg"), (SKY, TREE_AND_PERSON))
    assert [str(name) for name in names] == [
        "trip/IMG_1.png",
        "trip/IMG_1_overlay.jpg",
        "trip/IMG_1_sky_alpha.png",
        "trip/IMG_1_tree+person_alpha.png",
        "trip/IMG_1_sky_cutout.png",
        "trip/IMG_1_tree+person_cutout.png",
        "trip/IMG_1_probabilities.tif",
        "masks/trip/IMG_1.jpg.png",
        "masks/trip/IMG_1.png",
        "masks_2/IMG_1.png",
        "masks_4/IMG_1.png",
        "masks_8/IMG_1.png",
        "metashape/trip/IMG_1_mask.png",
        "darktable/trip/IMG_1_sky.pfm",
        "darktable/trip/IMG_1_tree+person.pfm",
        "trip/IMG_1.psd",
    ]


def test_each_named_file_has_contents():
    prediction = random_prediction()
    contents = encode_all(tuple(FORMATS), prediction, Options())
    files = files_of(tuple(FORMATS), PurePath("IMG_1.jpg"), prediction.groups)
    start = {".png": b"\x89PNG", ".jpg": b"\xff\xd8", ".tif": b"II", ".pfm": b"Pf", ".psd": b"8BPS"}
    for path, data in zip(files, contents, strict=True):
        assert data.startswith(start[path.suffix]), path


def test_a_format_needs_what_it_says():
    """With nothing else given, each format can be written."""
    whole = random_prediction()
    for format in FORMATS.values():
        given = {name: getattr(whole, name) for name in format.needs}
        fields = ("image", "labels", "classes", "palette", "groups")
        bare = type(whole)(**{name: getattr(whole, name) for name in fields}, **given)
        assert format.encode(bare, Options()) == format.encode(whole, Options())


@pytest.mark.parametrize(
    "name, file",
    [
        ("sky", "sky"),
        ("class 3+class 4", "class-3+class-4"),
        ("Straße", "Straße"),
        ("../../etc", "etc-"),
        ("a/b", "a-b-"),
        ('a\\b:*?"<>|', "a-b-"),
        ("+".join(CLASSES * 9), "background+person"),
    ],
)
def test_names_of_groups_fit_into_names_of_files(name, file):
    found = of_group(Group(name, (0,)))
    assert found.startswith(file) and len(found) < 80
    assert not set(found) & set('/\\:*?"<>|. ')


def test_different_groups_have_different_files():
    names = [of_group(Group(name, (0,))) for name in ("a/b", "a:b", "a-b", "x" * 99, "x" * 98)]
    assert len(set(names)) == 5
