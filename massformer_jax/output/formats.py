"""The formats that a segmented photograph can be written in, by name.

Which files a format writes is known before anything is computed. This module imports at its top
only what `--help` needs; what encodes is imported when it is used.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from massformer_jax.classes import label_of
from massformer_jax.errors import InputError
from massformer_jax.output import names
from massformer_jax.output.prediction import Group, Prediction

DEFAULT = ("labels",)


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be adjusted in the formats.

    Attributes:
        opacity: weight of the colours in an overlay, and of the layers of a PSD file, 0..1.
        legend: whether a strip below an overlay names the colours.
        alpha_bits: bits of each pixel of an alpha PNG, 8 or 16.
        transforms: nerfstudio's `transforms.json`, of which a copy that names the masks is written;
            None if there is none.

    Raises:
        InputError: a value is out of its range.
    """

    opacity: float = 0.5
    legend: bool = False
    alpha_bits: int = 8
    transforms: Path | None = None

    def __post_init__(self):
        if not 0 <= self.opacity <= 1:
            raise InputError(f"the opacity is {self.opacity:g}; use a number from 0 to 1")
        if self.alpha_bits not in (8, 16):
            raise InputError(f"alpha cannot have {self.alpha_bits} bits; use 8 or 16")


class Format(NamedTuple):
    """A kind of files that are written of a photograph.

    Attributes:
        about: one line that says what is written.
        files: returns the paths of what will be written, relative to the output, of the path of a
            photograph, likewise relative and with its own suffix, and of the groups.
        encode: returns the contents of these files, in the same order.
        needs: what the files are made of beside the labels: some of the fields `probabilities`,
            `alphas` and `foregrounds` of a prediction.
        chosen: whether the groups must be chosen, because what they cover is left out.
        stored: whether the files lie as the photograph is stored, whichever side is up; then they
            need the `orientation` of a prediction.
    """

    about: str
    files: Callable[[PurePath, tuple[Group, ...]], tuple[PurePath, ...]]
    encode: Callable[[Prediction, Options], tuple[bytes, ...]]
    needs: frozenset[str] = frozenset()
    chosen: bool = False
    stored: bool = False


def parse_formats(text: str) -> tuple[str, ...]:
    """Returns the names of formats in a text such as "labels,overlay", each of them once.

    Raises:
        InputError: there is none, or one is not known.
    """
    formats = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not formats:
        raise InputError(f"--write names no format; use some of {', '.join(FORMATS)}")
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"there is no format {name!r}; use some of {', '.join(FORMATS)}")
    return formats


def check_formats(formats: Sequence[str], classes: str | None, options: Options) -> None:
    """Checks that formats, classes and options fit together, and that their libraries are there.

    Args:
        formats: what `parse_formats` returned.
        classes: what the user passed as `--classes`, or None.
        options: those of the formats.

    Raises:
        InputError: the user has to choose what is left out, has named a file for a format that is
            not written, or has to install something.
    """
    for name in formats:
        if FORMATS[name].chosen and classes is None:
            raise InputError(
                f"--write {name} needs to know what is ignored; pass it, as in --classes sky or "
                "--classes sky,person"
            )
    if options.transforms is not None and "nerfstudio" not in formats:
        raise InputError("transforms.json is for nerfstudio; pass --write nerfstudio")
    if "psd" in formats:
        from massformer_jax.output.psd import check_psd

        check_psd()


def parse_groups(text: str, classes: Sequence[str]) -> tuple[Group, ...]:
    """Returns the groups that a text such as "sky,person+tree" names.

    A class can be named by its label as well, such as 5: names may hold a comma or a plus.

    Args:
        text: names of classes, with commas between groups and "+" between classes of one group.
        classes: the names of all classes.

    Raises:
        InputError: a name is no class, or is there twice in one group, or a group is there twice.
    """
    groups = []
    for part in text.split(","):
        members = tuple(label_of(name.strip(), classes) for name in part.split("+"))
        if len(set(members)) < len(members):
            raise InputError(f"--classes names a class twice in {part.strip()!r}; name it once")
        if any(set(members) == set(group.members) for group in groups):
            raise InputError(f"--classes names {part.strip()!r} twice; name it once")
        groups.append(Group("+".join(classes[i] for i in members), members))
    return tuple(groups)


def all_groups(classes: Sequence[str]) -> tuple[Group, ...]:
    """Returns each class as a group of its own, which is meant if no classes were chosen."""
    return tuple(Group(name, (i,)) for i, name in enumerate(classes))


def files_of(
    formats: Sequence[str], photograph: PurePath, groups: tuple[Group, ...]
) -> tuple[PurePath, ...]:
    """Returns the paths of all files that the formats write of a photograph, see `Format.files`."""
    return tuple(path for name in formats for path in FORMATS[name].files(photograph, groups))


def encode_all(
    formats: Sequence[str], prediction: Prediction, options: Options
) -> tuple[bytes, ...]:
    """Returns the contents of the files that `files_of` names, in the same order.

    Raises:
        InputError: the photograph is too large for a format.
    """
    return tuple(data for name in formats for data in FORMATS[name].encode(prediction, options))


def written_once(
    photographs: Mapping[PurePath, Path], output: Path, options: Options
) -> dict[PurePath, bytes]:
    """Returns the files that are written once for all photographs, when their own are there.

    They are known before anything is computed, so that what is wrong with them is told in time.

    Args:
        photographs: where each photograph is read, by its path relative to the output.
        output: the folder that is written to.
        options: those of the formats.

    Returns:
        Contents by their paths relative to the output. Most often there is nothing.

    Raises:
        InputError: see `output.stored.masked_transforms`.
    """
    if options.transforms is None:
        return {}
    from massformer_jax.output.stored import masked_transforms

    masks = {path: names.nerfstudio(name, ())[0] for name, path in photographs.items()}
    content = masked_transforms(options.transforms, masks, output)
    return {PurePath("transforms_masked.json"): content}


def _labels(prediction: Prediction, options: Options) -> tuple[bytes, ...]:
    from massformer_jax.data.images import encode_mask

    return (encode_mask(prediction.labels, prediction.palette),)


def _overlay(prediction: Prediction, options: Options) -> tuple[bytes, ...]:
    from massformer_jax.output.pictures import tinted_jpeg

    return (tinted_jpeg(prediction, options.opacity, legend=options.legend),)


def _alpha(prediction: Prediction, options: Options) -> tuple[bytes, ...]:
    from massformer_jax.output.pictures import grey_png

    alphas = (prediction.alphas[group.name] for group in prediction.groups)
    return tuple(grey_png(alpha, options.alpha_bits) for alpha in alphas)


def _cutout(prediction: Prediction, options: Options) -> tuple[bytes, ...]:
    from massformer_jax.output.pictures import cutout_png

    shown = (group.name for group in prediction.groups)
    return tuple(
        cutout_png(prediction.foregrounds[name], prediction.alphas[name]) for name in shown
    )


def _probabilities(prediction: Prediction, options: Options) -> tuple[bytes, ...]:
    from massformer_jax.output.pictures import probabilities_tiff

    return (probabilities_tiff(prediction),)


def _used(prediction: Prediction, options: Options) -> tuple[bytes, ...]:
    from massformer_jax.output.stored import used_png

    return (used_png(prediction),)


def _nerfstudio(prediction: Prediction, options: Options) -> tuple[bytes, ...]:
    from massformer_jax.output.stored import used_png

    return tuple(used_png(prediction, n) for n in (1, *names.NERFSTUDIO_REDUCTIONS))


def _darktable(prediction: Prediction, options: Options) -> tuple[bytes, ...]:
    from massformer_jax.output.stored import alpha_pfm

    return tuple(alpha_pfm(prediction, group.name) for group in prediction.groups)


def _psd(prediction: Prediction, options: Options) -> tuple[bytes, ...]:
    from massformer_jax.output.psd import layered_psd

    return (layered_psd(prediction, options.opacity),)


_ALPHAS = frozenset({"alphas"})

FORMATS: dict[str, Format] = {
    "labels": Format(
        "NAME.png: the class of every pixel, as an index PNG", names.beside(".png"), _labels
    ),
    "overlay": Format(
        "NAME_overlay.jpg: the photograph in the colours of its classes",
        names.beside("_overlay.jpg"),
        _overlay,
    ),
    "alpha": Format(
        "NAME_CLASS_alpha.png: how much of every pixel a class covers, as a grey PNG",
        names.for_each_group("_alpha.png"),
        _alpha,
        needs=_ALPHAS,
    ),
    "cutout": Format(
        "NAME_CLASS_cutout.png: what a class shows, as an RGBA PNG",
        names.for_each_group("_cutout.png"),
        _cutout,
        needs=frozenset({"alphas", "foregrounds"}),
    ),
    "probabilities": Format(
        "NAME_probabilities.tif: probabilities in 16 bits, one page for each class",
        names.beside("_probabilities.tif"),
        _probabilities,
        needs=frozenset({"probabilities"}),
    ),
    "colmap": Format(
        "masks/NAME.jpg.png: 0 where COLMAP ignores features",
        names.colmap,
        _used,
        chosen=True,
        stored=True,
    ),
    "nerfstudio": Format(
        "masks/NAME.png, and reduced: black where nerfstudio does not train",
        names.nerfstudio,
        _nerfstudio,
        chosen=True,
        stored=True,
    ),
    "metashape": Format(
        "metashape/NAME_mask.png: black where Metashape is masked",
        names.metashape,
        _used,
        chosen=True,
        stored=True,
    ),
    "darktable": Format(
        "darktable/NAME_CLASS.pfm: an external raster mask for darktable",
        names.for_each_group(".pfm", "darktable"),
        _darktable,
        needs=_ALPHAS,
        stored=True,
    ),
    "psd": Format(
        "NAME.psd: the photograph, and a layer mask for each class",
        names.beside(".psd"),
        _psd,
        needs=_ALPHAS,
    ),
}
