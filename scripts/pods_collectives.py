"""Collectives of a compiled program, read from its text: kind, bytes, how often they run.

`compiled.as_text()` is a list of computations. What a computation calls runs as often as it does, a
loop's body as often as the compiler says that it turns, or as its condition says: a scan counts
from 0 and compares with its length.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}  # others end in their number of bits

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.+)$")
_OPERATION = re.compile(r"(?:^|\s)([a-z][\w\-]*)\(")
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CALLS = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
    r"|branch_computations=\{([^}]*)\}|called_computations=\{([^}]*)\}"
)
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')


class Collective(NamedTuple):
    """One collective instruction."""

    kind: str
    bytes: int  # that a device puts in, each time
    devices: int  # that take part together
    times: int  # that it runs
    shapes: str  # of what it returns
    source: str  # the operation it was made for, as jax names it


def collectives(text: str) -> list[Collective]:
    """All collectives of a program's entry computation and of what it calls.

    Raises:
        ValueError: a loop that holds one has no known number of turns.
    """
    computations, entry = computations_of(text)
    return list(_inside(entry, computations, len_devices(text)))


def total_bytes(found: Iterable[Collective]) -> dict[str, int]:
    """Bytes by kind, each as often as it runs."""
    totals: dict[str, int] = {}
    for one in found:
        totals[one.kind] = totals.get(one.kind, 0) + one.bytes * one.times
    return totals


def wire_seconds(found: Iterable[Collective], bandwidth: float) -> float:
    """Time on rings over links of `bandwidth` bytes a second and direction, one after the other.

    Of n devices each sends 2 (n - 1) / n of its bytes for an all-reduce, (n - 1) times what it puts
    in for an all-gather, (n - 1) / n of it for a reduce-scatter or all-to-all, all of it otherwise.
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


def len_devices(text: str) -> int:
    """How many devices the program runs on."""
    first = text.partition("\n")[0]
    counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", first)
    return math.prod(map(int, counts))


def computations_of(text: str) -> tuple[Mapping[str, list[str]], str]:
    computations, entry, lines = {}, "", []
    for line in text.splitlines():
        head = re.match(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$", line)
        if head and " = " not in line.split("(")[0]:
            lines = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif " = " in line:
            lines.append(line)
    return computations, entry


def _inside(name: str, computations: Mapping[str, list[str]], devices: int) -> Iterator[Collective]:
    lines = computations[name]
    shapes = None
    for line in lines:
        instruction, shape, operation, operands, rest = parse(line)
        kind = operation.removesuffix("-start")
        if kind in KINDS:
            shapes = shapes or {x[0]: x[1] for x in map(parse, lines)}
            size = sum(_bytes(shapes.get(operand, "")) for operand in operands)
            source = re.search(r'op_name="([^"]*)"', rest)
            found = source[1] if source else ""
            yield Collective(kind, size, _group_size(rest, devices), 1, shape, found)
            continue
        turns = trips(rest, computations) if kind == "while" else 1
        # The TPU's compiler spreads a collective over other work: start, steps and end all show it.
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


def parse(line: str) -> tuple[str, str, str, tuple[str, ...], str]:
    """An instruction's name, shape, operation and operands, and all that stands after its name."""
    name, rest = _INSTRUCTION.match(line).groups()
    operation = _OPERATION.search(rest)
    if not operation:
        return name, rest, "", (), rest
    inside = rest[operation.end() : rest.index(")", operation.end())]
    operands = tuple(x.split("%")[-1].strip() for x in inside.split(",")) if inside else ()
    return name, rest[: operation.start()].strip(), operation[1], operands, rest


def trips(rest: str, computations: Mapping[str, list[str]]) -> int | None:
    """How often a `while` instruction turns, if that is known."""
    if found := _TRIPS.search(rest):
        return int(found[1])
    lines = computations[re.search(r"condition=%?([\w.\-]+)", rest)[1]]
    constants = dict(
        found.groups()
        for line in lines
        if (found := re.search(r"%([\w.\-]+) = .* constant\((\d+)\)", line))
    )
    root = next(line for line in lines if "ROOT" in line)
    found = re.search(r"compare\(\S+, %([\w.\-]+)\), direction=LT", root)
    return int(constants[found[1]]) if found and found[1] in constants else None


def called(rest: str) -> Iterator[str]:
    for one, *several in _CALLS.findall(rest):
        for name in [one, *",".join(several).split(",")]:
            if name.strip():
                yield name.strip().lstrip("%")


def _bytes(shape: str) -> int:
    total = 0
    for dtype, sides in _SHAPE.findall(shape):
        bits = BITS.get(dtype) or int(re.search(r"\d+", dtype)[0])
        total += bits * math.prod(int(side) for side in sides.split(",") if side)
    return total // 8


def _group_size(rest: str, devices: int) -> int:
    """From `{{0,1},{2,3}}`, `[groups,size]<=[…]` or `mesh['a'=2,'b'=4] {'b'}`."""
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", found[2]))
    return devices
