"""What the compiler's estimates leave out: gathers, scatters, sorts, and some other kernels.

The compiler for TPUs gives `estimated_cycles` to most instructions, but to no gather and to no
scatter of rows, to no sort, and not to all changes of layout. These are counted here from the
bundles of their kernels, scripts/pods/bundles.py, and so is the program that calls the kernels.
Collectives are not: scripts/pods/collectives.py has them. Nor is what SparseCores do, of which the
compiler writes neither estimates nor bundles: `on_sparsecores` says how much that is.
"""

import collections
from collections.abc import Callable, Iterator, Mapping

from scripts.pods.bundles import Count
from scripts.pods.dumps import PROGRAM
from scripts.program_text import (
    COLLECTIVES,
    called,
    computations_of,
    estimated_cycles,
    parse,
    trips,
)

_ON_SPARSECORES = 'async_execution_thread="sparsecore"'
# What is counted: sorts; kernels that scatter or gather, of which those that do both count as
# scatters; other kernels without an estimate; the program around the kernels.
KINDS = ("gathers", "scatters", "sorts", "others", "program")


def uncosted(text: str, count: Callable[[str], Count | None]) -> dict[str, Count]:
    """Returns by kind what the instructions without an estimate take, as often as they run.

    A loop whose end depends on the data counts once.

    Args:
        text: the text of the compiled program.
        count: returns what one execution of an instruction takes, or None if it is not a kernel of
            its own, as `Dumps.count` does.

    Raises:
        ValueError: there are no bundles of a gather, a scatter or a sort.
    """
    computations, entry = computations_of(text)
    totals = dict.fromkeys(KINDS, Count())
    totals["program"] = count(PROGRAM) or Count()
    for name, kind, turns in _without_estimate(entry, computations):
        found = count(name)
        if found:
            totals[kind] = totals[kind].plus(found.times(turns))
        elif kind != "others":
            raise ValueError(f"{name}: one of the {kind}, of which the compiler wrote no bundles")
    return totals


def on_sparsecores(text: str) -> collections.Counter[str]:
    """Returns what SparseCores do while the program runs once: how often each kind and shape.

    A shape is that of the result, as the compiler writes it: "gather u32[65536,128]" gathers 65536
    rows of 512 bytes, and "scatter" has the map that rows are added to. The rest changes a layout.
    """
    computations, entry = computations_of(text)
    found = collections.Counter()
    for lines, turns in _executed(entry, computations, 1):
        begun = set()
        for name, shape, operation, operands, rest in map(parse, lines):
            goes_on = begun.intersection(operands[:1])
            if _ON_SPARSECORES in rest or (operation.endswith("-update") and goes_on):
                begun.add(name)
            elif operation.endswith("-done") and goes_on:
                kind = next((x for x in ("gather", "scatter") if x in name), "layout")
                found[f"{kind} {shape.partition('{')[0]}"] += turns
    return found


def _executed(
    computation: str, computations: Mapping[str, list[str]], turns: int
) -> Iterator[tuple[list[str], int]]:
    """Yields the lines of a computation and of those inside, and how often each runs."""
    lines = computations[computation]
    yield lines, turns
    for _, _, operation, _, rest in map(parse, lines):
        if operation in ("while", "conditional", "call"):
            times = (trips(rest, computations) or 1) if operation == "while" else 1
            for inner in called(rest):
                if inner in computations:
                    yield from _executed(inner, computations, turns * times)


def _without_estimate(
    computation: str, computations: Mapping[str, list[str]]
) -> Iterator[tuple[str, str, int]]:
    """Yields name, kind and number of runs of each instruction without an estimate."""
    for lines, turns in _executed(computation, computations, 1):
        for line in lines:
            name, _, operation, _, rest = parse(line)
            if operation in ("while", "conditional", "call") or _ON_SPARSECORES in rest:
                continue
            if estimated_cycles(rest) is None:
                operations = set(_operations(line, computations))
                if operations.isdisjoint(COLLECTIVES):
                    yield name, _kind(operations), turns


def _kind(operations: set[str]) -> str:
    for operation, kind in (("sort", "sorts"), ("scatter", "scatters"), ("gather", "gathers")):
        if operation in operations:
            return kind
    return "others"


def _operations(line: str, computations: Mapping[str, list[str]]) -> Iterator[str]:
    """Yields the operations of an instruction and of the computations that it calls."""
    _, _, operation, _, rest = parse(line)
    yield operation.removesuffix("-start").removesuffix("-done")
    for name in called(rest):
        for inner in computations.get(name, ()):
            yield from _operations(inner, computations)
