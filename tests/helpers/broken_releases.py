"""Every kind of broken release that is tried, and the message that it must give."""

import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from massformer_jax.data.images import decode_mask
from massformer_jax.data_builders import mass13k

RELEASE = Path(mass13k.__file__).parent / "dummy_data"
CASES = {}


def case(message):
    """Makes a case of a function that breaks a release, and returns the path that has to be named.

    Args:
      message: what the error says after that path; A stands for another file or folder.
    """

    def register(spoil):
        CASES[spoil.__name__.replace("_", " ")] = (spoil, message)
        return spoil

    return register


class Release:
    """A copy of the dummy data, which a case damages."""

    def __init__(self, root):
        self.root = Path(shutil.copytree(RELEASE, root))
        self.images = sorted((self.root / "images" / "train").iterdir())
        self.masks = sorted((self.root / "annotations" / "train").iterdir())

    def labels(self, change=lambda labels: labels):
        """Rewrites a label map as the image that `change` makes of its labels."""
        labels = np.array(decode_mask(self.masks[0]))
        return save(self.masks[0], Image.fromarray(change(labels)), "PNG")

    def photograph(self, mode="RGB", kind="JPEG"):
        with Image.open(self.images[0]) as image:
            return save(self.images[0], image.convert(mode), kind)


def save(path, image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    path.write_bytes(buffer.getvalue())
    return path


def patch(path, offset, data):
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)
    return path


def depth_of_png(path, bits):
    """Changes the bits per sample in the header, and the checksum of the header."""
    patch(path, 24, bytes([bits]))
    return patch(path, 29, struct.pack(">I", zlib.crc32(path.read_bytes()[12:29])))


def frame_header(path):
    """Returns the offset of the JPEG's frame header (SOF0), before precision, height and width."""
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


@case("the label map is truncated, corrupt or no PNG; copy or download it again")
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
    return depth_of_png(release.masks[0], 4)


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
