"""A reader of the final bundles of one kernel, as the compiler for TPUs writes them.

A bundle is one line, or several with the comments in it, and holds instructions that are issued
together: `0x2 LB: > { %s1_s9 = sadd.s32 1, %s2_s9 ;; … } /* Start region 10 */`. Registers have a
name for each value that they take, with the register itself at the end.
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple


class Operation(NamedTuple):
    """An instruction of a bundle: `name`, or `start` and `wait` for those of copies."""

    result: str  # the name of a register, or the address of a scalar in memory
    name: str
    operands: tuple[str, ...]
    guard: str  # the predicate under which it is executed, as "%p1" or "!%p1", or ""
    otherwise: str  # the register that the result equals if it is not executed, or ""


class Bundle(NamedTuple):
    """The instructions of a bundle, of those on which the flow of control depends."""

    operations: list[Operation]
    regions: list[int]  # the regions of code that begin here
    unnamed: bool  # code begins here that branches jump to, without a note of its region


def bundles_of(text: str) -> list[Bundle]:
    """Returns the bundles of a kernel, with the operations on which its flow of control depends.

    These are branches, calls, starts of copies, waits for them, and all operations on scalars from
    which they get what they depend on.

    Raises:
        ValueError: there is another kind of branch than the compiler writes today.
    """
    bundles = list(_parse(text))
    _keep_what_matters(bundles)
    return bundles


_BUNDLE = re.compile(r"^ *(?:0x[0-9a-f]+|0) +(?:[A-Z]{2})? *:[ >]*\{", re.MULTILINE)
_REGION = re.compile(r"Start(?:/End empty)? region (\d+)")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_FLAG = re.compile(r"dst_syncflagno=\*/ *(%\w+|\[[^\]]*\])")
_INSTRUCTION = re.compile(r"^\s*%(\w+) = ([\w.\-]+)\s*(.*)$", re.DOTALL)
_GUARD = re.compile(r"\((!?%\w+)(?:, *(%\w+))?\)")
_OPERAND = re.compile(r"\[[^\]]*\]+|[^\s,]+")
_MEMORY = re.compile(r"\[smem:\[(#\w+(?: \+ \$0x[0-9a-f]+)?)\]\]")


def _parse(text: str) -> Iterator[Bundle]:
    places = [*(found.start() for found in _BUNDLE.finditer(text)), len(text)]
    for start, end in itertools.pairwise(places):
        bundle = text[start:end]
        regions = [int(found) for found in _REGION.findall(bundle)]
        body = bundle[bundle.index("{") + 1 :]
        operations = (_operation(part) for part in body.split(";;"))
        unnamed = bundle[: bundle.index("{")].split(":")[0].endswith("PF") and not regions
        yield Bundle([x for x in operations if x], regions, unnamed)


def _operation(part: str) -> Operation | None:
    flag = _FLAG.search(part)
    found = _INSTRUCTION.match(_COMMENT.sub(" ", part).replace("}", " "))
    if not found:
        return None
    result, name, rest = found.groups()
    if name[0] == "v" or name == "inlined_call_operand.vmem":
        return None  # an instruction on vectors
    if name.startswith("sbr") and name != "sbr.rel":
        raise ValueError(f"a branch of an unknown kind, {name}")
    guard = _GUARD.search(rest)
    memory = _MEMORY.search(rest)
    operands = tuple(_OPERAND.findall(_GUARD.sub(" ", rest)))
    if name.startswith("dma.") and flag:
        name, operands = "start", (flag[1],)
    elif name == "dma.done.wait":
        name, operands = "wait", operands[:1]
    elif name == "sst" and memory:
        result, operands = memory[1], operands[-1:]
    elif name == "sld" and memory:
        operands = (memory[1],)
    elif name == "sst":
        return None
    elif name == "inlined_call":
        operands = ()
    result = result if result[0] == "#" else f"%{result}"
    condition, otherwise = guard.groups(default="") if guard else ("", "")
    return Operation(result, name, operands, condition, otherwise)


def _keep_what_matters(bundles: list[Bundle]) -> None:
    """Drops the operations that no branch, no start of a copy and no wait depends on."""
    made: dict[str, list[Operation]] = {}
    for bundle in bundles:
        for one in bundle.operations:
            made.setdefault(one.result, []).append(one)
    effects = {"sbr.rel", "start", "wait", "inlined_call"}
    ahead = [x for bundle in bundles for x in bundle.operations if x.name in effects]
    kept = {id(x) for x in ahead}
    while ahead:
        one = ahead.pop()
        for name in (*one.operands, one.guard, one.otherwise):
            for other in made.get(name.lstrip("!"), ()):
                if id(other) not in kept:
                    kept.add(id(other))
                    ahead.append(other)
    for bundle in bundles:
        bundle.operations[:] = [x for x in bundle.operations if id(x) in kept]
