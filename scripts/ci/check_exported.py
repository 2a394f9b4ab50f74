"""Checks that a program which another jax exported gives the labels of inference.

    python -m scripts.ci.check_exported EXPORTED sample

EXPORTED was written by `massformer export --checkpoint sample/run`, with another Python. The
programs of docs/export.md use it, with the Python that runs this.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

PAGE = pathlib.Path(__file__).parents[2] / "docs/export.md"


def programs() -> dict[str, str]:
    """Returns the programs of the page by the names of their files."""
    return dict(re.findall(r"<!-- ([\w.]+) -->\n```\w+\n(.*?)```", PAGE.read_text(), re.S))


def main(exported: pathlib.Path, sample: pathlib.Path) -> None:
    """Runs the checks."""
    photograph = min((sample / "photos/images/test").iterdir())
    expected = np.asarray(Image.open(sample / "predictions" / f"{photograph.stem}.png"))
    with tempfile.TemporaryDirectory() as folder:
        for name, text in programs().items():
            (pathlib.Path(folder) / name).write_text(text)
        command = [sys.executable, "photograph.py", exported.resolve(), photograph.resolve()]
        subprocess.run([*map(str, command), "mask.png"], cwd=folder, check=True)
        found = np.asarray(Image.open(pathlib.Path(folder) / "mask.png"))
    equal = (found == expected).mean()
    assert len(np.unique(expected)) > 1, f"{photograph.name} has one class alone"
    # Two compilers round differently, and open sizes are computed on whole maps.
    assert equal >= 0.9995, f"{100 * equal:.4f} % of the labels agree"
    print(f"{photograph.name}: {100 * equal:.4f} % of {found.size} labels agree")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
