"""Writes a small rendered dataset in the folder layout of the release.

    python -m massformer_jax.data.sample --output sample/release --train 32 --val 8 --test 4

The scenes hold all seven classes and some ignored pixels, at about 640x480: enough to try every
command of this project in minutes. The same seed writes the same bytes.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from massformer_jax.data.images import encode_mask
from massformer_jax.data.scenes import render_scene

# (height, width) in turn. All pad to 512x768 or 768x512, so that few programs are compiled.
_SIZES = ((480, 640), (468, 624), (480, 640), (640, 480))
_JPEG_QUALITY = 90
_SPLITS = ("train", "val", "test")


def write_sample(output: str | os.PathLike, counts: dict[str, int], seed: int = 0) -> None:
    """Renders `counts[split]` scenes into `output`/{images,annotations}/`split`.

    Args:
      output: a folder that does not exist yet, or is empty; it appears only when complete.
      counts: number of scenes for each of "train", "val" and "test"; a split of none is left out.
      seed: decides every pixel.

    Raises:
      FileExistsError: the folder holds something already.
    """
    output = Path(output)
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; remove it or name another folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        jobs = [(split, index) for split in _SPLITS for index in range(counts.get(split, 0))]
        for split in {split for split, _ in jobs}:
            (partial / "images" / split).mkdir(parents=True)
            (partial / "annotations" / split).mkdir(parents=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # list() waits, and raises what a thread raised.
            list(pool.map(lambda job: _write_scene(partial, *job, seed), jobs))
        partial.chmod(0o755)  # mkdtemp's folders are private
        if output.exists():
            output.rmdir()
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_scene(root: Path, split: str, index: int, seed: int) -> None:
    rng = np.random.default_rng((seed, _SPLITS.index(split), index))
    height, width = _SIZES[index % len(_SIZES)]
    image, label = render_scene(rng, height, width, water=index % 2 == 0)
    number = 10_000 * _SPLITS.index(split) + index
    # The release's style: number, batch, date, place, camera id, size, a rating.
    stem = f"{number:05d}_b01_20240601_rendered_id{index:04d}_{width}x{height}_K3"
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    ok, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    if not ok:
        raise RuntimeError(f"OpenCV could not encode {stem}.jpg")
    (root / "images" / split / f"{stem}.jpg").write_bytes(jpeg.tobytes())
    (root / "annotations" / split / f"{stem}.png").write_bytes(encode_mask(label))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m massformer_jax.data.sample", description=__doc__
    )
    parser.add_argument("--output", required=True, type=Path, help="folder to create")
    for split, count in zip(_SPLITS, (32, 8, 4), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"scenes in {split}")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    counts = {split: getattr(args, split) for split in _SPLITS}
    try:
        write_sample(args.output, counts, args.seed)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {', '.join(f'{n} {s}' for s, n in counts.items())} scenes to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
