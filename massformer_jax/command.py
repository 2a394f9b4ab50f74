"""What all commands share: how they read their arguments and how they print errors.

The module of a command imports at its top only what its `--help` needs. It imports everything else
after its arguments are read. So `--help` and misspelt flags are answered at once.
"""

import argparse
import sys
from collections.abc import Callable

from massformer_jax.errors import InputError

FAILED = 2  # the exit status after an error that the user can mend
INTERRUPTED = 130  # after Ctrl-C, as shells have it


class _Help(argparse.RawDescriptionHelpFormatter):
    """A help formatter that keeps line breaks, and shows the default of each flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        # By identity: a default of 0 is shown, and equals False.
        hidden = any(action.default is value for value in (None, False, argparse.SUPPRESS))
        shown = not hidden and action.default != "" and "%(default)s" not in text
        return text + " (default: %(default)s)" * shown


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """Returns a parser for a command.

    Args:
        module: what `python -m` starts. The front door, `massformer_jax.__main__`, starts the same
            command by another name, which it leaves in `sys.argv[0]`.
        description: what `--help` says first.
    """
    by_front_door = sys.argv[0].startswith("massformer ")
    return argparse.ArgumentParser(
        prog=sys.argv[0] if by_front_door else f"python -m {module}",
        description=description,
        formatter_class=_Help,
    )


def add_compilation_cache(parser: argparse.ArgumentParser) -> None:
    """Adds the flag `--compilation_cache`, for `massformer_jax.compilation.keep_compiled`."""
    parser.add_argument(
        "--compilation_cache",
        metavar="DIR",
        help="where compiled programs are kept: '' for nowhere (default: "
        "JAX_COMPILATION_CACHE_DIR, or ~/.cache/massformer_jax)",
    )


def add_checkpoint(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds the flags that say whose weights are used."""
    parser.add_argument(
        "--checkpoint",
        required=required,
        help="workdir of a training run, or converted weights, or hf://OWNER/NAME of the Hub",
    )
    parser.add_argument(
        "--step", type=int, help="take the weights after this step (default: the best, or the last)"
    )


def add_network(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds the flags that say whose weights segment photographs, and how they are computed with."""
    add_checkpoint(parser, required=required)
    parser.add_argument(
        "--dtype",
        default="float32",
        help="what the network computes in: float32, tf32 or bfloat16; on accelerators tf32 is "
        "faster than float32, and bfloat16 is faster still and takes half the memory",
    )
    parser.add_argument(
        "--devices", type=int, default=1, help="number of devices that share each photograph's rows"
    )
    add_compilation_cache(parser)


def run(body: Callable[[], int | None]) -> int:
    """Runs the body of a command and returns the exit status.

    The status is what the body returns, or 0 if it returns None. An error that the user can mend is
    printed without a traceback, and the status is 2. Any other exception is a bug and keeps its
    traceback.
    """
    try:
        return body() or 0
    except (InputError, OSError) as error:
        print_error(error)
        return FAILED
    except KeyboardInterrupt:
        say_beside_output("interrupted")
        return INTERRUPTED


def print_error(error: Exception | str) -> None:
    """Prints an error as all commands do: `error: …` on standard error.

    Of an error of the system, the file and the reason are shown, without its number.
    """
    if isinstance(error, OSError) and error.strerror and error.filename:
        error = f"{error.filename}: {error.strerror}"
    # Names and texts of files may hold what moves a terminal's cursor.
    text = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(error))
    say_beside_output(f"error: {text}")


def say_beside_output(line: str) -> None:
    """Prints a line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Returns a time in its two largest units that are not zero: `1 h 12 min`, `2 d 7 h`."""
    rest, parts = round(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        amount, rest = divmod(rest, length)
        if amount or (unit == "s" and not parts):
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2])
