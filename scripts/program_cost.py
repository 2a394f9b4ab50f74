"""The cost of a compiled program for one device, read from its text: memory traffic and cycles.

The compiler's own `cost_analysis()` counts the body of a loop once. Here it counts as often as it
runs. A loop whose end depends on the data, such as the loop of the matching, counts once.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from scripts.program_text import (
    COLLECTIVES,
    array_bits,
    called,
    computations_of,
    estimated_cycles,
    parse,
    trips,
)

_PLACED = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^}]*\})?")
_SHAPES = re.compile(rf"({_PLACED.pattern})")
# These instructions name arrays and move none.
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id",
    "replica-id", "iota", "optimization-barrier", "copy-done", "slice-done", "all-gather-done",
    "all-reduce-done", "collective-permute-done", "async-done",
}  # fmt: skip
# For each instruction, the operand that it writes into the place of its first operand.
_IN_PLACE = {"dynamic-update-slice": 1, "scatter": 2}
_INSIDE = {"while", "conditional", "call"}


class Cost(NamedTuple):
    """The cost of one run of a program for one device."""

    bytes: int  # read from and written to the main memory, without layouts' padding or a cache
    cycles: int  # sum of the compiler's estimates of all instructions; 0 if it gives none


def cost(text: str) -> Cost:
    """Returns the sum over all instructions of the entry computation and of its loops."""
    computations, entry = computations_of(text)
    parsed: dict[str, dict[str, _Instruction]] = {}

    def instructions(name):
        if name not in parsed:
            parsed[name] = dict(_instructions(computations[name]))
        return parsed[name]

    def total(name):
        moved = cycles = 0
        for one in instructions(name).values():
            cycles += estimated_cycles(one.rest) or 0
            if one.kind in _INSIDE:
                turns = (trips(one.rest, computations) or 1) if one.kind == "while" else 1
                inner = [total(x) for x in called(one.rest) if x in computations]
                moved += turns * sum(x.bytes for x in inner)
                cycles += turns * sum(x.cycles for x in inner)
            elif one.kind == "fusion":
                body = next(x for x in called(one.rest) if x in computations)
                moved += _fusion_bytes(one, instructions(name), instructions(body))
            elif one.kind not in _FREE:
                moved += _plain_bytes(one, instructions(name))
        return Cost(moved, cycles)

    return total(entry)


class _Instruction(NamedTuple):
    kind: str
    shape: str
    operands: tuple[str, ...]
    rest: str
    root: bool


def _instructions(lines: list[str]) -> Iterator[tuple[str, _Instruction]]:
    for line in lines:
        name, shape, kind, operands, rest = parse(line)
        yield name, _Instruction(kind, shape, operands, rest, line.lstrip().startswith("ROOT"))


def memory_bytes(shape: str) -> int:
    """Returns the bytes of a shape or tuple in main memory, which is not space S(1) or above."""
    total = 0
    for dtype, sides, layout in _PLACED.findall(shape):
        if re.search(r"S\([1-9]", layout):
            continue
        total += array_bits(dtype, sides) // 8
    return total


def _plain_bytes(one: _Instruction, around: Mapping[str, _Instruction]) -> int:
    shapes = [around[name].shape if name in around else "" for name in one.operands]
    return _read_and_written(one, shapes)


def _read_and_written(one: _Instruction, shapes: list[str]) -> int:
    """Returns the bytes that an instruction reads and writes.

    A slice or a gather reads as much as it returns. An update reads and writes what it replaces.
    """
    sizes = [memory_bytes(shape) for shape in shapes]
    result = memory_bytes(one.shape)
    if one.kind in ("dynamic-slice", "gather", "slice"):
        return result + min(sizes[0], _plain_size(one.shape)) + sum(sizes[1:])
    if one.kind == "dynamic-update-slice":
        return 2 * sizes[1]
    if one.kind == "scatter":
        return 3 * sizes[2] + sizes[1]
    return result + sum(sizes)


def _plain_size(shape: str) -> int:
    return memory_bytes(re.sub(r"\{[^}]*\}", "", shape))


def _fusion_bytes(
    fusion: _Instruction, around: Mapping[str, _Instruction], body: Mapping[str, _Instruction]
) -> int:
    def source(name):
        while name in body and body[name].kind == "bitcast":
            name = body[name].operands[0]
        return name

    def part(user, name):
        """Returns the bytes that an instruction reads of an operand, or None for all of it."""
        if user.kind == "tuple" or user.kind in COLLECTIVES:
            # The operand is passed on, or sent, which takes no time of this memory.
            return 0
        if source(user.operands[0]) == name:
            if user.kind in _IN_PLACE:
                return 0
            if user.kind in ("dynamic-slice", "gather", "slice"):
                return _plain_size(user.shape)
        return None

    def written(name):
        one = body[source(name)]
        if one.kind == "parameter" or one.kind in COLLECTIVES:
            return 0
        if one.kind in _IN_PLACE:
            update = body.get(source(one.operands[_IN_PLACE[one.kind]]))
            return 2 * _plain_size(update.shape) if update else 0
        return None

    total = 0
    for name, one in body.items():
        if one.kind != "parameter":
            continue
        operand = around.get(fusion.operands[int(re.search(r"parameter\((\d+)\)", one.rest)[1])])
        size = memory_bytes(operand.shape) if operand else 0
        users = (
            x for x in body.values() if x.kind != "bitcast" and name in map(source, x.operands)
        )
        parts = [part(user, name) for user in users]
        total += size if None in parts else min(size, sum(parts))
    root = next(name for name, one in body.items() if one.root)
    results = body[root].operands if body[root].kind == "tuple" else (root,)
    shapes = [x[0] for x in _SHAPES.findall(fusion.shape)]
    for name, shape in zip(results, shapes, strict=False):
        size, update = memory_bytes(shape), written(name)
        total += size if update is None else min(size, update)
    return total
