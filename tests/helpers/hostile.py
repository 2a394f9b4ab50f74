"""Hostile arguments and files for commands, and what may become of them."""

import os
import pathlib

import numpy as np

NUMBERS = ("0", "-1", "nan", "inf", "1e400", "99999999999999999999", "", "x", "0x0", "1,,2", "-3x4")


def hostile_path(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """A path that is not what a command expects; nothing lies outside of the folder."""
    choice = int(rng.integers(9))
    path = folder / f"hostile{rng.integers(10**6)}"
    if choice == 0:
        return ""
    if choice == 1:
        return str(path / "missing")
    if choice == 2:
        return str(folder / ("long" * 80))
    if choice == 3:
        path.write_bytes(rng.bytes(300))
    elif choice == 4:
        path.mkdir()
    elif choice == 5:
        path.symlink_to(path)
    elif choice == 6:
        path = path.with_name("two\nlines and \x1b[2J")
        path.write_bytes(b"")
    elif choice == 7:
        os.mkfifo(path)
    else:
        path = folder / "caf\udce9.jpg"  # a name that is no UTF-8
        path.write_bytes(rng.bytes(300))
    return str(path)


def with_hostile_argument(
    argv: list[str], flags: tuple[str, ...], rng: np.random.Generator, folder: pathlib.Path
) -> list[str]:
    """A command line in which one value is replaced, added or missing.

    Args:
        argv: a sound one, values after their flags.
        flags: further flags that the command has, which take numbers or sizes.
        rng: decides.
        folder: where files may be made.
    """
    choice = int(rng.integers(4))
    at = int(rng.integers(len(argv)))
    if choice == 0 and flags:
        return [
            *argv,
            flags[int(rng.integers(len(flags)))],
            NUMBERS[int(rng.integers(len(NUMBERS)))],
        ]
    if choice == 1:
        return argv[:at] + argv[at + 1 :]
    if choice == 2:
        return [*argv, "--no-such-flag"]
    values = [i for i, value in enumerate(argv) if not value.startswith("--")]
    at = values[int(rng.integers(len(values)))]
    return [*argv[:at], hostile_path(rng, folder), *argv[at + 1 :]]
