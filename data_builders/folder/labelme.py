"""The layout of LabelMe's `labelme_export_json`: a folder for each photograph.

    NAME_json/img.png    NAME_json/label.png    NAME_json/label_names.txt

The values of `label.png` are places in that photograph's own list of names, `label_names.txt`. So
the same value may stand for other classes in other photographs. Where the original NAME.jpg lies
beside the folder, it is taken instead of `img.png`.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from massformer_jax.classes import IGNORE
from massformer_jax.data_builders.folder.plain import check_divided
from massformer_jax.data_builders.folder.splits import Division, divided
from massformer_jax.data_builders.mass13k.release_folder import JPEG_SUFFIXES, Pair
from massformer_jax.data_builders.mass13k.report import DatasetError, Remark
from massformer_jax.files import composed

_IMAGE, _MASK, _NAMES = "img.png", "label.png", "label_names.txt"
BACKGROUND, _IGNORED = "_background_", "__ignore__"


def export_folders(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of single photographs below `root`, sorted."""
    return sorted(path.parent for path in root.glob(f"**/{_NAMES}"))


def listed_classes(root: pathlib.Path) -> tuple[str, ...]:
    """Returns the names of all lists: the background first, and all others sorted."""
    names = {name for folder in export_folders(root) for name in _names(folder)}
    return tuple(sorted(names - {_IGNORED}, key=lambda name: (name != BACKGROUND, name)))


@dataclasses.dataclass(frozen=True)
class LabelMe:
    """Which classes there are.

    Attributes:
        division: how photographs are divided into splits.
        names: of the classes, in the order of their labels.
    """

    division: Division
    names: tuple[str, ...]

    def find(self, root: pathlib.Path) -> tuple[dict[str, list[Pair]], list[Remark]]:
        """Finds the photographs and label maps of each split; see `find_pairs` of the release.

        Raises:
            DatasetError: there are none, or it is not said how they are divided.
        """
        remarks: list[Remark] = []
        folders = export_folders(root)
        if not folders:
            raise DatasetError(f"{root}: no folder holds {_NAMES}; name an export of LabelMe")
        check_divided(self.division, root)
        pairs = [pair for folder in folders if (pair := self._pair(folder, remarks))]
        return divided(pairs, self.division, remarks), remarks

    def _pair(self, folder: pathlib.Path, remarks: list[Remark]) -> Pair | None:
        stem = folder.name.removesuffix("_json").removesuffix("_dataset")
        original = next(
            (
                path
                for suffix in JPEG_SUFFIXES
                if (path := folder.parent / f"{stem}{suffix}").is_file()
            ),
            None,
        )
        image, mask = original or folder / _IMAGE, folder / _MASK
        names = _names(folder)
        problems = [
            f"no {path.name}; export it again" for path in (image, mask) if not path.exists()
        ]
        problems += [
            f"{_NAMES} lists {name}, which is no class of the list given"
            for name in names
            if name not in (*self.names, _IGNORED)
        ]
        remarks += [Remark("problem", "incomplete export", folder, text) for text in problems]
        if problems:
            return None
        labels = [IGNORE if name == _IGNORED else self.names.index(name) for name in names]
        values = (*labels, *[-1] * (IGNORE - len(labels)), IGNORE)
        return Pair(image, mask, values[:256], name=composed(f"{stem}{image.suffix}"))


def _names(folder: pathlib.Path) -> Sequence[str]:
    path = folder / _NAMES
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); export it again") from error
    names = [name for name in names if name]
    if len(names) > IGNORE:
        raise DatasetError(f"{path}: lists {len(names)} names; at most {IGNORE} fit a label map")
    return names
