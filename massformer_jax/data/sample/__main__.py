"""Writes a small rendered dataset in the layout of the release.

    python -m massformer_jax.data.sample --output sample/release --train 32 --val 8 --test 4

The scenes show all seven classes and some ignored pixels, at about 640x480. They are enough to try
every command of this project within minutes. The same seed writes the same bytes.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import check_local

_DEFAULT_COUNTS = {"train": 32, "val": 8, "test": 4}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = command.parser("massformer_jax.data.sample", __doc__)
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder to create")
    for split, count in _DEFAULT_COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help=f"scenes in {split}")
    parser.add_argument("--seed", type=int, default=0, help="decides every pixel")
    args = parser.parse_args(argv)
    return command.run(lambda: _write(args))


def _write(args: argparse.Namespace) -> None:
    """Writes the scenes and tells how many."""
    check_local(args.output)
    counts = {split: getattr(args, split) for split in _DEFAULT_COUNTS}
    for flag, number in {**counts, "seed": args.seed}.items():
        if number < 0:
            raise InputError(f"--{flag} {number}: take 0 or more")

    from massformer_jax.data.sample.release import write_sample

    write_sample(args.output, counts, args.seed)
    scenes = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"wrote {scenes} scenes to {args.output}")


if __name__ == "__main__":
    sys.exit(main())
