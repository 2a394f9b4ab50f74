"""The layout of Label Studio's export of brush masks as PNG.

    task-ID-annotation-ID-by-USER-TAG-CLASS-N.png    one grey PNG file per class and annotation
    *.json                                           the same tasks exported as JSON or JSON-MIN

A mask is of a class where it is not 0. The names of the masks tell the task, and the JSON tells
which photograph a task shows. The list of classes is the labelling configuration (XML), or any
other.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from massformer_jax.classes import IGNORE
from massformer_jax.data_builders.folder.plain import (
    IMAGE_FOLDERS,
    SUFFIXES,
    check_divided,
    folder_in,
)
from massformer_jax.data_builders.folder.splits import Division, divided
from massformer_jax.data_builders.mass13k.release_folder import Pair, files_by_stem
from massformer_jax.data_builders.mass13k.report import DatasetError, Remark
from massformer_jax.files import composed

_MASK = re.compile(r"task-(\d+)-annotation-(\d+)-by-(.*)-\d+")
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # what Label Studio puts before the name of an upload


@dataclasses.dataclass(frozen=True)
class LabelStudio:
    """Which classes there are, and of which one the rest is.

    Attributes:
        division: how photographs are divided into splits.
        names: of the classes, in the order of their labels.
        rest: the class of pixels that no mask covers; None if they are ignored.
        images: folder of the photographs; None to look for one.
    """

    division: Division
    names: tuple[str, ...]
    rest: str | None = None
    images: pathlib.Path | None = None

    def find(self, root: pathlib.Path) -> tuple[dict[str, list[Pair]], list[Remark]]:
        """Finds the photographs and masks of each split; see `find_pairs` of the release.

        Raises:
            DatasetError: there are none, or nothing says which photograph a task shows, or how
                photographs are divided.
        """
        remarks: list[Remark] = []
        folder = folder_in(root, self.images, IMAGE_FOLDERS, "images")
        check_divided(self.division, folder)
        images = files_by_stem(folder, SUFFIXES, "photograph", remarks)
        shown = _photographs_of_tasks(root)
        layers: dict[str, dict[str, list[tuple[pathlib.Path, int]]]] = {}
        for path in sorted(root.glob("**/task-*.png")):
            match = _MASK.fullmatch(path.stem)
            name = self._class_of(match[3]) if match else None
            if name is None:
                message = "its name ends in no class of the list; add the class, or remove the file"
                remarks.append(Remark("problem", "mask of no class", path, message))
                continue
            of_task = layers.setdefault(match[1], {})
            of_task.setdefault(match[2], []).append((path, self.names.index(name)))
        if not layers and not remarks:
            raise DatasetError(f"{root}: no task-*.png; export the brush masks as PNG")
        pairs = []
        for task, annotations in sorted(layers.items(), key=lambda item: int(item[0])):
            pair = self._pair(task, annotations, shown, images, remarks)
            pairs += [pair] if pair else []
        masked = {pair.image for pair in pairs}
        for path in images.values():
            if path not in masked and not any(remark.level == "problem" for remark in remarks):
                message = "no mask of a task that shows it; annotate it or remove the photograph"
                remarks.append(Remark("problem", "missing label map", path, message))
        pairs.sort(key=lambda pair: pair.file_name)
        return divided(pairs, self.division, remarks) if pairs else {}, remarks

    def _pair(
        self,
        task: str,
        annotations: Mapping[str, list[tuple[pathlib.Path, int]]],
        shown: Mapping[str, str],
        images: Mapping[str, pathlib.Path],
        remarks: list[Remark],
    ) -> Pair | None:
        layers = next(iter(annotations.values()))
        first = layers[0][0]
        problem = ""
        image = None
        if len(annotations) > 1:
            listed = ", ".join(annotations)
            problem = f"task {task} has the annotations {listed}; keep the files of one"
        elif task not in shown:
            problem = f"no JSON of the export tells which photograph task {task} shows"
        else:
            stem = composed(pathlib.PurePath(shown[task]).stem)
            bare = _UPLOADED.fullmatch(stem)
            image = images.get(stem) or (images.get(bare[1]) if bare else None)
            if image is None:
                problem = f"no photograph {shown[task]}, which task {task} shows"
        if problem:
            remarks.append(Remark("problem", "task without photograph", first, problem))
            return None
        rest = IGNORE if self.rest is None else self.names.index(self.rest)
        return Pair(image, first, (rest, *[-1] * IGNORE), tuple(layers))

    def _class_of(self, text: str) -> str | None:
        """Returns the class that a name ends in; the longest if one ends in another."""
        ends = [name for name in self.names if text.endswith(f"-{name}")]
        return max(ends, key=len, default=None)


def _photographs_of_tasks(root: pathlib.Path) -> dict[str, str]:
    """Returns the file name of each task's photograph, by the number of the task."""
    shown: dict[str, str] = {}
    for path in sorted(root.glob("*.json")):
        try:
            tasks = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path} is no JSON ({error}); export it again") from error
        for task in tasks if isinstance(tasks, list) else ():
            if isinstance(task, dict) and isinstance(task.get("id"), int):
                found = _image_of(task)
                if found:
                    shown[str(task["id"])] = found
    return shown


def _image_of(task: Mapping[str, Any]) -> str | None:
    """Returns the name of a task's photograph: of JSON its `data` tell it, of JSON-MIN itself."""
    data = task.get("data") if isinstance(task.get("data"), dict) else task
    values: Sequence[Any] = [data.get("image"), *data.values()]
    for value in values:
        # An address, a path, or local-files/?d=folder/name.jpg
        name = re.split(r"[/\\=]", value)[-1] if isinstance(value, str) else ""
        if pathlib.PurePath(name).suffix.lower() in SUFFIXES:
            return name
    return None
