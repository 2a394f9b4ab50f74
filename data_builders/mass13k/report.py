"""The report of a build, with counts and oddities, and the error that lists problems."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from massformer_jax.classes import CLASSES
from massformer_jax.errors import InputError

Level = Literal["problem", "oddity", "skipped"]
_PLURAL: dict[Level, str] = {"oddity": "oddities", "skipped": "skipped"}  # keys of the JSON


class DatasetError(InputError):
    """The error of a release that cannot become a dataset.

    The message is one line, `FILE: what is wrong; what to do`. If several files are wrong, it is a
    line that counts them, and one such line for each below it.
    """


@dataclasses.dataclass(frozen=True)
class Remark:
    """One thing that a reader of the report should know about a file or folder.

    Attributes:
        level: a "problem" stops the build. An "oddity" is built in the way that the message says,
            or stops a strict build. "skipped" is a file that nobody expects in the dataset.
        kind: the name of all remarks of this sort, by which they are counted.
        path: the file or folder.
        message: what is wrong or odd about it, and what to do or what is done.
    """

    level: Level
    kind: str
    path: Path
    message: str

    def __str__(self) -> str:
        """Returns the line `FILE: message`."""
        return f"{self.path}: {self.message}"


@dataclasses.dataclass
class Counts:
    """The counts of an example, or their sums over a shard or a split.

    Attributes:
        examples: number of examples.
        unlabelled: number of examples without a label map, for which one of 255 is stored.
        ignored_pixels: number of pixels with label 255.
        class_pixels: for each class, the number of its pixels.
        class_photographs: for each class, the number of photographs that show it.
        sizes: for each size "WIDTHxHEIGHT" of an upright photograph, the number of photographs.
        file_types: for each suffix of a photograph's name (".jpg", ".JPG", ...), their number.
    """

    examples: int = 0
    unlabelled: int = 0
    ignored_pixels: int = 0
    class_pixels: Counter[str] = dataclasses.field(default_factory=Counter)
    class_photographs: Counter[str] = dataclasses.field(default_factory=Counter)
    sizes: Counter[str] = dataclasses.field(default_factory=Counter)
    file_types: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, other: "Counts") -> None:
        """Adds other counts to these."""
        for field in dataclasses.fields(self):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Counts":
        """Makes counts from what `to_json` returned."""
        counted = {k: Counter(v) if isinstance(v, dict) else v for k, v in fields.items()}
        return cls(**counted)

    def to_json(self, classes: Sequence[str] = CLASSES) -> dict[str, Any]:
        """Returns a dictionary for JSON: classes in this order, the most frequent sizes first."""
        fields = dict(vars(self))
        for name in ("class_pixels", "class_photographs"):
            fields[name] = {label: fields[name][label] for label in classes}
        for name in ("sizes", "file_types"):
            fields[name] = dict(sorted(fields[name].items(), key=lambda item: (-item[1], item[0])))
        return fields


@dataclasses.dataclass(frozen=True)
class Report:
    """The report at the end of a build.

    Attributes:
        splits: the counts for the name of each split.
        remarks: what was odd or passed over; none of them is a problem.
        classes: names of the classes, in the order of their labels.
    """

    splits: Mapping[str, Counts]
    remarks: Sequence[Remark]
    classes: Sequence[str] = CLASSES

    def to_json(self, root: Path) -> str:
        """Returns the report as JSON, which is the same for the same files wherever they lie.

        Args:
            root: the manual directory; files are named relative to it.
        """
        listed = {
            plural: [
                {"kind": r.kind, "file": _relative(r.path, root), "message": r.message}
                for r in self.remarks
                if r.level == level
            ]
            for level, plural in _PLURAL.items()
        }
        splits = {name: counts.to_json(self.classes) for name, counts in self.splits.items()}
        return json.dumps({"splits": splits, **listed}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Makes a report from what `to_json` returned."""
        fields = json.loads(text)
        remarks = [
            Remark(level, remark["kind"], Path(remark["file"]), remark["message"])
            for level, plural in _PLURAL.items()
            for remark in fields[plural]
        ]
        splits = {name: Counts.from_json(counts) for name, counts in fields["splits"].items()}
        classes = [name for split in fields["splits"].values() for name in split["class_pixels"]]
        return cls(splits, remarks, tuple(dict.fromkeys(classes)))

    def __str__(self) -> str:
        """Returns the report as lines for a terminal."""
        rows = [["photographs that hold, share of pixels", *self.splits]]
        rows += [
            [label, *(_share(c, label) for c in self.splits.values())] for label in self.classes
        ]
        rows += [["ignored (255)", *(_share(c, None) for c in self.splits.values())]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        total = Counts()
        for counts in self.splits.values():
            total.add(counts)
        sizes = [f"{size} ({count})" for size, count in total.to_json(())["sizes"].items()]
        rest = [f"and {len(sizes) - 8} more"] * (len(sizes) > 8)
        lines.append(f"sizes: {', '.join(sizes[:8] + rest)}")
        types = ", ".join(f"{name} ({n})" for name, n in total.to_json(())["file_types"].items())
        lines.append(f"photographs' suffixes: {types}")
        for level, one, many in (
            ("oddity", "oddity", "oddities"),
            ("skipped", "file or folder passed over", "files and folders passed over"),
        ):
            found = [remark for remark in self.remarks if remark.level == level]
            lines.append(f"{len(found) or 'no'} {one if len(found) == 1 else many}")
            lines += [f"  {remark}" for remark in found]
        return "\n".join(lines)


def raise_problems(remarks: Iterable[Remark], strict: bool) -> None:
    """Raises one error that lists every problem.

    Args:
        remarks: those of the build.
        strict: whether oddities count as problems.

    Raises:
        DatasetError: there is a problem.
    """
    wrong = [r for r in remarks if r.level == "problem" or (strict and r.level == "oddity")]
    if not wrong:
        return
    strictly = " (--strict: an oddity counts as an error)"
    lines = [f"{remark}{strictly if remark.level == 'oddity' else ''}" for remark in wrong]
    if len(lines) == 1:
        raise DatasetError(lines[0])
    kinds = Counter(remark.kind for remark in wrong).most_common()
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds)
    summary = f"{len(lines)} problems, so that no dataset was written ({counted}):"
    raise DatasetError("\n  ".join([summary, *lines]))


def _share(counts: Counts, label: str | None) -> str:
    """Returns a class's 'PHOTOGRAPHS, PERCENT of pixels', or the percentage of ignored pixels."""
    pixels = counts.ignored_pixels if label is None else counts.class_pixels[label]
    total = max(counts.class_pixels.total() + counts.ignored_pixels, 1)
    percent = f"{100 * pixels / total:.2f}%"
    return percent if label is None else f"{counts.class_photographs[label]}, {percent:>6}"


def _relative(path: Path, root: Path) -> str:
    """Returns the path below `root`, or the whole path if it is not below it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
