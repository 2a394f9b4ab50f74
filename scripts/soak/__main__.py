"""Kills trainings and alters files, many times, and counts what becomes of them.

    python -m scripts.soak --kills N --files N [--network] [--seed S]
    python -m scripts.soak --seed S --repeat KIND NUMBER

Trainings are killed at random moments, also while they save and evaluate, and continued until they
end: each end has to be bit-equal to that of a training that nobody disturbed. Files of every kind
that the project reads are altered at random and read: each answer has to be right, or one line that
refuses the file, within a minute and 4 GB.

What is found otherwise is printed, and how to repeat it. The exit status is then 1.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from massformer_jax.command import say_beside_output
from scripts.markdown import table
from scripts.soak.files import KINDS, generator, read_altered, reader, reader_message


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0 if nothing was found, else 1."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.folder and args.folder.exists() and any(args.folder.iterdir()):
        # A workdir of an earlier soak would be continued, and differ.
        parser.error(f"{args.folder} is not empty; name a new folder")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if args.repeat:
        return _repeat(*args.repeat, args.seed)
    with tempfile.TemporaryDirectory(prefix="soak.") as made:
        folder = args.folder or pathlib.Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        result = _soak(args, folder)
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(_tables(result))
    for line in _findings(result):
        print(line)
    return 1 if any(_findings(result)) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=100, help="of trainings (default: 100)")
    parser.add_argument("--files", type=int, default=100_000, help="altered (default: 100000)")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of files (default: all)"
    )
    parser.add_argument(
        "--network",
        action="store_true",
        help="kill the training of configs/sample.py itself, not one of three numbers",
    )
    parser.add_argument("--seed", type=int, default=0, help="decides all that is random")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="at the same time (default: cores)"
    )
    parser.add_argument(
        "--folder", type=pathlib.Path, help="a new one to work in; it stays (default: it does not)"
    )
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write the counts to")
    parser.add_argument(
        "--repeat", nargs=2, metavar=("KIND", "NUMBER"), help="reads one altered file again"
    )
    return parser


def _soak(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Kills and alters; returns the counts as they are written to JSON."""
    result: dict[str, Any] = {"seed": args.seed}
    if args.kills:
        from scripts.soak import kills

        begin = time.monotonic()
        trained = kills.training(folder, network=args.network)
        outcome = kills.kill(
            trained, args.kills, seed=args.seed, folder=folder, processes=args.processes
        )
        result["kills"] = {
            "training": "configs/sample.py" if args.network else "three numbers",
            **dataclasses.asdict(outcome),
            "seconds": round(time.monotonic() - begin),
        }
    if args.files:
        begin = time.monotonic()
        share, rest = divmod(args.files, len(args.kinds))
        counts = {kind: share + (i < rest) for i, kind in enumerate(args.kinds)}
        outcomes = read_altered(
            counts,
            seed=args.seed,
            folder=folder / "files",
            processes=args.processes,
            say=say_beside_output,
        )
        result["files"] = {kind: dataclasses.asdict(outcomes[kind]) for kind in args.kinds}
        result["files_seconds"] = round(time.monotonic() - begin)
    return result


def _tables(result: dict[str, Any]) -> str:
    """Returns the counts as tables in Markdown."""
    parts = []
    if "kills" in result:
        kills = result["kills"]
        rows = [(f"while {what}", f"{count:,}") for what, count in sorted(kills["kills"].items())]
        rows.append(("all", f"{sum(kills['kills'].values()):,}"))
        parts.append(table(("training killed", "times"), rows))
        equal = kills["runs"] - len(kills["findings"])
        parts.append(f"Of {kills['runs']} runs {equal} ended bit-equal to the undisturbed one.\n")
    if "files" in result:
        head = ("file", "altered", "right answer", "one line", "found", "slowest", "memory")
        rows = []
        for kind, counts in result["files"].items():
            right, refused, found = counts["right"], counts["refused"], len(counts["findings"])
            cells = (right + refused + found, right, refused, found)
            limits = (f"{counts['slowest']:.1f} s", f"{counts['memory'] / 2**30:.1f} GiB")
            rows.append((kind, *(f"{cell:,}" for cell in cells), *limits))
        parts.append(table(head, rows))
    return "\n".join(parts)


def _findings(result: dict[str, Any]) -> list[str]:
    """Returns a line for each finding."""
    lines = list(result.get("kills", {}).get("findings", ()))
    for kind, counts in result.get("files", {}).items():
        for number, said in counts["findings"].items():
            how = reader_message(kind, int(number), result["seed"])
            lines.append(f"{kind} {number}: {said}" + ("" if how in said else f"; {how}"))
    return lines


def _repeat(kind: str, number: str, seed: int) -> int:
    """Reads one altered file again, in this process."""
    with tempfile.TemporaryDirectory(prefix="soak.") as folder:
        kept, said = reader(kind, pathlib.Path(folder)).try_one(generator(seed, kind, int(number)))
    print(f"{kind} {number}: {kept}; {said}")
    return kept == "found"


if __name__ == "__main__":
    sys.exit(main())
