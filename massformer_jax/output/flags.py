"""The flags of a command that tell what is written of each photograph.

Like a command, this module imports at its top only what `--help` needs.
"""

import argparse
import pathlib

from massformer_jax.output.formats import DEFAULT, FORMATS, Options, check_formats, parse_formats


def add_formats(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that tell what is written of each photograph."""
    about = "\n".join(f"  {name:14}{form.about}" for name, form in FORMATS.items())
    group = parser.add_argument_group(
        "what is written of each photograph", f"{about}\nMore about them is in docs/outputs.md."
    )
    group.add_argument(
        "--write", default=",".join(DEFAULT), metavar="A,B,…", help="names of these formats"
    )
    group.add_argument(
        "--classes",
        metavar="A,B+C,…",
        help="classes that are written; several count as one if joined by +: sky,person+tree "
        "(default: each class)",
    )
    group.add_argument(
        "--opacity", type=float, default=0.5, help="of the colours in overlays, from 0 to 1"
    )
    group.add_argument("--legend", action="store_true", help="name the colours below overlays")
    group.add_argument(
        "--alpha-bits", type=int, default=8, choices=(8, 16), help="bits of a pixel of alpha"
    )
    group.add_argument(
        "--transforms",
        type=pathlib.Path,
        metavar="transforms.json",
        help="nerfstudio's file, of which a copy that names the masks is written",
    )


def formats_of(args: argparse.Namespace) -> tuple[tuple[str, ...], Options]:
    """Returns the names of the formats that are written, and what is adjusted in them.

    Raises:
        InputError: they do not fit together, or with the classes.
    """
    options = Options(
        opacity=args.opacity,
        legend=args.legend,
        alpha_bits=args.alpha_bits,
        transforms=args.transforms,
    )
    wanted = parse_formats(args.write)
    check_formats(wanted, args.classes, options)
    return wanted, options
