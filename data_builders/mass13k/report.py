"""What a build found: counts, oddities, files passed over; and the error that lists problems."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from massformer_jax.data.classes import CLASSES
from massformer_jax.errors import InputError

Level = Literal["problem", "oddity", "skipped"]
_PLURAL: dict[Level, str] = {"oddity": "oddities", "skipped": "skipped"}  # keys of the JSON


class DatasetError(InputError):
    """The release's folder cannot become a dataset.

    The message is one line, `FILE: what is wrong; what to do`, or where more than one file is
    wrong, a line that counts them with one such line for each below it.
    """


@dataclasses.dataclass(frozen=True)
class Remark:
    """One thing that a reader of the report should know about one file or folder.

    A `problem` stops the build; an `oddity` is built in the way the message says, or stops a strict
    build; `skipped` are files that nobody expects in the dataset.
    """

    level: Level
    kind: str  # names all remarks of this sort, for counting
    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclasses.dataclass
class Counts:
    """What is in a shard, a split, or several of them: the sum of its examples."""

    examples: int = 0
    unlabelled: int = 0  # examples whose label map is 255 everywhere because there was none
    ignored_pixels: int = 0
    class_pixels: Counter[str] = dataclasses.field(default_factory=Counter)
    class_photographs: Counter[str] = dataclasses.field(default_factory=Counter)
    sizes: Counter[str] = dataclasses.field(default_factory=Counter)  # "WIDTHxHEIGHT", upright
    file_types: Counter[str] = dataclasses.field(default_factory=Counter)  # ".jpg", ".JPG", ...

    def add(self, other: Self) -> None:
        for field in dataclasses.fields(self):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        counted = {k: Counter(v) if isinstance(v, dict) else v for k, v in fields.items()}
        return cls(**counted)

    def to_json(self) -> dict[str, Any]:
        fields = dict(vars(self))
        for name in ("class_pixels", "class_photographs"):
            fields[name] = {label: fields[name][label] for label in CLASSES}
        for name in ("sizes", "file_types"):
            fields[name] = dict(sorted(fields[name].items(), key=lambda item: (-item[1], item[0])))
        return fields


@dataclasses.dataclass(frozen=True)
class Report:
    """The end of a build: counts of every split, and what was odd or passed over."""

    splits: Mapping[str, Counts]
    remarks: Sequence[Remark]  # none of them a problem

    def to_json(self, root: Path) -> str:
        """The report as JSON: the same for the same files, wherever they lie.

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
        splits = {name: counts.to_json() for name, counts in self.splits.items()}
        return json.dumps({"splits": splits, **listed}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        remarks = [
            Remark(level, remark["kind"], Path(remark["file"]), remark["message"])
            for level, plural in _PLURAL.items()
            for remark in fields[plural]
        ]
        splits = {name: Counts.from_json(counts) for name, counts in fields["splits"].items()}
        return cls(splits, remarks)

    def __str__(self) -> str:
        rows = [["photographs that hold, share of pixels", *self.splits]]
        rows += [[label, *(_share(c, label) for c in self.splits.values())] for label in CLASSES]
        rows += [["ignored (255)", *(_share(c, None) for c in self.splits.values())]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        total = Counts()
        for counts in self.splits.values():
            total.add(counts)
        sizes = [f"{size} ({count})" for size, count in total.to_json()["sizes"].items()]
        rest = [f"and {len(sizes) - 8} more"] * (len(sizes) > 8)
        lines.append(f"sizes: {', '.join(sizes[:8] + rest)}")
        types = ", ".join(f"{name} ({n})" for name, n in total.to_json()["file_types"].items())
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
    """Raises one error that lists every problem; oddities too if `strict`.

    Raises:
      DatasetError: there is at least one.
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
    """'PHOTOGRAPHS, PERCENT of pixels' of a class, or the percentage of ignored pixels."""
    pixels = counts.ignored_pixels if label is None else counts.class_pixels[label]
    total = max(counts.class_pixels.total() + counts.ignored_pixels, 1)
    percent = f"{100 * pixels / total:.2f}%"
    return percent if label is None else f"{counts.class_photographs[label]}, {percent:>6}"


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
