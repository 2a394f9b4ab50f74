"""The flags of a command that tell how photographs are shown to the network.

Like a command, this module imports at its top only what `--help` needs.
"""

import argparse
from typing import TYPE_CHECKING, Any

from massformer_jax.errors import InputError
from massformer_jax.inference.protocol import BLENDS, RELEASE_SCALES

if TYPE_CHECKING:
    from massformer_jax.inference.parts import Click, Rectangle


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
        "entropy, the least certain ones, from coarse to fine; stride=8, every 8th of every 8th "
        "row. Settings may follow, whose defaults are those of "
        "sefi,stride=8,dilation=4,threshold=0.1 and entropy,stride=8,share=0.15",
    )


def add_part(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name a part of each photograph, of which alone something is said."""
    group = parser.add_argument_group(
        "a part of each photograph, of a CoordFormer"
    ).add_mutually_exclusive_group()
    group.add_argument(
        "--region",
        metavar="LEFT,TOP,RIGHT,BOTTOM[,STEP]",
        help="a rectangle: its first column and row, and those after its last; with 0.25 as STEP "
        "four times as fine, with 8 every 8th pixel of every 8th row (default: 1)",
    )
    group.add_argument(
        "--click",
        metavar="X,Y",
        help="the pixels that are connected with this one and of its class; all others get the "
        "label 255",
    )


def part_of(args: argparse.Namespace) -> "Rectangle | Click | None":
    """Returns the part of each photograph that the flags name, None for all of it.

    Raises:
        InputError: they are no such numbers, or stand beside a way to ask all of a photograph.
    """
    from massformer_jax.inference.parts import Click, Rectangle

    if (args.region is not None or args.click is not None) and args.ask != "every":
        raise InputError(
            "--ask is of whole photographs; --region and --click say by themselves which pixels "
            "are asked: leave out --ask"
        )
    if args.region is not None:
        sides = _numbers(args.region)
        if sides is None or len(sides) not in (4, 5):
            raise InputError(
                f"--region is {args.region!r}; use LEFT,TOP,RIGHT,BOTTOM and perhaps STEP: "
                "800,1000,1400,1300"
            )
        return Rectangle(sides[:4], *sides[4:])
    if args.click is not None:
        place = _numbers(args.click)
        if place is None or len(place) != 2 or not all(isinstance(x, int) for x in place):
            raise InputError(f"--click is {args.click!r}; use column and row: 812,1033")
        return Click(*place)
    return None


def _numbers(text: str) -> tuple[int | float, ...] | None:
    """Returns numbers with commas between them; None if there is something else."""
    try:
        return tuple(int(x) if x.strip().isdecimal() else float(x) for x in text.split(","))
    except ValueError:
        return None


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
