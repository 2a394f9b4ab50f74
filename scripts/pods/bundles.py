"""A count of the bundles that one kernel of a TPU program executes, from the text of its bundles.

A TPU core issues one bundle of instructions in each cycle. The compiler writes the final bundles of
each kernel as text, but not how often its loops turn. So the kernel's flow of control is executed
here: the scalars that its branches depend on, and nothing else. What depends on the data, or on an
instruction that is not in `_OPERATIONS`, is unknown: a region that an unknown condition guards runs
once, and a loop that an unknown condition ends turns once. The number of bundles is a floor of
the cycles because memory may be slower.
"""

import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from scripts.pods.bundle_text import Bundle, Operation, bundles_of

# Assumed: the cycles from the start of a copy between memories (DMA) until it is done. A wait for
# a copy that was started earlier than that costs nothing.
COPY_CYCLES = 1000
_DELAY_SLOTS = 4  # bundles after a branch that are executed before it takes effect
_LONGEST = 100_000_000  # bundles with scalars, branches or waits, after which execution is given up


class Count(NamedTuple):
    """What a kernel executes."""

    bundles: int = 0  # one a cycle
    waits: int = 0  # waits for copies between memories
    stalls: int = 0  # cycles of these waits if each copy takes COPY_CYCLES
    unknown: int = 0  # branches that were executed though their condition is unknown

    def plus(self, other: "Count") -> "Count":
        """Returns the sum of both."""
        return Count(*map(operator.add, self, other))

    def times(self, turns: int) -> "Count":
        """Returns what several executions amount to."""
        return Count(*(turns * x for x in self))


def count(text: str) -> Count:
    """Executes the bundles of one kernel.

    Raises:
        ValueError: the text is not what the compiler writes today, or the kernel does not end.
    """
    bundles = bundles_of(text)
    if not bundles:
        raise ValueError("a kernel without bundles")
    try:
        return _Execution(bundles).run()
    except TypeError as error:
        raise ValueError(f"an operation has other operands than today: {error}") from error


# What a scalar is: a number of 32 bits; an address of a flag, with its base; True or False; or None
# where it is unknown.
Value = Any
_MASK = 0xFFFFFFFF
_ADDRESS = re.compile(r"\[(#\w+)(?: \+ \$0x([0-9a-f]+))?\]")


def _signed(x: int) -> int:
    return x - (1 << 32) if x & 0x80000000 else x


def _and(a: Value, b: Value) -> Value:
    return False if a is False or b is False else None if None in (a, b) else True


def _not(a: Value) -> Value:
    return None if a is None else not a


def _or(a: Value, b: Value) -> Value:
    return _not(_and(_not(a), _not(b)))


def _select(condition: Value, a: Value, b: Value) -> Value:
    if condition is None:
        return a if a == b else None
    return a if condition else b


def _number(function: Callable[[int, int], int]) -> Callable[[Value, Value], Value]:
    def apply(a, b):
        known = isinstance(a, int) and isinstance(b, int)
        return function(a, b) & _MASK if known else None

    return apply


def _comparison(
    compare: Callable[[int, int], bool], number: Callable[[int], int]
) -> Callable[[Value, Value], Value]:
    def apply(a, b):
        known = isinstance(a, int) and isinstance(b, int)
        return compare(number(a), number(b)) if known else None

    return apply


def _address(base: Value, offset: Value, _allocation: Value = None) -> Value:
    if isinstance(base, tuple) and isinstance(offset, int):
        return base[0], base[1] + offset
    return None


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "smov.u32": lambda a: a,
    "pmov": lambda a: a,
    "sld": lambda a: a,
    "sst": lambda a: a,
    "int_to_ptr.sflag": lambda *a: a[-1],
    "sadd.s32": _number(operator.add),
    "ssub.s32": _number(operator.sub),
    "smul.u32": _number(operator.mul),
    "smulhi.u32": _number(lambda a, b: a * b >> 32),
    "sand.u32": _number(operator.and_),
    "sor.u32": _number(operator.or_),
    "sxor.u32": _number(operator.xor),
    "sshll.u32": _number(lambda a, b: a << (b & 31)),
    "sshrl.u32": _number(lambda a, b: a >> (b & 31)),
    "sshra.s32": _number(lambda a, b: _signed(a) >> (b & 31)),
    "scalar_lea.sflag": _address,
    "scalar_select": _select,
    "pneg": _not,
    "por": _or,
    "pnand": lambda a, b: _not(_and(a, b)),
}
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _OPERATIONS[f"scmp.{_name}.u32.totalorder"] = _comparison(getattr(operator, _name), int)
    _OPERATIONS[f"scmp.{_name}.s32.totalorder"] = _comparison(getattr(operator, _name), _signed)


class _Execution:
    """An execution of bundles: the scalars, when each was written, and what was counted."""

    def __init__(self, bundles: list[Bundle]):
        self.bundles = bundles
        self.values: dict[str, Value] = {}
        self.written: dict[str, int] = {}  # the number of writes before the last one to a register
        self.writes = 0
        self.started: dict[Value, int] = {}  # the cycle at which the last copy of a flag began
        self.executed = self.waits = self.stalls = self.unknown = 0
        self.regions = {r: at for at, bundle in enumerate(bundles) for r in bundle.regions}
        # From each bundle, the next one that has an operation.
        self.next = [len(bundles)] * (len(bundles) + 1)
        for at in reversed(range(len(bundles))):
            self.next[at] = at if bundles[at].operations else self.next[at + 1]

    def run(self) -> Count:
        """Executes the bundles from the first to the last, and returns what was counted."""
        last = len(self.bundles) - 1
        at, stop = 0, last
        target = None  # where a branch leads to after the bundle `stop`
        for _ in range(_LONGEST):
            there = min(self.next[at], stop)
            self.executed += there - at + 1
            region = self.execute(self.bundles[there])
            if region is not None:
                if target is not None:
                    raise ValueError("a branch in the delay slots of another")
                stop, target = there + _DELAY_SLOTS, self.place(region, there)
            if there < stop:
                at = there + 1
            elif target is not None:
                at, stop, target = target, last, None
            else:
                return Count(self.executed, self.waits, self.stalls, self.unknown)
        raise ValueError("a kernel that does not end")

    def execute(self, bundle: Bundle) -> int | None:
        """Executes one bundle. Returns the region that a branch leads to, if it is taken."""
        target = None
        results = []
        # The first are those that give a register, at the head of a loop, another name.
        for one in sorted(bundle.operations, key=lambda x: x.name != "sphi"):
            guard = self.guard(one.guard)
            if one.name == "sphi":
                newest = max(one.operands, key=lambda x: self.written.get(x, -1))
                self.write(one.result, self.read(newest))
            elif one.name == "sbr.rel":
                self.unknown += guard is None
                if guard:
                    target = int(one.operands[-1].removeprefix("$region"))
            elif one.name == "inlined_call":
                # Another kernel takes long enough for the copies that were started before it.
                self.started = dict.fromkeys(self.started, -COPY_CYCLES)
            elif one.name in ("start", "wait"):
                if guard is not False:
                    self.copy(one)
            elif guard is not False or one.otherwise:
                results.append((one.result, self.result(one, guard)))
        for name, value in results:
            self.write(name, value)
        return target

    def place(self, region: int, branch: int) -> int:
        """Returns the bundle where a region begins that the bundle `branch` jumps to."""
        if region in self.regions:
            return self.regions[region]
        for at in range(branch, len(self.bundles)):
            if self.bundles[at].unnamed:
                return at
        raise ValueError(f"no region {region}, to which a branch leads")

    def result(self, one: Operation, guard: Value) -> Value:
        """Returns the value that an operation gives its result."""
        function = _OPERATIONS.get(one.name)
        value = function(*map(self.read, one.operands)) if function else None
        if one.otherwise:
            return _select(guard, value, self.read(one.otherwise))
        if one.result[0] == "#":
            return _select(guard, value, self.read(one.result))
        return value

    def copy(self, one: Operation) -> None:
        """Starts a copy, or waits for the last copy that was started with a flag."""
        flag = self.read(one.operands[0])
        now = self.executed + self.stalls
        if one.name == "start":
            self.started[flag] = now
            return
        # Nothing is known of a copy whose flag is unknown: it may have been started just now.
        started = now if flag is None else self.started.get(flag, now)
        self.waits += 1
        self.stalls += max(0, started + COPY_CYCLES - now)

    def guard(self, name: str) -> Value:
        """Returns whether something is executed, or None if this is unknown."""
        return self.read(name) if name else True

    def read(self, name: str) -> Value:
        """Returns the value of a register, of a scalar in memory, of a number or of an address."""
        if name[0] == "!":
            return _not(self.read(name[1:]))
        if name[0] in "%#":
            return self.values.get(name)
        if found := _ADDRESS.fullmatch(name):
            return found[1], int(found[2] or "0", 16)
        return int(name) & _MASK if re.fullmatch(r"-?\d+", name) else None

    def write(self, name: str, value: Value) -> None:
        """Sets a register or a scalar in memory."""
        self.values[name] = value
        self.written[name] = self.writes
        self.writes += 1
