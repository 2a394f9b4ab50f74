"""The final bundles that the compiler for TPUs writes of each kernel of a program."""

import pathlib
import re
import shutil
from collections.abc import Mapping

from scripts.pods.bundles import Count, count

# The name of the kernel that calls all others: the program's loops and conditions.
PROGRAM = "TLP"
_FILE = re.compile(r"\d+-(.+)-\d+-(?:final_bundles|deduplication-map)\.txt")
_MAP = re.compile(r"^key:(.+)\n(?:ordinal:.*\n)?equivalent_hlos.*\n((?:  .+\n?)*)", re.MULTILINE)


class Dumps:
    """The kernels of the program that was compiled last.

    The compiler writes into the folder because `tpu_compiler.find_no_tpu` told it so. Each kernel
    takes some kilobytes to some megabytes: one layer 4 MB, the network at 12 megapixels 330 MB, its
    training up to 1 GB.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self.clear()

    def clear(self) -> None:
        """Removes the files of the program before, which may have kernels of the same names."""
        for path in self._folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self._files: Mapping[str, pathlib.Path] | None = None
        self._counts: dict[str, Count] = {}

    def count(self, name: str) -> Count | None:
        """Returns what one execution of an instruction takes, or None if it is not a kernel.

        Args:
            name: the name of the instruction in the text of the program, or PROGRAM.
        """
        if self._files is None:
            self._files = _files(self._folder)
        if name not in self._files:
            return None
        path = self._files[name]
        if path.name not in self._counts:
            try:
                self._counts[path.name] = count(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from error
        return self._counts[path.name]


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the file of each instruction. Instructions that are alike share a kernel."""
    files, maps = {}, []
    for path in sorted(folder.iterdir()):
        if "schedule-analysis" in path.name or not (found := _FILE.fullmatch(path.name)):
            continue
        if path.name.endswith("deduplication-map.txt"):
            maps.append(path.read_text())
        else:
            files[found[1]] = path
    for text in maps:
        for key, alike in _MAP.findall(text):
            written = [name for name in (key, *alike.split()) if name in files]
            files |= {name: files[written[0]] for name in alike.split() if written}
    return files
