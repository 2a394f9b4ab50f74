"""Masks of photographs: from Python by `Segmenter`, from the shell by this module.

python -m massformer_jax.predict --checkpoint DIR --output DIR [--overlay] IMAGE_OR_FOLDER…
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import numpy as np
from jaxtyping import Float, UInt8

from massformer_jax import checkpoint, compilation, sharding
from massformer_jax.data.images import decode_image, encode_mask
from massformer_jax.errors import InputError
from massformer_jax.files import write_whole
from massformer_jax.overlay import overlay
from massformer_jax.precision import DTYPES, computation
from massformer_jax.protocols import (
    BLENDS,
    RELEASE_SCALES,
    Protocol,
    label_function,
    score_function,
    show,
)
from massformer_jax.train_state import model_graph

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


class Segmenter:
    """A trained model that segments photographs of any size.

    Attributes:
        classes: names of the labels 0..K-1.
        palette: their colours, RGB, uint8 [K, 3].
    """

    def __init__(
        self,
        weights: checkpoint.Weights,
        *,
        dtype: str = "float32",
        chips: int = 1,
        **protocol: Any,
    ):
        """See `load`; `weights` may lie anywhere."""
        self._protocol = Protocol(**protocol)
        computation(dtype)
        self.classes = weights.classes
        self.palette = np.array(weights.palette, np.uint8)
        graph = model_graph(weights.model, training=False)
        if chips > len(jax.local_devices()):
            raise InputError(f"chips is {chips}, and there are {len(jax.local_devices())} devices")
        mesh = sharding.make_mesh(jax.local_devices()[:chips], {sharding.SPATIAL: chips})
        self._weights = jax.device_put(
            (weights.params, weights.batch_stats), sharding.replicated(mesh)
        )
        self._scores, self._labels = (
            function(graph, self._protocol, dtype=dtype, mesh=mesh)
            for function in (score_function, label_function)
        )

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike,
        *,
        dtype: str = "float32",
        chips: int = 1,
        **protocol: Any,
    ) -> "Segmenter":
        """Loads the best weights of a workdir, or converted ones.

        Args:
            directory: a training run's workdir, or what `massformer_jax.convert` wrote.
            dtype: that the network computes in: "float32", exact; "tf32", faster on accelerators;
                "bfloat16", faster still there, and half the memory (docs/performance.md).
            chips: over how many devices the rows of a photograph are split: 1, 2, 4 or 8.
            **protocol: how photographs are shown to the network, the arguments of
                `massformer_jax.protocols.Protocol`; by default as a whole, as they are.

        Raises:
            InputError: no checkpoint there, an unknown protocol or dtype, too few devices.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        weights = checkpoint.load_weights(directory, device)
        return cls(weights, dtype=dtype, chips=chips, **protocol)

    def predict(self, image: np.ndarray) -> UInt8[np.ndarray, "h w"]:
        """Class of every pixel of a photograph: RGB, uint8 [h, w, 3].

        Raises:
            InputError: an array of another shape or dtype.
        """
        return np.asarray(self._run(self._labels, image))[0]

    def scores(self, image: np.ndarray) -> Float[np.ndarray, "h w k"]:
        """Class scores of every pixel, float32, at least 0; not normalised over the classes.

        Of several views (scales, mirror images) they are means of probabilities.

        Takes and raises what `predict` does.
        """
        return np.asarray(self._run(self._scores, image))[0]

    def _run(self, function, image):
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise InputError(
                f"an image of shape {image.shape} and dtype {image.dtype}; "
                "pass RGB as uint8 [height, width, 3]"
            )
        shown = show(self._protocol, [image])
        return function(*self._weights, shown, image.shape[:2])


def find_images(inputs: Sequence[str]) -> list[pathlib.Path]:
    """Files as they are; of folders, the photographs directly inside, sorted.

    Raises:
        InputError: a path does not exist, a folder holds no photograph, or two photographs would
            be written to the same mask.
    """
    found = []
    for name in inputs:
        path = pathlib.Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise InputError(f"{path} holds no photograph ({', '.join(sorted(SUFFIXES))})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path} does not exist; pass photographs or folders of them")
    by_stem = {}
    for path in dict.fromkeys(found):
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise InputError(
                f"{other} and {path} would both become {path.stem}.png; predict them apart"
            )
    return list(by_stem.values())


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Flags that say how photographs are shown to the network."""
    group = parser.add_argument_group("how photographs are shown to the network")
    group.add_argument(
        "--resolution",
        default="native",
        help="native (default), release (ratio kept within 4096x3072) or HxW",
    )
    group.add_argument("--window", default="", metavar="HxW", help="in windows of so many pixels")
    group.add_argument(
        "--stride", default="", metavar="HxW", help="from window to window; default: two thirds"
    )
    group.add_argument(
        "--blend",
        default="average",
        choices=BLENDS,
        help="scores where windows overlap: average (default, as released), or smooth: "
        "windows fade into each other",
    )
    released = ",".join(f"{scale:g}" for scale in RELEASE_SCALES)
    group.add_argument(
        "--tta",
        action="store_true",
        help=f"test-time augmentation as released: --scales {released} --flip",
    )
    group.add_argument("--scales", metavar="A,B,…", help="at these multiples of the size")
    group.add_argument("--flip", action="store_true", help="also mirrored left and right")


def protocol_of(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Protocol` that the flags stand for.

    Raises:
        InputError: scales that are no numbers.
    """
    scales = RELEASE_SCALES if args.tta else (1.0,)
    if args.scales is not None:
        try:
            scales = tuple(float(scale) for scale in args.scales.split(","))
        except ValueError as error:
            raise InputError(f"--scales is {args.scales!r}; use numbers: 0.5,1,1.5") from error
    return {
        "resolution": args.resolution,
        "window": args.window,
        "stride": args.stride,
        "blend": args.blend,
        "scales": scales,
        "flip": args.flip or args.tta,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 if some photographs failed, 2 if all did."""
    parser = argparse.ArgumentParser(
        prog="python -m massformer_jax.predict", description="Segments photographs of any size."
    )
    parser.add_argument(
        "--checkpoint", required=True, help="workdir of a training run, or converted"
    )
    parser.add_argument("--output", required=True, help="folder for the masks (index PNG)")
    parser.add_argument("--overlay", action="store_true", help="also write coloured pictures")
    add_protocol(parser)
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=DTYPES,
        help="float32 (default); on accelerators tf32 is faster, and bfloat16, with half the "
        "memory, faster still",
    )
    parser.add_argument(
        "--chips", type=int, default=1, help="split the rows of a photograph over so many devices"
    )
    compilation.add_flag(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    args = parser.parse_args(argv)
    compilation.keep_compiled(args.compilation_cache)
    try:
        images = find_images(args.images)
        segmenter = Segmenter.load(
            args.checkpoint, dtype=args.dtype, chips=args.chips, **protocol_of(args)
        )
        output = pathlib.Path(args.output)
        output.mkdir(parents=True, exist_ok=True)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = 0
    for path in images:
        try:
            image = decode_image(path)
        except (InputError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        with compilation.waits_said():
            labels = segmenter.predict(image)
        mask = output / f"{path.stem}.png"
        write_whole(mask, encode_mask(labels, segmenter.palette))
        if args.overlay:
            tinted = overlay(image, labels, palette=segmenter.palette)
            picture = cv2.cvtColor(tinted, cv2.COLOR_RGB2BGR)
            encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            write_whole(output / f"{path.stem}_overlay.jpg", encoded.tobytes())
        print(f"{path} -> {mask}")
    return (2 if failed == len(images) else 1) if failed else 0


if __name__ == "__main__":
    sys.exit(main())
