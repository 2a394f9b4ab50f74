"""Collectives of a compiled program, read from its text: kind, bytes, number of runs."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from scripts.program_text import (
    COLLECTIVES,
    array_bits,
    called,
    computations_of,
    device_count,
    parse,
    trips,
)

_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective instruction."""

    kind: str
    bytes: int  # bytes that a device puts in each time
    devices: int  # devices that take part together
    times: int  # number of times that it runs
    shapes: str  # shapes of what it returns
    source: str  # the operation it was made for, as jax names it


def collectives(text: str) -> list[Collective]:
    """Returns all collectives of the entry computation and of the computations that it calls.

    Raises:
        ValueError: it is not known how often a loop runs that holds a collective.
    """
    computations, entry = computations_of(text)
    return list(_inside(entry, computations, device_count(text)))


def total_bytes(found: Iterable[Collective]) -> dict[str, int]:
    """Returns the bytes by kind of collective, counted as often as each one runs."""
    totals: dict[str, int] = {}
    for one in found:
        totals[one.kind] = totals.get(one.kind, 0) + one.bytes * one.times
    return totals


def wire_seconds(found: Iterable[Collective], bandwidth: float) -> float:
    """Returns the seconds that the collectives take on rings of links, one after the other.

    Each of n devices sends 2 (n - 1) / n of its bytes for an all-reduce, and (n - 1) times what it
    puts in for an all-gather. For a reduce-scatter or all-to-all it sends (n - 1) / n of what it
    puts in, and for all other kinds all of it.

    Args:
        found: the collectives.
        bandwidth: the bandwidth of the links, in bytes per second and direction.
    """
    shares = {
        "all-reduce": lambda n: 2 * (n - 1) / n,
        "all-gather": lambda n: n - 1,
        "reduce-scatter": lambda n: (n - 1) / n,
        "all-to-all": lambda n: (n - 1) / n,
    }
    return sum(
        one.times * one.bytes * shares.get(one.kind, lambda n: 1)(one.devices) / bandwidth
        for one in found
    )


def _inside(name: str, computations: Mapping[str, list[str]], devices: int) -> Iterator[Collective]:
    lines = computations[name]
    shapes = None
    for line in lines:
        instruction, shape, operation, operands, rest = parse(line)
        kind = operation.removesuffix("-start")
        if kind in COLLECTIVES:
            shapes = shapes or {x[0]: x[1] for x in map(parse, lines)}
            size = sum(_bytes(shapes.get(operand, "")) for operand in operands)
            source = re.search(r'op_name="([^"]*)"', rest)
            found = source[1] if source else ""
            yield Collective(kind, size, _group_size(rest, devices), 1, shape, found)
            continue
        turns = trips(rest, computations) if kind == "while" else 1
        # The TPU's compiler spreads a collective over other work, so that its start, its steps and
        # its end all name it.
        if instruction.startswith("async-collective-done"):
            continue
        inner = [
            found
            for found in called(rest)
            if found in computations and not found.startswith("async_collective_fusion")
        ]
        for other in inner:
            found = list(_inside(other, computations, devices))
            if found and turns is None:
                raise ValueError(f"{instruction}: a loop of unknown length holds collectives")
            yield from (one._replace(times=one.times * turns) for one in found)


def _bytes(shape: str) -> int:
    return sum(array_bits(*found) for found in _SHAPE.findall(shape)) // 8


def _group_size(rest: str, devices: int) -> int:
    """Returns how many devices take part together.

    The text gives the groups as `{{0,1},{2,3}}`, `[groups,size]<=[…]` or `mesh['a'=2,'b'=4] {'b'}`.
    """
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", found[2]))
    return devices
