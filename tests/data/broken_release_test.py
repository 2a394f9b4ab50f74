"""Every kind of broken release, and what is said about it. The table in docs/data.md repeats it."""

import dataclasses
import io
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_builders.mass13k
from data_builders.mass13k import label_maps
from data_builders.mass13k.headers import Source
from data_builders.mass13k.release_folder import Pair
from data_builders.mass13k.report import DatasetError
from data_builders.mass13k.shards import read_example
from massformer_jax.data.build import build
from massformer_jax.data.images import decode_mask

RELEASE = Path(data_builders.mass13k.__file__).parent / "dummy_data"
DOCS = Path(__file__).parent.parent.parent / "docs" / "data.md"
CASES = {}


def case(message):
    """Registers a function that breaks a release; it may return the path that has to be named.

    Args:
      message: what the error says after that path; A and B stand for names of files.
    """

    def register(spoil):
        CASES[spoil.__name__.replace("_", " ")] = (spoil, message)
        return spoil

    return register


class Release:
    """A copy of the dummy data, to be spoiled."""

    def __init__(self, root):
        self.root = Path(shutil.copytree(RELEASE, root))
        self.images = sorted((self.root / "images" / "train").iterdir())
        self.masks = sorted((self.root / "annotations" / "train").iterdir())

    def labels(self, change=lambda labels: labels, index=0, **options):
        """Rewrites a label map as whatever image `change` makes of its labels."""
        labels = np.array(decode_mask(self.masks[index]))
        return save(self.masks[index], Image.fromarray(change(labels)), "PNG", **options)

    def photograph(self, mode="RGB", kind="JPEG", **options):
        with Image.open(self.images[0]) as image:
            return save(self.images[0], image.convert(mode), kind, **options)


def save(path, image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    path.write_bytes(buffer.getvalue())
    return path


def patch(path, offset, data):
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)
    return path


def header_of_png(path, **fields):
    """Changes bits a sample or colour type in the header, with its checksum."""
    for name, value in fields.items():
        patch(path, {"width": 16, "depth": 24, "colour": 25}[name], value)
    return patch(path, 29, struct.pack(">I", zlib.crc32(path.read_bytes()[12:29])))


def frame_header(path):
    """Offset of the JPEG's frame header (SOF0): precision, height, width, components follow."""
    return path.read_bytes().index(b"\xff\xc0") + 4


# The folders


@case("no folder, or an empty one; name the extracted release")
def no_such_folder(release):
    shutil.rmtree(release.root)
    return release.root


@case("no folder, or an empty one; name the extracted release")
def an_empty_folder(release):
    shutil.rmtree(release.root)
    release.root.mkdir()
    return release.root


@case(
    "no photographs found; expected images/{train,val,test}/*.jpg beside "
    "annotations/{train,val,test}/*.png"
)
def some_other_folder(release):
    (release.root / "images").rename(release.root / "pictures")
    return release.root


@case("holds A as an archive; extract it first")
def an_archive_not_extracted(release):
    shutil.rmtree(release.root / "images")
    (release.root / "MaSS13K.zip").write_bytes(b"PK\3\4")
    return release.root


@case("A holds this split too; keep one of them")
def a_split_extracted_twice(release):
    return shutil.copytree(
        release.root / "images" / "train", release.root / "copy" / "images" / "train"
    )


@case("the split is empty; put its photographs (.jpg, .jpeg) here, or remove it")
def a_split_without_any_file(release):
    for path in release.images + release.masks:
        path.unlink()
    return release.root / "images" / "train"


@case("no label maps for these photographs; expected *.png in annotations/train beside images")
def a_training_split_without_label_maps(release):
    shutil.rmtree(release.root / "annotations" / "train")
    return release.root / "images" / "train"


@case("no photographs to go with them; expected images/train beside annotations")
def a_split_without_photographs(release):
    shutil.rmtree(release.root / "images" / "train")
    return release.root / "annotations" / "train"


@case("no label map A; add it or remove the photograph")
def a_photograph_without_its_label_map(release):
    release.masks[0].unlink()
    return release.images[0]


@case("no photograph A; add it or remove the label map")
def a_label_map_without_its_photograph(release):
    release.images[0].unlink()
    return release.masks[0]


@case("A has the same stem; remove one of them")
def two_photographs_of_one_name(release):
    shutil.copy(release.images[0], release.images[0].with_suffix(".jpeg"))
    return release.images[0]


@case("a link to a file that is not there; copy the file here")
def a_broken_link(release):
    release.images[0].unlink()
    release.images[0].symlink_to("elsewhere.jpg")
    release.masks[0].unlink()
    return release.images[0]


# Photographs


@case("the file is empty; copy or download it again")
def an_empty_photograph(release):
    release.images[0].write_bytes(b"")
    return release.images[0]


@case("the JPEG is truncated or damaged; copy or download it again")
def a_photograph_cut_off(release):
    release.images[0].write_bytes(release.images[0].read_bytes()[:-2000])
    return release.images[0]


@case("the JPEG is truncated or damaged; copy or download it again")
def a_photograph_that_ends_in_zeros(release):
    return patch(release.images[0], len(release.images[0].read_bytes()) - 2000, bytes(2000))


@case("not a readable photograph; replace the file")
def a_photograph_cut_off_in_its_header(release):
    release.images[0].write_bytes(release.images[0].read_bytes()[:100])
    return release.images[0]


@case("not a readable photograph; replace the file")
def noise_for_a_photograph(release):
    release.images[0].write_bytes(np.random.default_rng(0).bytes(5000))
    return release.images[0]


@case("holds a web page instead of a photograph; download it again")
def a_web_page_for_a_photograph(release):
    release.images[0].write_bytes(b"\n<!DOCTYPE html><title>Sign in</title>")
    return release.images[0]


@case("is a PNG, whatever its name; export the photograph as JPEG")
def a_png_called_jpg(release):
    return release.photograph(kind="PNG")


@case("the photograph holds CMYK pixels; export it as an RGB JPEG")
def a_photograph_for_printing(release):
    return release.photograph("CMYK")


@case("not a readable photograph; replace the file")
def a_photograph_of_12_bits(release):
    return patch(release.images[0], frame_header(release.images[0]), b"\x0c")


@case("the header says more than 178 megapixels; replace the file")
def a_photograph_of_an_absurd_size(release):
    return patch(release.images[0], frame_header(release.images[0]) + 1, b"\xff\xf0\xff\xf0")


@case("the photograph cannot be decoded; copy or download it again")
def a_photograph_without_its_tables(release):
    at = release.images[0].read_bytes().index(b"\xff\xdb")
    return patch(release.images[0], at, b"\xff\xec")  # what quantises becomes a comment


# Label maps


@case("the file is empty; copy or download it again")
def an_empty_label_map(release):
    release.masks[0].write_bytes(b"")
    return release.masks[0]


@case("the label map is truncated; copy or download it again")
def a_label_map_cut_off(release):
    release.masks[0].write_bytes(release.masks[0].read_bytes()[:-200])
    return release.masks[0]


@case("the label map is damaged; copy or download it again")
def a_label_map_with_a_damaged_part(release):
    size = len(release.masks[0].read_bytes())
    return patch(release.masks[0], size - 300, bytes(100))


@case("not a readable label map; replace the file")
def noise_for_a_label_map(release):
    release.masks[0].write_bytes(np.random.default_rng(0).bytes(500))
    return release.masks[0]


@case("is a JPEG, whatever its name; export the label map as PNG")
def a_jpeg_called_png(release):
    return save(release.masks[0], Image.fromarray(decode_mask(release.masks[0])), "JPEG")


@case(
    "the label map holds 16-bit grey pixels; save it as an 8-bit grey PNG, a palette PNG, or RGB "
    "in the dataset's colours"
)
def labels_of_16_bits(release):
    return release.labels(lambda labels: labels.astype(np.uint16))


@case(
    "the label map holds 4-bit grey pixels; save it as an 8-bit grey PNG, a palette PNG, or RGB in "
    "the dataset's colours"
)
def labels_of_4_grey_bits(release):
    release.labels()
    return header_of_png(release.masks[0], depth=b"\x04")


@case(
    "the label map holds 8-bit RGBA pixels; save it as an 8-bit grey PNG, a palette PNG, or RGB in "
    "the dataset's colours"
)
def labels_with_transparency(release):
    return release.labels(lambda labels: np.repeat(labels[..., None], 4, 2))


@case(
    "the label map holds 8-bit grey+alpha pixels; save it as an 8-bit grey PNG, a palette PNG, or "
    "RGB in the dataset's colours"
)
def grey_labels_with_transparency(release):
    return release.labels(lambda labels: np.repeat(labels[..., None], 2, 2))


@case(
    "the label map is 127x96 pixels, its photograph 128x96; export it again at the size of the "
    "photograph"
)
def a_label_map_of_another_size(release):
    return release.labels(lambda labels: labels[:, :-1].copy())


@case("the label map lies on its side: 96x128 pixels, its photograph 128x96; turn it")
def a_label_map_on_its_side(release):
    return release.labels(lambda labels: labels.T.copy())


@case("the label map holds 7, 200, allowed are 0..6 and 255; correct its labels")
def values_that_are_no_labels(release):
    def spoil(labels):
        labels[:2, :2], labels[5, 9] = 200, 7
        return labels

    return release.labels(spoil)


@case(
    "the label map holds colours that are no class's, such as RGB (1, 255, 0); export it without "
    "smoothing, in the dataset's colours"
)
def colours_that_are_no_labels(release):
    def spoil(labels):
        rgb = np.zeros((*labels.shape, 3), np.uint8)
        rgb[3, 4] = (1, 255, 0)
        return rgb

    return release.labels(spoil)


@case(
    "its palette shows label 1 in the colour of sky: are its indices labels? Save it as an 8-bit "
    "grey PNG of labels"
)
def a_palette_of_another_order(release):
    def with_palette(labels):
        image = Image.fromarray(labels)
        image.putpalette([0, 0, 0, 0, 0, 255, 0, 255, 0])
        return image

    return save(release.masks[0], with_palette(decode_mask(release.masks[0]) % 3), "PNG")


def as_template(error, path):
    """The message after its path, with names of files and folders as A."""
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
    """They are found after the first record is written, and still leave nothing."""
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


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    """Simulated, since root may read everything."""
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
