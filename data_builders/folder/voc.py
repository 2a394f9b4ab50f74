"""The layouts of Pascal VOC's folders: masks exported by CVAT, and by LabelMe as one dataset.

    JPEGImages/*.jpg    SegmentationClass/*.png    ImageSets/Segmentation/{train,val}.txt

CVAT writes `labelmap.txt` beside them, with the names and colours of the classes, and masks in
these colours. Photographs are there if it was asked to save them. LabelMe's `labelme2voc` writes
`class_names.txt`, and masks whose values are the places of the classes in it; 255 is ignored.
"""

import dataclasses
import pathlib

from massformer_jax.data_builders.folder.plain import (
    IMAGE_FOLDERS,
    SUFFIXES,
    check_divided,
    folder_in,
    one_of,
)
from massformer_jax.data_builders.folder.splits import Division, divided
from massformer_jax.data_builders.mass13k.release_folder import Pair, pair_up
from massformer_jax.data_builders.mass13k.report import Remark

CVAT_CLASSES = "labelmap.txt"
LABELME_CLASSES = "class_names.txt"
_LISTS = pathlib.PurePath("ImageSets", "Segmentation")
# LabelMe before version 5.5 writes arrays into SegmentationClass, and PNG files beside it.
_MASKS = ("SegmentationClassPNG", "SegmentationClass")


@dataclasses.dataclass(frozen=True)
class Voc:
    """Where photographs and masks lie.

    Attributes:
        division: how they are divided; if it says nothing, the lists that are there say it.
        images: folder of the photographs; None for the one in the export.
    """

    division: Division
    images: pathlib.Path | None = None

    def find(self, root: pathlib.Path) -> tuple[dict[str, list[Pair]], list[Remark]]:
        """Finds the photographs and masks of each split; see `find_pairs` of the release.

        Raises:
            DatasetError: there are no photographs or no masks, or it is not said how they are
                divided.
        """
        remarks: list[Remark] = []
        images = folder_in(root, self.images, IMAGE_FOLDERS, "images")
        masks = next((root / name for name in _MASKS if (root / name).is_dir()), None)
        masks = masks or one_of(root, _MASKS, "labels")
        division = self.division
        if not division and (root / _LISTS / "train.txt").is_file():
            division = Division(lists=root / _LISTS)
        check_divided(division, images)
        pairs = pair_up(images, masks, False, remarks, SUFFIXES)
        return divided(pairs, division, remarks) if pairs else {}, remarks
