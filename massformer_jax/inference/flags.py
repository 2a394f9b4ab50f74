"""The flags of a command that tell how photographs are shown to the network.

Like a command, this module imports at its top only what `--help` needs.
"""

import argparse
from typing import Any

from massformer_jax.errors import InputError
from massformer_jax.inference.protocol import BLENDS, RELEASE_SCALES


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that tell how photographs are shown to the network."""
    group = parser.add_argument_group("how photographs are shown to the network")
    group.add_argument(
        "--resolution",
        default="native",
        help="size: native (as it is), release (as large as fits into 4096x3072), or HxW (as large "
        "as fits into H rows and W columns)",
    )
    group.add_argument(
        "--window",
        default="",
        metavar="HxW",
        help="show windows of H rows and W columns (default: the whole photograph at once)",
    )
    group.add_argument(
        "--stride",
        default="",
        metavar="HxW",
        help="distance from one window to the next (default: two thirds of the window)",
    )
    group.add_argument(
        "--blend",
        default="average",
        choices=BLENDS,
        help="how scores are joined where windows overlap: average, as released, or smooth, so "
        "that windows fade into each other",
    )
    released = ",".join(f"{scale:g}" for scale in RELEASE_SCALES)
    group.add_argument(
        "--tta",
        action="store_true",
        help=f"test-time augmentation as released: --scales {released} --flip",
    )
    group.add_argument(
        "--scales", metavar="A,B,…", help="show it at these multiples of its size (default: 1)"
    )
    group.add_argument("--flip", action="store_true", help="show it also mirrored left and right")
    add_ask(parser)


def add_ask(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that tells which pixels a network that answers at coordinates is asked."""
    group = parser.add_argument_group("of a CoordFormer, which answers at coordinates")
    group.add_argument(
        "--ask",
        default="every",
        metavar="WAY",
        help="which pixels: every; sefi, those near a boundary on an edge of the photograph; "
        "entropy, the least certain ones; stride=8, every 8th of every 8th row. Settings may "
        "follow, whose defaults are those of sefi,stride=8,dilation=4,threshold=0.1 and "
        "entropy,stride=8,share=0.15",
    )


def protocol_of(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the keyword arguments of `Protocol` that the flags stand for.

    Raises:
        InputError: the scales are not numbers.
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
        "ask": args.ask,
    }
