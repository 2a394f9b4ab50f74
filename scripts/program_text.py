"""A reader of the text of a compiled program: computations, instructions, numbers of loop turns.

`compiled.as_text()` is a list of computations. A computation that is called runs as often as the
one that calls it. The body of a loop runs as often as the compiler's note says; without a note the
condition of the loop tells it, since a scan counts from 0 and compares with its length.
"""

import math
import re
from collections.abc import Iterator, Mapping

# Instructions by which devices exchange data.
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}  # the other names end in the number of bits

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.+)$")
_OPERATION = re.compile(r"(?:^|\s)([a-z][\w\-]*)\(")
_CALLS = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
    r"|branch_computations=\{([^}]*)\}|called_computations=\{([^}]*)\}"
)
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')


def device_count(text: str) -> int:
    """Returns how many devices the program runs on."""
    first = text.partition("\n")[0]
    counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", first)
    return math.prod(map(int, counts))


def computations_of(text: str) -> tuple[Mapping[str, list[str]], str]:
    """Returns the lines of each computation by its name, and the name of the entry computation."""
    computations, entry, lines = {}, "", []
    for line in text.splitlines():
        head = re.match(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$", line)
        if head and " = " not in line.split("(")[0]:
            lines = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif " = " in line:
            lines.append(line)
    return computations, entry


def parse(line: str) -> tuple[str, str, str, tuple[str, ...], str]:
    """Returns an instruction's name, shape, operation, operands, and the text after its name."""
    name, rest = _INSTRUCTION.match(line).groups()
    operation = _OPERATION.search(rest)
    if not operation:
        return name, rest, "", (), rest
    inside = rest[operation.end() : rest.index(")", operation.end())]
    operands = tuple(x.split("%")[-1].strip() for x in inside.split(",")) if inside else ()
    return name, rest[: operation.start()].strip(), operation[1], operands, rest


def trips(rest: str, computations: Mapping[str, list[str]]) -> int | None:
    """Returns how often the body of a `while` instruction runs, or None if this is not known."""
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
    """Yields the names of the computations that an instruction calls."""
    for one, *several in _CALLS.findall(rest):
        for name in [one, *",".join(several).split(",")]:
            if name.strip():
                yield name.strip().lstrip("%")


def array_bits(dtype: str, sides: str) -> int:
    """Returns the size in bits of an array whose shape is written as `dtype[sides]`."""
    bits = _BITS.get(dtype) or int(re.search(r"\d+", dtype)[0])
    return bits * math.prod(int(side) for side in sides.split(",") if side)


def estimated_cycles(rest: str) -> int | None:
    """Returns the cycles that the compiler expects of an instruction, or None if it says nothing.

    Of some instructions it says 2⁶³ - 1, which is no estimate.
    """
    found = re.search(r'"estimated_cycles":"(\d+)"', rest)
    return int(found[1]) if found and int(found[1]) < 2**63 - 1 else None
