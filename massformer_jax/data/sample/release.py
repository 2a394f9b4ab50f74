"""Writing rendered scenes to files, in the folder layout of the release."""

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from massformer_jax.data.images import encode_mask
from massformer_jax.data.sample.scenes import render_scene
from massformer_jax.files import check_new

# (height, width) of the scenes, in turn. All are padded to 512x768 or 768x512, so that few programs
# are compiled.
_SIZES = ((480, 640), (468, 624), (480, 640), (640, 480))
_JPEG_QUALITY = 90
_SPLITS = ("train", "val", "test")


def write_sample(output: str | os.PathLike, counts: dict[str, int], seed: int = 0) -> None:
    """Renders `counts[split]` scenes into `output`/{images,annotations}/`split`.

    Args:
        output: a folder that does not exist yet, or is empty. It is complete when it appears.
        counts: number of scenes for each of "train", "val" and "test"; without any, a split has no
            folder.
        seed: decides every pixel.

    Raises:
        InputError: the folder holds something already, or is none.
        OSError: the folder cannot be written.
    """
    output = Path(output)
    check_new(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        jobs = [(split, index) for split in _SPLITS for index in range(counts.get(split, 0))]
        for split in {split for split, _ in jobs}:
            (partial / "images" / split).mkdir(parents=True)
            (partial / "annotations" / split).mkdir(parents=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # list() waits for the threads, and raises what one of them raised.
            list(pool.map(lambda job: _write_scene(partial, *job, seed), jobs))
        partial.chmod(0o755)  # mkdtemp lets nobody else read its folders
        if output.exists():
            output.rmdir()
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_scene(root: Path, split: str, index: int, seed: int) -> None:
    """Renders one scene and writes its photograph and its label map below `root`."""
    rng = np.random.default_rng((seed, _SPLITS.index(split), index))
    height, width = _SIZES[index % len(_SIZES)]
    image, label = render_scene(rng, height, width, water=index % 2 == 0)
    number = 10_000 * _SPLITS.index(split) + index
    # Names in the release consist of number, batch, date, place, camera id, size and a rating.
    stem = f"{number:05d}_b01_20240601_rendered_id{index:04d}_{width}x{height}_K3"
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    ok, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    if not ok:
        raise RuntimeError(f"OpenCV could not encode {stem}.jpg")
    (root / "images" / split / f"{stem}.jpg").write_bytes(jpeg.tobytes())
    (root / "annotations" / split / f"{stem}.png").write_bytes(encode_mask(label))
