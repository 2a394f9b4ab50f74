"""Two hundred photographs in nested folders: what is written and compiled, what a kill leaves."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import optax
import pytest
from PIL import Image

from massformer_jax.data.images import decode_mask
from massformer_jax.training.checkpoint import Checkpoints
from tests.helpers.tiny_weights import TINY, tiny_train_state

pytestmark = pytest.mark.slow  # compiles for two sizes, and runs a network six hundred times

KINDS = (".jpg", ".png", ".webp", ".tif", ".bmp", ".JPEG", ".avif")
SIZES = ((90, 120), (120, 90), (256, 256), (200, 300), (130, 270))  # rows and columns
PADDED = {(256, 256), (256, 512)}
BROKEN = {"32.jpg": b"", "a/b/30.jpg": None, "c/31.png": b"no image"}  # None: its end is missing
COUNT = 200


def write_photographs(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Writes photographs of all kinds and sizes, three of which are broken.

    Returns:
        The sizes of the others, rows and columns, by the names of their label maps.
    """
    rng, expected = np.random.default_rng(0), {}
    for i in range(COUNT):
        inside = ("", "a", "a/b", "c")[i % 4]
        (folder / inside).mkdir(parents=True, exist_ok=True)
        h, w = SIZES[i % len(SIZES)]
        pixels = cv2.resize(rng.integers(0, 255, (6, 6, 3), np.uint8), (w, h))
        Image.fromarray(pixels).save(folder / inside / f"{i}{KINDS[i % len(KINDS)]}")
        expected[str(pathlib.PurePath(inside, f"{i}.png"))] = (h, w)
    for name, content in BROKEN.items():
        path = folder / name
        for there in path.parent.glob(f"{path.stem}.*"):
            there.unlink()
        if content is None:
            Image.fromarray(pixels).save(path)
            content = path.read_bytes()[:-100]
        path.write_bytes(content)
        del expected[str(path.relative_to(folder).with_suffix(".png"))]
    return expected


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts the command on the photographs, with the overlays and the labels as formats."""
    folder = tmp_path_factory.mktemp("many")
    with Checkpoints(folder / "run", TINY, every=1) as checkpoints:
        checkpoints.save_best(tiny_train_state(optax.identity()), 0.5)

    def run(output, *arguments):
        command = [sys.executable, "-m", "massformer_jax.predict", "--checkpoint", folder / "run"]
        command += ["--output", output, "--write=labels,overlay", *arguments, folder / "photos"]
        command += ["--compilation_cache", folder / "compiled"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(list(map(str, command)), **streams, env=dict(os.environ))

    run.expected = write_photographs(folder / "photos")
    return run


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """The output of a run from beginning to end, and what it printed."""
    output = tmp_path_factory.mktemp("undisturbed")
    process = start(output)
    out, err = process.communicate(timeout=1200)
    return output, process.returncode, out, err


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_written_and_said(start, undisturbed):
    output, status, out, err = undisturbed
    assert status == 1, err
    names = set(start.expected)
    overlays = {name.replace(".png", "_overlay.jpg") for name in names}
    assert set(contents(output)) == names | overlays
    for name, size in start.expected.items():
        assert decode_mask(output / name).shape == size
    lines = out.splitlines()
    assert len(lines) == COUNT - len(BROKEN)
    assert re.search(r"\(200 of 200, \S+ per minute\)$", lines[-1])
    *rest, summary, first, second, third = err.splitlines()
    assert summary.startswith("197 photographs done, 3 failed in ")
    for line, name in zip((first, second, third), BROKEN, strict=True):
        assert line.startswith("failed: ") and line.endswith(f"/{name}")
    assert sum(line.startswith("error: ") for line in rest) == 3
    prepared = [line for line in rest if line.startswith("preparing the network")]
    assert len(prepared) == len(PADDED)


def test_killed_and_continued_it_ends_the_same(start, undisturbed, tmp_path):
    process = start(tmp_path)
    while len(contents(tmp_path)) < 100:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = [name for name in contents(tmp_path) if pathlib.PurePath(name).name[0] != "."]
    assert 100 <= len(there) < 2 * len(start.expected)
    process = start(tmp_path, "--skip-existing")
    _, err = process.communicate(timeout=1200)
    assert process.returncode == 1
    done, skipped = map(int, re.search(r"(\d+) photographs done, (\d+) skipped", err).groups())
    assert done + skipped == len(start.expected) and skipped >= len(there) // 2 - 2
    left = {name for name in contents(tmp_path) if pathlib.PurePath(name).name[0] == "."}
    found, expected = contents(tmp_path), contents(undisturbed[0])
    # A kill may leave the beginning of a file, which is hidden.
    assert len(left) <= 2 and {name: found[name] for name in found.keys() - left} == expected


def test_it_stops_by_one_line(start, tmp_path):
    process = start(tmp_path)
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
