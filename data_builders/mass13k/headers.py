"""The check of headers: what can be said about a pair of files without decoding them."""

import dataclasses
import functools
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from massformer_jax.classes import MASS13K, Class
from massformer_jax.data.images import ImageError, decode_image
from massformer_jax.data.label_png import LabelMapError, check_label_map
from massformer_jax.data.orientation import TURNED_BY_A_QUARTER, UPRIGHT, orientation
from massformer_jax.data.png import RGB, PngError, open_png
from massformer_jax.data_builders.mass13k.photographs import OTHER_FORMATS, OTHER_MODES, QUALITY
from massformer_jax.data_builders.mass13k.release_folder import Pair
from massformer_jax.data_builders.mass13k.report import Remark

_JPEG_END = b"\xff\xd9"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_NO_PERMISSION = ("no permission", "may not be read; change its permissions")


@dataclasses.dataclass(frozen=True)
class Source:
    """A pair of files whose headers are in order.

    Attributes:
        pair: the files.
        height: of the upright photograph, in pixels.
        width: of the upright photograph, in pixels.
        turn: the EXIF orientation by which the label map has yet to be turned; 1 if it is upright.
        num_bytes: size of both files together.
        as_jpeg: whether the photograph is no JPEG file yet.
    """

    pair: Pair
    height: int
    width: int
    turn: int
    num_bytes: int
    as_jpeg: bool = False


def read_headers(
    pairs: Sequence[Pair],
    num_threads: int | None = None,
    classes: Sequence[Class] | None = MASS13K,
) -> tuple[list[Source], list[Remark]]:
    """Checks the headers and the ends of all files: kind, size, orientation, completeness.

    Args:
        pairs: what `find_pairs` found in one split.
        num_threads: by default four per core, since they wait for the disk.
        classes: in whose colours the palettes of label maps have to be; None for any palettes.

    Returns:
        The pairs that can be used, in order; and remarks on all others, and on everything odd.
    """
    with ThreadPoolExecutor(num_threads or 4 * (os.cpu_count() or 1)) as pool:
        results = list(pool.map(functools.partial(_read_pair, classes=classes), pairs))
    sources = [source for source, _ in results if source is not None]
    return sources, [remark for _, remarks in results for remark in remarks]


class _Refused(Exception):
    """The error of a file with a problem; its arguments are the kind and the message."""


def _read_pair(pair: Pair, classes: Sequence[Class] | None) -> tuple[Source | None, list[Remark]]:
    """Checks a pair of files. It has no source if there is a problem."""
    remarks: list[Remark] = []
    image_size = mask_size = None
    try:
        image_size, turned_by = _check_photograph(pair.image, remarks)
    except _Refused as problem:
        remarks.append(Remark("problem", problem.args[0], pair.image, problem.args[1]))
    num_bytes = pair.image.stat().st_size
    for mask in pair.masks:
        num_bytes += mask.stat().st_size
        try:
            checked = classes if pair.values is None and not pair.layers else None
            size = _check_label_map(mask, remarks, checked)
            if mask_size not in (None, size):
                raise _Refused("sizes differ", f"another size than {pair.mask.name}; export again")
            mask_size = size
        except _Refused as problem:
            remarks.append(Remark("problem", problem.args[0], mask, problem.args[1]))
            mask_size = None
            break
    if image_size is None or (pair.mask is not None and mask_size is None):
        return None, remarks
    turned = turned_by in TURNED_BY_A_QUARTER
    height, width = image_size[::-1] if turned else image_size
    turn = UPRIGHT
    if pair.mask is not None and mask_size != (height, width):
        if not turned or mask_size != image_size:
            remarks.append(_misfit(pair.mask, mask_size, (height, width)))
            return None, remarks
        turn = turned_by
    if turned_by != UPRIGHT:
        message = f"turned by its XMP or EXIF tag ({turned_by}); " + (
            "its label map was not, and is stored turned likewise"
            if turn != UPRIGHT
            else "its label map is taken to be upright, as the released reader takes it"
        )
        remarks.append(Remark("oddity", "turned photograph", pair.image, message))
    return Source(pair, height, width, turn, num_bytes, _is_other(pair.image)), remarks


def _misfit(path: Path, mask_size: tuple[int, int], image_size: tuple[int, int]) -> Remark:
    """Describes how a label map does not fit its photograph; sizes are (height, width)."""
    (mask_height, mask_width), (height, width) = mask_size, image_size
    sizes = f"{mask_width}x{mask_height} pixels, its photograph {width}x{height}"
    if mask_size == image_size[::-1]:
        message = f"the label map lies on its side: {sizes}; turn it"
        return Remark("problem", "label map on its side", path, message)
    message = f"the label map is {sizes}; export it again at the size of the photograph"
    return Remark("problem", "sizes differ", path, message)


def _check_photograph(path: Path, remarks: list[Remark]) -> tuple[tuple[int, int], int]:
    """Checks a photograph, and adds a remark on what is odd.

    Returns:
        Its (height, width) as it is stored, and its orientation.

    Raises:
        _Refused: the file has a problem.
    """
    with _opened(path, "photograph") as image:
        if _is_other(path):
            return _check_other_photograph(image, path, remarks)
        if image.format not in ("JPEG", "MPO"):  # MPO: a JPEG with further views appended
            kind = f"a {image.format}, whatever its name; export the photograph as JPEG"
            raise _Refused("photograph of another format", f"is {kind}")
        if image.mode not in ("RGB", "L"):
            message = f"the photograph holds {image.mode} pixels; export it as an RGB JPEG"
            raise _Refused("photograph of other colours", message)
        if image.mode == "L":
            message = "a grey photograph; some readers deliver one channel"
            remarks.append(Remark("oddity", "grey photograph", path, message))
        turned_by = orientation(image)
        width, height = image.size
    if not _ends_with(path, _JPEG_END):  # truncated, or a camera has appended something
        try:
            decode_image(path)
        except ImageError as error:
            message = "the JPEG is truncated or damaged; copy or download it again"
            raise _Refused("truncated photograph", message) from error
    return (height, width), turned_by


def _is_other(path: Path) -> bool:
    """Tells whether this is no JPEG file by its name, so that a layout must have allowed it."""
    return path.suffix.lower() in OTHER_FORMATS


def _check_other_photograph(
    image: Image.Image, path: Path, remarks: list[Remark]
) -> tuple[tuple[int, int], int]:
    """Checks a photograph that will be stored as JPEG, which is upright then.

    Returns:
        Its (height, width) when it is upright, and `UPRIGHT`.

    Raises:
        _Refused: the file has a problem.
    """
    if image.format != OTHER_FORMATS[path.suffix.lower()]:
        message = f"is a {image.format}, whatever its name; name it by its format"
        raise _Refused("photograph of another format", message)
    if image.mode not in OTHER_MODES:
        message = f"the photograph holds {image.mode} pixels; export it as an RGB JPEG"
        raise _Refused("photograph of other colours", message)
    message = f"a {image.format}; stored as a JPEG of quality {QUALITY}"
    remarks.append(Remark("oddity", "photograph that is no JPEG", path, message))
    width, height = image.size
    if orientation(image) in TURNED_BY_A_QUARTER:
        width, height = height, width
    return (height, width), UPRIGHT


def _check_label_map(
    path: Path, remarks: list[Remark], classes: Sequence[Class] | None = MASS13K
) -> tuple[int, int]:
    """Checks a label map, adds a remark on what is odd, and returns its (height, width).

    Raises:
        _Refused: the file has a problem.
    """
    try:
        with _readable(path, "label map") as file:
            header = check_label_map(file, colours=True, classes=classes)
    except LabelMapError as error:
        raise _Refused(error.kind, str(error)) from error
    if not _ends_with(path, _PNG_END):  # truncated, or something is appended
        try:
            open_png(path.read_bytes())
        except PngError as error:
            message = "the label map is truncated; copy or download it again"
            raise _Refused("truncated label map", message) from error
    if header.colour == RGB:
        message = "an RGB label map, stored as the labels of its colours"
        remarks.append(Remark("oddity", "RGB label map", path, message))
    return header.height, header.width


def _opened(path: Path, what: str) -> Image.Image:
    """Opens an image with Pillow, which reads its header.

    Args:
        path: the file.
        what: what a message calls it.

    Raises:
        _Refused: there is no readable header.
    """
    _readable(path, what).close()
    try:
        return Image.open(path)
    except Image.DecompressionBombError as error:
        message = f"the header says more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels; "
        raise _Refused("absurd size", message + "replace the file") from error
    except PermissionError as error:
        raise _Refused(*_NO_PERMISSION) from error
    except Exception as error:  # of many types, all undocumented, if the header is damaged
        message = f"not a readable {what}; replace the file"
        raise _Refused(f"unreadable {what}", message) from error


def _readable(path: Path, what: str) -> io.BufferedIOBase:
    """Opens a file that may be an image.

    Args:
        path: the file.
        what: what a message calls it.

    Raises:
        _Refused: it is empty, or a web page, or may not be read.
    """
    try:
        file = path.open("rb")
    except PermissionError as error:
        raise _Refused(*_NO_PERMISSION) from error
    start = file.read(64)
    if not start:
        raise _Refused("empty file", "the file is empty; copy or download it again")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        message = f"holds a web page instead of a {what}; download it again"
        raise _Refused("web page", message)
    return file


def _ends_with(path: Path, end: bytes) -> bool:
    """Tells whether these are the last bytes of a file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(end)))
        return file.read() == end
